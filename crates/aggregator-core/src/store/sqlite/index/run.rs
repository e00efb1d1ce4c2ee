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

#[cfg(test)]
mod tests {
    use super::section::NewSection;
    use super::*;
    use crate::store::sqlite::index::Entry;
    use crate::store::sqlite::index::manifest::RunEntry;

    /// Equal fingerprints may begin in the chunk before.
    #[test]
    fn a_fingerprint_is_looked_for_in_one_chunk_or_two() {
        let count = 3_000;
        let entries: Vec<_> = (0..count).map(|offset| Entry { fingerprint: offset << 20, offset }).collect();
        let entry = RunEntry { id: 7, level: 1, bits: 0, written: 1, entries: count, inputs: Vec::new() };
        let section = NewSection::of(&entry, 0, &entries).section;
        let chunks = chunk_key(7, 0, 0)..chunk_key(7, 0, section.chunk_count());
        let run = Run { id: 7, bits: 0, from: 0, sections: vec![Some(section)] };
        assert!(chunks.end - chunks.start > 3);
        for Entry { fingerprint, .. } in entries {
            let Some(Place::Chunks { first, count }) = run.chunks(fingerprint) else {
                panic!("{fingerprint} is in none");
            };
            assert!(count == 1 || count == 2, "{fingerprint} is looked for in {count} chunks");
            assert!(chunks.start <= first && first + i64::from(count) <= chunks.end, "{fingerprint}");
        }
    }
}
