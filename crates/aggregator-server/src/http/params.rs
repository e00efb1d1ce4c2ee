//! Query parameters. Each is known by its name, given once, and checked.

use std::borrow::Cow;

use aggregator_core::{Cursor, EventId, InvalidField, Source, Timestamp, Topic, TopicSelector, Topics};
use hyper::Uri;
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The parameters of a request that its route has not taken yet.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut params: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| Problem::parameter("", "a name is not UTF-8"))?;
            let alike = params.iter().filter(|(known, _)| (known == REPEATED) == (name == REPEATED)).count();
            if alike == if name == REPEATED { Topics::MAX } else { MAX_PARAMS } {
                return Err(Problem::parameter(shorten(&name), "is one parameter too many"));
            }
            if name != REPEATED && params.iter().any(|(known, _)| *known == name) {
                return Err(Problem::parameter(shorten(&name), "is given twice"));
            }
            let value = decode(value).ok_or_else(|| Problem::parameter(shorten(&name), "is not UTF-8"))?;
            params.push((name, value));
        }
        Ok(Self(params))
    }

    /// The value of `name`, if it is given.
    pub(crate) fn take<T: FromParam>(&mut self, name: &'static str) -> Result<Option<T>, Problem> {
        let Some(at) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        T::from_param(&value).map(Some).map_err(|reason| Problem::parameter(name, reason))
    }

    /// The values of a parameter that may be given several times, in their order.
    pub(crate) fn take_all<T: FromParam>(&mut self, name: &'static str) -> Result<Vec<T>, Problem> {
        debug_assert_eq!(name, REPEATED);
        let values: Vec<_> = self.0.extract_if(.., |(known, _)| known == name).collect();
        let parse = |(_, value): (String, String)| {
            T::from_param(&value).map_err(|reason| Problem::parameter(name, reason))
        };
        values.into_iter().map(parse).collect()
    }

    /// The value of `name` among `choices`, if it is given.
    pub(crate) fn choose<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.take::<String>(name)? else { return Ok(None) };
        let chosen = choices.iter().find(|(choice, _)| *choice == value).map(|(_, meaning)| *meaning);
        chosen.map(Some).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            Problem::parameter(name, format!("must be one of: {}", names.join(", ")))
        })
    }

    /// A whole number in `range`.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, Problem> {
        let Some(value) = self.take::<String>(name)? else { return Ok(default) };
        value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            Problem::parameter(name, format!("must be a number from {} to {}", range.start(), range.end()))
        })
    }

    /// Refuses parameters that the route has not taken.
    pub(crate) fn finish(self, known: &'static str) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = if known.is_empty() {
                    "is unknown: this route takes no parameters".to_owned()
                } else {
                    format!("is unknown here; known are: {known}")
                };
                Err(Problem::parameter(shorten(&name), detail))
            }
        }
    }
}

/// The one parameter that may be given several times.
const REPEATED: &str = "topic";

/// No route has more parameters beside topics.
const MAX_PARAMS: usize = 16;

/// Decodes `application/x-www-form-urlencoded`, where a plus is a space.
pub(crate) fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// As much of an unknown name as is repeated to its sender.
fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}

/// What can be parsed from the text of a parameter.
pub(crate) trait FromParam: Sized {
    /// The error does not name the field: the name of the parameter stands before it.
    fn from_param(text: &str) -> Result<Self, String>;
}

impl FromParam for String {
    fn from_param(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl FromParam for EventId {
    fn from_param(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(reason)
    }
}

impl FromParam for Source {
    fn from_param(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(reason)
    }
}

impl FromParam for Topic {
    fn from_param(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(reason)
    }
}

impl FromParam for TopicSelector {
    fn from_param(text: &str) -> Result<Self, String> {
        text.parse().map_err(reason)
    }
}

impl FromParam for Cursor {
    fn from_param(text: &str) -> Result<Self, String> {
        text.parse().map_err(reason)
    }
}

impl FromParam for Timestamp {
    fn from_param(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| match text.rsplit_once(' ') {
            Some((local, offset)) if format!("{local}+{offset}").parse::<Self>().is_ok() => {
                format!("has no offset. A plus sign in a URL means a space: write {local}%2B{offset}")
            }
            _ => reason(error),
        })
    }
}

fn reason(error: InvalidField) -> String {
    error.reason
}
