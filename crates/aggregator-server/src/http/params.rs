//! Query parameters: each known by name, given once, checked.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use hyper::Uri;
use percent_encoding::percent_decode_str;

use crate::http::problem::Problem;

/// The parameters that nobody has asked for yet.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut params: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| Problem::parameter("", "a name is not UTF-8"))?;
            if params.len() == MAX_PARAMS {
                return Err(Problem::parameter(shorten(&name), "is one parameter too many"));
            }
            if params.iter().any(|(known, _)| *known == name) {
                return Err(Problem::parameter(shorten(&name), "is given twice"));
            }
            let value = decode(value).ok_or_else(|| Problem::parameter(shorten(&name), "is not UTF-8"))?;
            params.push((name, value));
        }
        Ok(Self(params))
    }

    /// The value of `name`, if it is given.
    pub(crate) fn take<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, Problem> {
        let Some(at) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        value.parse().map(Some).map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
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

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self, known: &'static str) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = if known.is_empty() {
                    "is unknown here, where no parameter is".to_owned()
                } else {
                    format!("is unknown here; known are: {known}")
                };
                Err(Problem::parameter(shorten(&name), detail))
            }
        }
    }
}

/// No route knows more.
const MAX_PARAMS: usize = 16;

/// `application/x-www-form-urlencoded`: a plus is a space.
pub(crate) fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// So much of an unknown name is repeated to its sender.
fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}
