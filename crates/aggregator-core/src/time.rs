//! Instants: microseconds in the store, RFC 3339 for people.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

use crate::InvalidField;

/// An instant in microseconds since 1970-01-01T00:00:00Z, between the years 1 and 9999.
///
/// Shown in RFC 3339, always in UTC and with six digits: `2026-01-01T00:00:00.000001Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    const MIN_MICROS: i64 = -62_135_596_800_000_000;
    const MAX_MICROS: i64 = 253_402_300_799_999_999;

    /// The earliest instant there is.
    pub const MIN: Self = Self(Self::MIN_MICROS);

    /// The wall clock's present; the nearest timestamp there is if the clock is beyond all of them.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// `None` for [`Self::MIN`], the time of a store that has none yet.
    pub fn after_the_first(self) -> Option<Self> {
        (self > Self::MIN).then_some(self)
    }

    /// From microseconds since 1970, clamped to the years 1 to 9999.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(Self::MIN_MICROS, Self::MAX_MICROS))
    }

    /// Microseconds since 1970.
    pub fn as_micros(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    /// Clamped to the years 1 to 9999, and cut off at the microsecond.
    fn from(time: SystemTime) -> Self {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1_000_000))
            .expect("a Timestamp lies between the years 1 and 9999");
        // Every reply and every event of a page has one or two of these, and `write!` with its widths
        // takes six times as long.
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut text[0..4], at.year().unsigned_abs());
        put_digits(&mut text[5..7], u8::from(at.month()).into());
        put_digits(&mut text[8..10], at.day().into());
        put_digits(&mut text[11..13], at.hour().into());
        put_digits(&mut text[14..16], at.minute().into());
        put_digits(&mut text[17..19], at.second().into());
        let micros = u32::try_from(self.0.rem_euclid(1_000_000)).expect("it is below a million");
        put_digits(&mut text[20..26], micros);
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

/// The last decimal digits of `number`, as many as there is room for.
fn put_digits(room: &mut [u8], mut number: u32) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit is below 10");
        number /= 10;
    }
}

impl FromStr for Timestamp {
    type Err = InvalidField;

    /// Parses RFC 3339 with any offset; digits beyond the microsecond are cut off, and a leap second becomes the
    /// last microsecond before it ends.
    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let micros = parse_rfc3339(text)?.unix_timestamp_nanos().div_euclid(1_000);
        i64::try_from(micros)
            .ok()
            .filter(|micros| (Self::MIN_MICROS..=Self::MAX_MICROS).contains(micros))
            .map(Self)
            .ok_or_else(|| InvalidField::new("timestamp", "must lie between the years 1 and 9999"))
    }
}

/// Checks that `text` is an RFC 3339 date and time of at most 64 bytes.
pub(crate) fn check_rfc3339(text: &str) -> Result<(), InvalidField> {
    parse_rfc3339(text).map(drop)
}

/// The same for a timestamp that a store holds already: earlier versions took any byte between date and time.
pub(crate) fn check_stored(text: &str) -> Result<(), InvalidField> {
    parse(text).map(drop)
}

fn parse_rfc3339(text: &str) -> Result<OffsetDateTime, InvalidField> {
    // Section 5.6: `T`, which may be in lower case, or a space where people read it. The parser takes any byte.
    match text.as_bytes().get("2026-01-31".len()) {
        Some(b'T' | b't' | b' ') => parse(text),
        _ => Err(not_rfc3339()),
    }
}

fn parse(text: &str) -> Result<OffsetDateTime, InvalidField> {
    const MAX_BYTES: usize = 64;
    if text.len() > MAX_BYTES {
        return Err(InvalidField::new(
            "timestamp",
            format!("has {} bytes, at most {MAX_BYTES} are allowed", text.len()),
        ));
    }
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| not_rfc3339())
}

fn not_rfc3339() -> InvalidField {
    InvalidField::new(
        "timestamp",
        "must be an RFC 3339 date and time with an offset, like 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00",
    )
}

/// Where a store reads the time from. The wall clock may jump; stores see to it that `processed_at`
/// does not.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The wall clock.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_timestamp_is_shown_as_it_is_parsed(micros in Timestamp::MIN_MICROS..=Timestamp::MAX_MICROS) {
            let timestamp = Timestamp::from_micros(micros);
            let shown = timestamp.to_string();
            prop_assert_eq!(shown.parse::<Timestamp>().unwrap(), timestamp);
        }
    }

    #[test]
    fn rfc_3339_comes_back_in_utc_with_six_digits() {
        for (sent, shown) in [
            ("2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000001Z"),
            ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00.000000Z"),
            ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
            ("2026-01-01t00:00:00z", "2026-01-01T00:00:00.000000Z"),
            ("2026-01-01 00:00:00Z", "2026-01-01T00:00:00.000000Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(sent.parse::<Timestamp>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_clock_beyond_all_timestamps_gives_the_nearest_one() {
        const YEAR: Duration = Duration::from_secs(31_556_952);
        for (clock, shown) in [
            (UNIX_EPOCH - Duration::from_nanos(1), "1970-01-01T00:00:00.000000Z"),
            (UNIX_EPOCH - Duration::from_micros(1), "1969-12-31T23:59:59.999999Z"),
            (UNIX_EPOCH - 5_000 * YEAR, "0001-01-01T00:00:00.000000Z"),
            (UNIX_EPOCH + 10_000 * YEAR, "9999-12-31T23:59:59.999999Z"),
            (UNIX_EPOCH + 1_000_000_000 * YEAR, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(Timestamp::from(clock).to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for text in [
            "",
            "now",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-01-01 00:00:00",
            "2026-01-01_00:00:00Z",
            "2026-01-01x00:00:00Z",
            "2026-01-01+00:00:00Z",
            "2026-01-01T00:00:60Z",
            "1735689600",
            "0000-06-01T00:00:00Z",
            "0001-01-01T00:00:00+23:00",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
        let with_digits = |digits| format!("2026-01-01T00:00:00.{:0>digits$}Z", "");
        assert!(with_digits(64 - 21).parse::<Timestamp>().is_ok(), "it has 64 bytes");
        assert!(with_digits(65 - 21).parse::<Timestamp>().is_err(), "it has 65 bytes");
        assert!(check_stored("2026-01-01_00:00:00Z").is_ok(), "what was taken once can still be moved");
        assert!(check_stored("2026-01-01_00:00:00").is_err());
    }
}
