//! The entries of consecutive offsets, by fingerprint.

pub(crate) mod chunk;
pub(crate) mod section;

use std::ops::Range;

use self::section::Section;
use super::Place;
use super::layout::{chunk_key, passed};

/// What is in memory of a run, but for what is asked first ([`FilterGroup`](super::filter::filter_group::FilterGroup)).
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) bits: u32,
    /// While it is merged: where it begins to answer. What comes before is with the new run.
    pub(crate) from: u64,
    /// As many as are written; without those that lie before `from` altogether.
    pub(crate) sections: Vec<Option<Section>>,
}

impl Run {
    fn section(&self, number: u32) -> Option<&Section> {
        self.sections.get(number as usize)?.as_ref()
    }

    /// Which of its chunks may hold the fingerprint, which it answers for.
    pub(crate) fn chunks(&self, fingerprint: u64) -> Option<Place> {
        let number = passed(self.bits, fingerprint);
        let chunks = self.section(number)?.chunks(fingerprint..=fingerprint);
        let first = chunk_key(self.id, number, chunks.start);
        (!chunks.is_empty()).then(|| Place::Chunks { first, count: chunks.end - chunks.start })
    }

    /// The sections with some of these fingerprints.
    pub(crate) fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u32, Section)> {
        let range = range.start.max(self.from)..range.end;
        let numbers = if range.is_empty() {
            0..0
        } else {
            passed(self.bits, range.start)..passed(self.bits, range.end - 1) + 1
        };
        numbers.filter_map(|number| Some((number, self.section(number)?.clone())))
    }

    /// Answers from `from` on only, and forgets what is not needed for that.
    pub(crate) fn advance(&mut self, from: u64) {
        for number in passed(self.bits, self.from)..passed(self.bits, from) {
            self.sections[number as usize] = None;
        }
        self.from = from;
    }
}
