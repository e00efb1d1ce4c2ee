//! Numbers of bytes, as people write them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes: `1048576`, `64KiB`, `16MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub usize);

impl ByteSize {
    const UNITS: [(&'static str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

    /// In KiB, rounded up.
    pub(crate) fn kib(self) -> usize {
        self.0.div_ceil(1024)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = Self::UNITS.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        number
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| "is not a number of bytes, like 65536, 64KiB or 16MiB".into())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in Self::UNITS {
            if self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_read_and_shown() {
        for (text, bytes) in
            [("1", 1), ("65536", 65536), ("64KiB", 65536), ("16MiB", 16 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes);
        }
        assert_eq!(ByteSize(16 << 20).to_string(), "16MiB");
        assert_eq!(ByteSize(1500).to_string(), "1500");
        for text in ["", "0", "-1", "1.5MiB", "1MB", "MiB", "99999999999999999999"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }
}
