//! The entries of consecutive offsets, by fingerprint.

use std::ops::Range;

use super::Place;
use super::fingerprint::BITS;
use super::section::Section;

/// Bits of a run's number, a section's within its run, and a chunk's within its section, in the key of a
/// row: 63 altogether.
const SECTION_BITS: u32 = 24;
const CHUNK_BITS: u32 = 16;
pub(super) const MAX_RUN: u32 = (1 << (63 - SECTION_BITS - CHUNK_BITS)) - 1;
pub(super) const MAX_SECTION_BITS: u32 = SECTION_BITS;

pub(super) fn section_key(run: u32, number: u32) -> i64 {
    (i64::from(run) << SECTION_BITS) + i64::from(number)
}

pub(super) fn chunk_key(run: u32, section: u32, number: u32) -> i64 {
    (section_key(run, section) << CHUNK_BITS) + i64::from(number)
}

/// The fingerprints of a section, of which its run has 2^`bits`.
pub(super) fn fingerprints(bits: u32, section: u32) -> Range<u64> {
    let width = 1 << (BITS - bits);
    let start = u64::from(section) * width;
    start..start + width
}

/// Where in its section a fingerprint is, as a fraction of 2^64.
pub(super) fn fraction(bits: u32, fingerprint: u64) -> u64 {
    fingerprint << (u64::BITS - BITS + bits)
}

/// What is in memory of a run, but for what is asked first ([`Unit`](super::unit::Unit)).
#[derive(Clone)]
pub(super) struct Run {
    pub(super) id: u32,
    pub(super) bits: u32,
    /// While it is merged: where it begins to answer. What comes before is with the new run.
    pub(super) from: u64,
    /// As many as are written; without those that lie before `from` altogether.
    pub(super) sections: Vec<Option<Section>>,
}

impl Run {
    fn section(&self, number: u32) -> Option<&Section> {
        self.sections.get(number as usize)?.as_ref()
    }

    /// Which of its chunks may hold the fingerprint, which it answers for.
    pub(super) fn chunks(&self, fingerprint: u64) -> Option<Place> {
        let number = passed(self.bits, fingerprint);
        let chunks = self.section(number)?.chunks(fingerprint..=fingerprint);
        let first = chunk_key(self.id, number, chunks.start);
        (!chunks.is_empty()).then(|| Place::Chunks { first, count: chunks.end - chunks.start })
    }

    /// The sections with some of these fingerprints.
    pub(super) fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u32, Section)> {
        let range = range.start.max(self.from)..range.end;
        let numbers = if range.is_empty() {
            0..0
        } else {
            passed(self.bits, range.start)..passed(self.bits, range.end - 1) + 1
        };
        numbers.filter_map(|number| Some((number, self.section(number)?.clone())))
    }

    /// Answers from `from` on only, and forgets what is not needed for that.
    pub(super) fn advance(&mut self, from: u64) {
        for number in passed(self.bits, self.from)..passed(self.bits, from) {
            self.sections[number as usize] = None;
        }
        self.from = from;
    }
}

/// How many sections, of 2^`bits`, lie before `from` altogether.
pub(super) fn passed(bits: u32, from: u64) -> u32 {
    u32::try_from(from >> (BITS - bits))
        .expect("a run has at most 2^24 sections, and a unit four times as many maplets")
}
