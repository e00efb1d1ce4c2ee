//! Where the parts of a run lie: the keys of its rows, and which of its sections has a fingerprint.

use std::ops::Range;

use super::fingerprint::BITS;

/// Bits of a run's number, a section's within its run, and a chunk's within its section, in the key of a
/// row: 63 altogether.
const SECTION_BITS: u32 = 24;
const CHUNK_BITS: u32 = 16;
pub(crate) const MAX_RUN: u32 = (1 << (63 - SECTION_BITS - CHUNK_BITS)) - 1;
pub(crate) const MAX_SECTION_BITS: u32 = SECTION_BITS;

pub(crate) fn section_key(run: u32, number: u32) -> i64 {
    (i64::from(run) << SECTION_BITS) + i64::from(number)
}

pub(crate) fn chunk_key(run: u32, section: u32, number: u32) -> i64 {
    (section_key(run, section) << CHUNK_BITS) + i64::from(number)
}

/// The fingerprints of a section, of which its run has 2^`bits`.
pub(crate) fn fingerprints(bits: u32, section: u32) -> Range<u64> {
    let width = 1 << (BITS - bits);
    let start = u64::from(section) * width;
    start..start + width
}

/// Where in its section a fingerprint is, as a fraction of 2^64.
pub(crate) fn fraction(bits: u32, fingerprint: u64) -> u64 {
    fingerprint << (u64::BITS - BITS + bits)
}

/// How many sections, of 2^`bits`, lie before `from` altogether.
pub(crate) fn passed(bits: u32, from: u64) -> u32 {
    u32::try_from(from >> (BITS - bits))
        .expect("a run has at most 2^24 sections, and a unit four times as many maplets")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores of this format have them already.
    #[test]
    fn the_keys_of_rows_stay_what_they_are() {
        assert_eq!(section_key(1, 2), 0x0100_0002);
        assert_eq!(chunk_key(1, 2, 3), 0x0100_0002_0003);
        assert_eq!(chunk_key(MAX_RUN, (1 << MAX_SECTION_BITS) - 1, u32::from(u16::MAX)), i64::MAX);
    }
}
