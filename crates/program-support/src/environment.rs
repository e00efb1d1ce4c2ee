//! Options from environment variables.
//!
//! Clap reads the variable of each option. Three rules are added here: a variable that is empty counts as unset, a bad
//! value names the variable it came from, and a variable with the program's prefix that is no option's does not pass
//! unseen.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::builder::{Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};

/// From here on, two names are as near as a slip of the finger: one character in five.
const SLIP: f64 = 0.8;

/// From here on, a name is worth mentioning.
const SIMILAR: f64 = 0.5;

/// Options, and what there is to say about the environment they were read from.
#[derive(Debug)]
pub struct Parsed<P> {
    /// The options.
    pub options: P,
    /// A sentence for each variable that is no option's.
    pub warnings: Vec<String>,
}

/// Reads the options of this process from its arguments and its environment.
///
/// Every option's variable begins with `prefix`. The variables `others` do, too: the caller reads them.
///
/// # Errors
/// What is wrong with them, or the answer to `--help` or `--version`: the caller prints it and ends.
pub fn parse<P: Parser>(prefix: &str, others: &[&str]) -> Result<Parsed<P>, clap::Error> {
    let arguments: Vec<_> = env::args_os().collect();
    try_parse(prefix, others, &arguments).map_err(|error| match error.kind() {
        // Written with the variables that are empty.
        ErrorKind::DisplayHelp => P::command().try_get_matches_from(arguments).err().unwrap_or(error),
        _ => error,
    })
}

fn try_parse<P: Parser>(
    prefix: &str,
    others: &[&str],
    arguments: &[OsString],
) -> Result<Parsed<P>, clap::Error> {
    let mut command = P::command().mut_args(without_empty_variable);
    let matches = command
        .try_get_matches_from_mut(arguments)
        .map_err(|error| with_variable(error, &command, arguments))?;
    let options = command.get_arguments().filter_map(Arg::get_env).filter_map(OsStr::to_str);
    let known: Vec<_> = options.chain(others.iter().copied()).collect();
    let mut warnings = Vec::new();
    for stranger in strangers(prefix, &known, env::vars_os()) {
        let Stranger { name, nearest, is_slip } = &stranger;
        let mean = nearest.map(|nearest| format!(": did you mean {nearest}?")).unwrap_or_default();
        if *is_slip {
            let text = format!("the environment variable {name} belongs to no option{mean}");
            return Err(command.error(ErrorKind::UnknownArgument, text));
        }
        warnings
            .push(format!("the environment variable {name} belongs to no option and has no effect{mean}"));
    }
    Ok(Parsed { options: P::from_arg_matches(&matches)?, warnings })
}

/// Clap takes the value of a variable when the option is defined, and an empty one for a value. So an option whose
/// variable is empty loses it.
fn without_empty_variable(option: Arg) -> Arg {
    let is_empty = option.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { option.env(Resettable::Reset) } else { option }
}

/// The error, which says so if the value it is about came from the environment.
fn with_variable(mut error: clap::Error, command: &Command, arguments: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return error };
    let option = command.get_arguments().find(|option| option.to_string() == *shown);
    let from_variable = option.filter(|option| !is_given(option, arguments)).and_then(Arg::get_env);
    if let Some(variable) = from_variable {
        let tip = format!("the value comes from the environment variable {}", variable.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

fn is_given(option: &Arg, arguments: &[OsString]) -> bool {
    let long = option.get_long().map(|long| format!("--{long}"));
    let short = option.get_short().map(|short| format!("-{short}"));
    arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        let name = argument.split_once('=').map_or(argument, |(name, _)| name);
        long.as_deref() == Some(name) || short.as_deref().is_some_and(|short| argument.starts_with(short))
    })
}

/// A variable with our prefix that is no option's.
struct Stranger<'k> {
    name: String,
    /// The most similar of the options' variables.
    nearest: Option<&'k str>,
    /// Whether it is so near that a slip of the finger is all but certain.
    is_slip: bool,
}

fn strangers<'k>(
    prefix: &str,
    known: &[&'k str],
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<Stranger<'k>> {
    let mut strangers = Vec::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        let Some(own) = name.strip_prefix(prefix) else { continue };
        if value.is_empty()
            || known.contains(&name.as_str())
            || is_of_kubernetes(own, &value.to_string_lossy())
        {
            continue;
        }
        let likeness = |known: &str| strsim::normalized_damerau_levenshtein(own, &known[prefix.len()..]);
        let nearest = known.iter().map(|known| (likeness(known), *known)).max_by(|a, b| a.0.total_cmp(&b.0));
        let nearest = nearest.filter(|(likeness, _)| *likeness >= SIMILAR);
        let is_slip = nearest.is_some_and(|(likeness, _)| likeness >= SLIP);
        strangers.push(Stranger { name, nearest: nearest.map(|(_, known)| known), is_slip });
    }
    strangers.sort_by(|a, b| a.name.cmp(&b.name));
    strangers
}

/// Whether Kubernetes sets such a variable for a Service whose name begins as ours does: `…_SERVICE_HOST`,
/// `…_SERVICE_PORT[_NAME]`, `…_PORT` with a URL in it, `…_PORT_8080_TCP[_ADDR]`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let protocols = ["tcp://", "udp://", "sctp://"];
    let has_port_number =
        name.split("PORT_").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || (name.ends_with("PORT") && protocols.iter().any(|protocol| value.starts_with(protocol)))
        || has_port_number
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["A_LOG", "A_STORE", "A_QUEUE_EVENTS", "A_QUEUE_BYTES"];

    /// What becomes of a variable: nothing, or the nearest name and whether it is a slip.
    fn judge<'k>(name: &str, value: &str) -> Option<(Option<&'k str>, bool)> {
        let variables = [(OsString::from(name), OsString::from(value))];
        let found = strangers("A_", &KNOWN, variables.into_iter());
        found.first().map(|stranger| (stranger.nearest, stranger.is_slip))
    }

    #[test]
    fn a_slip_is_told_from_a_name_that_is_somebody_elses() {
        assert_eq!(judge("A_QUEUE_EVENTS", "1"), None);
        assert_eq!(judge("B_QUEU_EVENTS", "1"), None);
        for slip in ["A_QUEU_EVENTS", "A_QEUUE_EVENTS", "A_QUEUE_EVENT", "A_QUEUE__EVENTS", "A_QUEUE_EVNETS"]
        {
            assert_eq!(judge(slip, "1"), Some((Some("A_QUEUE_EVENTS"), true)), "{slip}");
        }
        assert_eq!(judge("A_STOR", "1"), Some((Some("A_STORE"), true)));
        // In a short name one other letter is another word.
        assert_eq!(judge("A_LOT", "1"), Some((Some("A_LOG"), false)));
        assert_eq!(judge("A_QUEUE_SIZE", "1"), Some((Some("A_QUEUE_BYTES"), false)));
        assert_eq!(judge("A_TEST_HOOK", "1"), Some((None, false)));
        assert_eq!(judge("A_QUEU_EVENTS", ""), None, "empty is unset");
    }

    #[test]
    fn what_kubernetes_sets_is_known_by_its_form() {
        for (name, value) in [
            ("A_SERVICE_HOST", "10.0.0.7"),
            ("A_SERVICE_PORT_HTTP", "8080"),
            ("A_PORT", "tcp://10.0.0.7:8080"),
            ("A_PORT_8080_TCP_PROTO", "tcp"),
            ("A_WEB_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
        ] {
            assert_eq!(judge(name, value), None, "{name}");
        }
        assert!(judge("A_PORT", "8080").is_some() && judge("A_PORT_NAME", "x").is_some());
    }
}
