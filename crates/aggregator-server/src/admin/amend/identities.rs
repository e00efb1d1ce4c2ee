//! The identities that a command is given: one, or a file of them.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use aggregator_core::{EventId, Identity, InvalidField, Source, Topic};
use serde_json::{Value, json};

use crate::http::identities::{Object, RequestedIdentity};

/// Why the input cannot be used. Nothing was erased or released then.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// An argument is no topic, no id, or no source.
    #[error(transparent)]
    Argument(#[from] InvalidField),
    /// The file cannot be read.
    #[error("--file {file}", file = file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A line is no identity.
    #[error("--file {file}, line {line}: {detail}", file = file.display())]
    Line {
        /// Which one.
        file: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no line.
    #[error("--file {file} names no event", file = file.display())]
    Empty {
        /// Which one.
        file: PathBuf,
    },
}

/// An identity as people see it.
pub(super) struct Named {
    pub(super) identity: Identity,
}

impl Named {
    pub(super) fn new(topic: &str, event_id: &str, source: Option<&str>) -> Result<Self, InputError> {
        let identity = Identity {
            topic: Topic::new(topic)?,
            event_id: EventId::new(event_id)?,
            source: source.map(Source::new).transpose()?,
        };
        Ok(Self { identity })
    }

    /// As requests have it.
    pub(super) fn json(&self) -> Value {
        let Identity { topic, event_id, source } = &self.identity;
        match source {
            Some(source) => {
                json!({"topic": topic.as_str(), "event_id": event_id.as_str(), "source": source.as_str()})
            }
            None => json!({"topic": topic.as_str(), "event_id": event_id.as_str()}),
        }
    }
}

/// As it can be shown, whatever an id has in it: characters that change how others are shown are escaped.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { topic, event_id, source } = &self.identity;
        write!(f, "{topic} {}", event_id.as_str().escape_debug())?;
        match source {
            Some(source) => write!(f, " of {}", source.as_str().escape_debug()),
            None => Ok(()),
        }
    }
}

/// All identities of a file, which is checked as a whole before anything is done: what is erased does not come back.
pub(super) fn of_file(file: &Path) -> Result<Vec<Named>, InputError> {
    let unreadable = |source| InputError::Unreadable { file: file.to_owned(), source };
    let all = if file == Path::new("-") {
        read(io::stdin().lock(), file)?
    } else {
        read(BufReader::new(File::open(file).map_err(unreadable)?), file)?
    };
    if all.is_empty() {
        return Err(InputError::Empty { file: file.to_owned() });
    }
    Ok(all)
}

fn read(input: impl BufRead, file: &Path) -> Result<Vec<Named>, InputError> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.map_err(|source| InputError::Unreadable { file: file.to_owned(), source })?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |detail| InputError::Line { file: file.to_owned(), line: number, detail };
        let requested: Object<RequestedIdentity> = serde_json::from_str(&line).map_err(|error| {
            wrong(format!("{error}: a line is like {}", r#"{"topic":"orders","event_id":"1"}"#))
        })?;
        let identity = requested.0.check().map_err(|error| wrong(error.to_string()))?;
        all.push(Named { identity });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_a_whole_and_a_wrong_line_is_named() {
        let of = |text: &str| read(text.as_bytes(), Path::new("f"));
        let text = "{\"topic\":\"t\",\"event_id\":\"a\u{202e}b\"}\n\n{\"topic\":\"t\",\"event_id\":\"1\",\"source\":\"s\"}";
        let shown: Vec<_> = of(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["t a\\u{202e}b", "t 1 of s"]);
        for (text, said) in [
            ("\n[\"t\",\"1\",null]", "--file f, line 2: "),
            ("{\"topic\":\"t\"}", "line 1: missing field `event_id`"),
            ("{\"topic\":\"a b\",\"event_id\":\"1\"}", "line 1: topic: "),
            ("{\"topic\":\"t\",\"event_id\":\"1\",\"seq\":1}", "line 1: unknown field"),
        ] {
            let error = of(text).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
