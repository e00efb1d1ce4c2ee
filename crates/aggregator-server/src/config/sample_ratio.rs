//! Which part of something is taken.

use std::fmt;
use std::str::FromStr;

/// A part of a whole, from 0 (nothing) to 1 (all of it).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRatio(f64);

impl SampleRatio {
    /// All of it.
    pub const ALL: Self = Self(1.0);

    pub(crate) fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for SampleRatio {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Self).ok_or("must be a number from 0 to 1, such as 0.01 for one in a hundred")
    }
}

impl fmt::Display for SampleRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_between_nothing_and_all() {
        for (text, ratio) in [("0", 0.0), ("1", 1.0), ("0.01", 0.01), ("1e-3", 0.001)] {
            assert_eq!(text.parse(), Ok(SampleRatio(ratio)));
        }
        assert_eq!(SampleRatio::ALL.to_string(), "1");
        for text in ["", "-0.1", "1.1", "NaN", "inf", "1%", "all"] {
            assert!(text.parse::<SampleRatio>().is_err(), "{text}");
        }
    }
}
