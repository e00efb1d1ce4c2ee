//! A number of bytes, as people write it.

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
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(meant(text).unwrap_or_else(|| EXPECTED.into()));
        }
        let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
        match bytes {
            Some(0) => Err("must be at least 1 byte".into()),
            Some(bytes) => Ok(Self(bytes)),
            None => Err("is more than this machine can address".into()),
        }
    }
}

const EXPECTED: &str = "must be a whole number of bytes, such as 65536, 64KiB or 16MiB";

/// What to write instead of a unit that is not accepted. `64MB` is ambiguous: some programs read 64 × 1000² bytes, others
/// 64 × 1024².
fn meant(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit.chars().next()?;
    let power = "kmg".find(letter)?;
    let (binary, shift) = (["KiB", "MiB", "GiB"][power], [10, 20, 30][power]);
    let number: usize = number.parse().ok()?;
    let bytes = number.checked_mul(1 << shift)?;
    let decimal = number.checked_mul(1000_usize.pow(u32::try_from(power).ok()? + 1))?;
    match &unit[1..] {
        "ib" => Some(format!("has a unit that is not known: write {number}{binary} ({bytes} bytes)")),
        "" | "b" => {
            Some(format!("has a unit with two meanings: write {number}{binary} ({bytes} bytes) or {decimal}"))
        }
        _ => None,
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
        for text in ["", "0", "0KiB", "-1", "+1", "1.5MiB", "1MB", "MiB", "1é", "99999999999999999999"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_unit_that_was_meant_is_named() {
        for (text, way_out) in [
            ("64MB", "write 64MiB (67108864 bytes) or 64000000"),
            ("64 MB", "write 64MiB (67108864 bytes) or 64000000"),
            ("2g", "write 2GiB (2147483648 bytes) or 2000000000"),
            ("64k", "write 64KiB (65536 bytes) or 64000"),
            ("64mib", "write 64MiB (67108864 bytes)"),
            ("1TB", EXPECTED),
            ("64MBit", EXPECTED),
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.ends_with(way_out), "{text}: {error}");
        }
    }
}
