//! The shapes of event_id that publishers use.
//!
//! Time and randomness come from outside, so the same event gets the same id in every run of a seed.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::Serialize;
use ulid::Ulid;
use uuid::Builder;

/// How event ids are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IdScheme {
    /// 26 characters, sorted by time
    Ulid,
    /// Random: no order at all, the hardest case for an index
    Uuid4,
    /// A UUID sorted by time (RFC 9562)
    Uuid7,
    /// `<source>-<epoch_ms>-<counter>-<hash>`, as hand-made ids look
    Composite,
}

/// What an id is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdParts<'a> {
    pub(crate) source: &'a str,
    pub(crate) epoch_ms: u64,
    pub(crate) counter: u32,
    pub(crate) random: u128,
}

impl IdScheme {
    /// Writes the id at the end of `out`. Letters, digits and `-` only: nothing that JSON would escape.
    pub(crate) fn write(self, parts: IdParts<'_>, out: &mut String) {
        let IdParts { source, epoch_ms, counter, random } = parts;
        let bytes = random.to_be_bytes();
        let written = match self {
            Self::Ulid => write!(out, "{}", Ulid::from_parts(epoch_ms, random)),
            Self::Uuid4 => write!(out, "{}", Builder::from_random_bytes(bytes).into_uuid()),
            Self::Uuid7 => {
                let [_, _, _, _, _, _, tail @ ..] = bytes;
                write!(out, "{}", Builder::from_unix_timestamp_millis(epoch_ms, &tail).into_uuid())
            }
            Self::Composite => {
                let [a, b, c, d, ..] = bytes;
                let hash = u32::from_be_bytes([a, b, c, d]);
                write!(out, "{source}-{epoch_ms}-{counter}-{hash:08x}")
            }
        };
        written.expect("a String takes all that is written to it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scheme: IdScheme, counter: u32, random: u128) -> String {
        let mut out = String::new();
        scheme.write(IdParts { source: "sim-3", epoch_ms: 1_700_000_000_123, counter, random }, &mut out);
        out
    }

    #[test]
    fn ids_have_the_shape_their_scheme_promises() {
        let random = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        let ulid = Ulid::from_string(&id(IdScheme::Ulid, 0, random)).unwrap();
        assert_eq!(ulid.timestamp_ms(), 1_700_000_000_123);
        let uuid4 = uuid::Uuid::parse_str(&id(IdScheme::Uuid4, 0, random)).unwrap();
        assert_eq!(uuid4.get_version_num(), 4);
        let uuid7 = uuid::Uuid::parse_str(&id(IdScheme::Uuid7, 0, random)).unwrap();
        assert_eq!(uuid7.get_version_num(), 7);
        assert_eq!(uuid7.get_timestamp().unwrap().to_unix(), (1_700_000_000, 123_000_000));
        assert_eq!(id(IdScheme::Composite, 9, random), "sim-3-1700000000123-9-01234567");
    }

    #[test]
    fn no_id_needs_escaping_or_more_than_256_bytes() {
        for scheme in IdScheme::value_variants() {
            let id = id(*scheme, u32::MAX, u128::MAX);
            assert!(id.len() <= 256);
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{id}");
        }
    }
}
