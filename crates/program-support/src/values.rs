//! Parsers for the values of options. What they refuse, they refuse with the limit and an example: clap puts the option
//! and the value before it.

use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::builder::{BoolishValueParser, TypedValueParser as _};

/// Parses a whole number from `min` up.
pub fn at_least<T: FromStr>(min: u64) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    whole_number(min..=u64::MAX, format!("must be a whole number from {min} up"))
}

/// Parses a whole number within `range`.
pub fn within<T: FromStr>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    let expected = format!("must be a whole number from {} to {}", range.start(), range.end());
    whole_number(range, expected)
}

fn whole_number<T: FromStr>(
    range: RangeInclusive<u64>,
    expected: String,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let in_range = text.parse().is_ok_and(|number: u64| range.contains(&number));
        in_range.then(|| text.parse().ok()).flatten().ok_or_else(|| expected.clone())
    }
}

/// Parses a span of time with its unit, such as `500ms`.
///
/// # Errors
/// With examples of what is right.
pub fn time_span(text: &str) -> Result<humantime::Duration, String> {
    text.parse().map_err(|_| "must be a number with a unit, such as 500ms, 30s or 2min".to_owned())
}

/// Parses the value that a flag has in the environment.
///
/// # Errors
/// With what is right.
pub fn flag(text: &str) -> Result<bool, String> {
    let parsed = BoolishValueParser::new().parse_ref(&clap::Command::new(""), None, text.as_ref());
    parsed.map_err(|_| "must be true or false".to_owned())
}
