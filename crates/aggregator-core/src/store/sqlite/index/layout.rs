//! Where the parts of a run lie: the keys of its rows, and the section of a fingerprint.

use std::ops::Range;

use super::fingerprint::BITS;

/// The key of a row has 63 bits: the number of the run, of the section in its run, and of the chunk in its section.
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

/// The fingerprints of a section in a run of 2^`bits` sections.
pub(crate) fn section_range(bits: u32, section: u32) -> Range<u64> {
    let width = 1 << (BITS - bits);
    let start = u64::from(section) * width;
    start..start + width
}

/// The place of a fingerprint in its section, as a fraction of 2^64.
pub(crate) fn fraction(bits: u32, fingerprint: u64) -> u64 {
    fingerprint << (u64::BITS - BITS + bits)
}

/// The section of a fingerprint in a run of 2^`bits` sections. So many sections lie wholly before it.
pub(crate) fn section_number(bits: u32, fingerprint: u64) -> u32 {
    u32::try_from(fingerprint >> (BITS - bits))
        .expect("a run has at most 2^24 sections, and a filter group four times as many maplets")
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
