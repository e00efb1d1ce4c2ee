//! The options of a run as they are shown: without secrets, and as a command that repeats the run.

use clap::{CommandFactory as _, ValueEnum};

use crate::config::{Config, Ratio};
use crate::security::KEY_VARIABLE;

/// An option and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name, without the dashes.
    pub option: &'static str,
    /// Its value as it is given; empty for a flag.
    pub value: String,
    /// Whether it need not be given.
    pub is_default: bool,
}

/// What is shown in place of the name of a file of keys or certificates: it says where somebody keeps them.
const SOME_FILE: &str = "FILE";

impl Config {
    /// All options that decide what a run does, with the seed that was given or drawn. Options that are not given and have no
    /// default are left out.
    #[must_use]
    pub fn settings(&self, seed: u64) -> Vec<Setting> {
        let defaults = Self::command();
        let default_of = |option: &str| {
            let argument = defaults.get_arguments().find(|argument| argument.get_long() == Some(option));
            argument.and_then(|argument| argument.get_default_values().first()?.to_str().map(str::to_owned))
        };
        let given = self.given(seed).into_iter().filter_map(|(option, value)| {
            let value = value?;
            let is_default = default_of(option).is_some_and(|default| default == value);
            Some(Setting { option, value, is_default })
        });
        given.collect()
    }

    /// The values of all options; `None` where there is none.
    fn given(&self, seed: u64) -> Vec<(&'static str, Option<String>)> {
        let Self { security, retry, faults, .. } = self;
        let number = |number: u32| Some(number.to_string());
        let share = |share: Option<Ratio>| share.map(|share| share.get().to_string());
        let flag = |given: bool| given.then(String::new);
        let file = |given: bool| given.then(|| SOME_FILE.to_owned());
        vec![
            ("url", Some(self.url.to_string())),
            ("events", number(self.events)),
            ("dup", share(Some(self.dup))),
            ("batch", number(self.batch)),
            ("concurrency", number(self.concurrency)),
            ("rate", number(self.rate)),
            ("topics", number(self.topics)),
            ("topic-prefix", Some(self.topic_prefix.to_string())),
            ("ids", name(&self.ids)),
            ("payload-bytes", number(self.payload_bytes)),
            ("seed", Some(seed.to_string())),
            ("verify", flag(self.verify)),
            ("verify-by", name(&self.verify_by)),
            ("sequences", flag(self.sequences)),
            ("key-file", file(security.key_file.is_some())),
            ("ca-file", file(security.ca_file.is_some())),
            ("tls-cert", file(security.tls_cert.is_some())),
            ("tls-key", file(security.tls_key.is_some())),
            ("connect-timeout-ms", number(retry.connect_timeout_ms)),
            ("request-timeout-ms", number(retry.request_timeout_ms)),
            ("retry-base-ms", number(retry.retry_base_ms)),
            ("retry-cap-ms", number(retry.retry_cap_ms)),
            ("retry-attempts", number(retry.retry_attempts)),
            ("retry-deadline-ms", number(retry.retry_deadline_ms)),
            ("drop-replies", share(faults.drop_replies)),
            ("delay", faults.delay_ms.and_then(number)),
            ("reorder", faults.reorder.and_then(number)),
            ("bursts", share(faults.bursts)),
            ("conflicts", share(faults.conflicts)),
            ("chaos", flag(faults.chaos)),
            ("drop", share(faults.drop)),
            ("late", share(faults.late)),
            ("late-by", number(faults.late_by)),
        ]
    }

    /// The command that makes the same run again. Where a file or a key is needed, it says so and not which.
    #[must_use]
    pub fn command_line(&self, seed: u64) -> String {
        let has_key = self.security.key_file.is_none() && self.security.key.is_some();
        let mut command =
            if has_key { format!("{KEY_VARIABLE}=KEY publisher-sim") } else { "publisher-sim".to_owned() };
        for Setting { option, value, is_default } in self.settings(seed) {
            // The server is named in any case: it is the first thing to change.
            if is_default && option != "url" {
                continue;
            }
            command.push_str(" --");
            command.push_str(option);
            if !value.is_empty() {
                command.push(' ');
                command.push_str(&quoted(&value));
            }
        }
        command
    }
}

fn name(value: &impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

/// The value as one word of a shell.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/,@%+=".contains(c);
    if value.chars().all(is_plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::security::Key;

    fn config(args: &str) -> Config {
        Config::try_parse_from(["publisher-sim"].into_iter().chain(args.split_whitespace())).unwrap()
    }

    #[test]
    fn every_option_is_shown_but_those_that_only_print() {
        let config = config("");
        let shown: Vec<_> = config.given(1).into_iter().map(|(option, _)| option).collect();
        let not_shown = ["help", "version", "json", "report"];
        for argument in Config::command().get_arguments() {
            let option = argument.get_long().unwrap();
            assert!(shown.contains(&option) != not_shown.contains(&option), "{option}");
        }
    }

    #[test]
    fn the_command_has_what_is_not_a_default_and_parses_to_the_same_run() {
        assert_eq!(config("").command_line(7), "publisher-sim --url http://127.0.0.1:8080 --seed 7");
        let given = "--url http://a.example/it's --events 9 --dup 0.5 --ids uuid4 --verify --seed 3 --chaos --late 0.25 --late-by 3";
        let command = config(given).command_line(3);
        let expected = r"publisher-sim --url 'http://a.example/it'\''s' --events 9 --dup 0.5 --ids uuid4 --seed 3 --verify --chaos --late 0.25 --late-by 3";
        assert_eq!(command, expected);
        let again = command.replace(r"'http://a.example/it'\''s'", "http://a.example/it's");
        let again = config(again.strip_prefix("publisher-sim ").unwrap());
        assert_eq!(again.settings(3), config(given).settings(3));
    }

    #[test]
    fn no_secret_and_no_place_of_one_is_shown() {
        let mut config = config(
            "--key-file /home/ann/key --ca-file /home/ann/ca --tls-cert /home/ann/c --tls-key /home/ann/k",
        );
        let command = config.command_line(1);
        assert!(!command.contains("ann"), "{command}");
        assert!(
            command.contains("--key-file FILE --ca-file FILE --tls-cert FILE --tls-key FILE"),
            "{command}"
        );
        config.security.key_file = None;
        config.security.key = Key::new("agg_1_hidden".to_owned());
        let command = config.command_line(1);
        assert!(
            command.starts_with("PUBLISHER_KEY=KEY publisher-sim ") && !command.contains("hidden"),
            "{command}"
        );
    }
}
