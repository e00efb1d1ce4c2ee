//! Query parameters: each known by name, given once, checked.

use std::fmt::Display;
use std::str::FromStr;

use hyper::Uri;

use crate::problem::Problem;

/// The parameters that nobody has asked for yet.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if params.iter().any(|(known, _)| *known == name) {
                return Err(Problem::parameter(name.into_owned(), "is given twice"));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(params))
    }

    /// The value of `name`, if it is given.
    pub(super) fn take<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, Problem> {
        let Some(at) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        value.parse().map(Some).map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
    }

    /// The value of `name` among `choices`; the first of them if it is not given.
    pub(super) fn choose<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<T, Problem> {
        let Some(value) = self.take::<String>(name)? else { return Ok(choices[0].1) };
        let chosen = choices.iter().find(|(choice, _)| *choice == value).map(|(_, meaning)| *meaning);
        chosen.ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            Problem::parameter(name, format!("must be one of: {}", names.join(", ")))
        })
    }

    /// A whole number in `range`.
    pub(super) fn number(
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
    pub(super) fn finish(self, known: &'static str) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = if known.is_empty() {
                    "is unknown here, where no parameter is".to_owned()
                } else {
                    format!("is unknown here; known are: {known}")
                };
                Err(Problem::parameter(name, detail))
            }
        }
    }
}
