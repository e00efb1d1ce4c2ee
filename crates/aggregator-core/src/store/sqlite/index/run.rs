//! A run: the entries of consecutive offsets, sorted by fingerprint.

pub(crate) mod chunk;
pub(crate) mod section;

use std::ops::Range;

use self::section::Section;
use super::Location;
use super::layout::{chunk_key, section_number};

/// The part of a run that is in memory, without its maplets: a [`FilterGroup`](super::filter::filter_group::FilterGroup)
/// has these.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) bits: u32,
    /// The run answers for fingerprints from this one on. While it is merged, the new run answers for those below.
    pub(crate) answers_from: u64,
    /// As many as are written. `None` for the sections that lie wholly below `answers_from`.
    pub(crate) sections: Vec<Option<Section>>,
}

impl Run {
    fn section(&self, number: u32) -> Option<&Section> {
        self.sections.get(number as usize)?.as_ref()
    }

    /// The chunks that may hold the fingerprint, if there are any. The run has to answer for the fingerprint.
    pub(crate) fn chunks(&self, fingerprint: u64) -> Option<Location> {
        let number = section_number(self.bits, fingerprint);
        let chunks = self.section(number)?.chunks(fingerprint..=fingerprint);
        let first = chunk_key(self.id, number, chunks.start);
        (!chunks.is_empty()).then(|| Location::Chunks { first, count: chunks.end - chunks.start })
    }

    /// The sections that share fingerprints with this range.
    pub(crate) fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u32, Section)> {
        let range = range.start.max(self.answers_from)..range.end;
        let numbers = if range.is_empty() {
            0..0
        } else {
            section_number(self.bits, range.start)..section_number(self.bits, range.end - 1) + 1
        };
        numbers.filter_map(|number| Some((number, self.section(number)?.clone())))
    }

    /// Stops answering for the fingerprints below `answers_from`, and drops the sections that this makes useless.
    pub(crate) fn advance(&mut self, answers_from: u64) {
        for number in section_number(self.bits, self.answers_from)..section_number(self.bits, answers_from) {
            self.sections[number as usize] = None;
        }
        self.answers_from = answers_from;
    }
}

#[cfg(test)]
mod tests {
    use super::section::NewSection;
    use super::*;
    use crate::store::sqlite::index::IndexEntry;
    use crate::store::sqlite::index::manifest::RunEntry;

    /// Equal fingerprints may begin in the chunk before.
    #[test]
    fn a_fingerprint_is_looked_for_in_one_chunk_or_two() {
        let count = 3_000;
        let entries: Vec<_> =
            (0..count).map(|offset| IndexEntry { fingerprint: offset << 20, offset }).collect();
        let entry = RunEntry { id: 7, level: 1, bits: 0, written: 1, entries: count, inputs: Vec::new() };
        let section = NewSection::of(&entry, 0, &entries).section;
        let chunks = chunk_key(7, 0, 0)..chunk_key(7, 0, section.chunk_count());
        let run = Run { id: 7, bits: 0, answers_from: 0, sections: vec![Some(section)] };
        assert!(chunks.end - chunks.start > 3);
        for IndexEntry { fingerprint, .. } in entries {
            let Some(Location::Chunks { first, count }) = run.chunks(fingerprint) else {
                panic!("{fingerprint} is in none");
            };
            assert!(count == 1 || count == 2, "{fingerprint} is looked for in {count} chunks");
            assert!(chunks.start <= first && first + i64::from(count) <= chunks.end, "{fingerprint}");
        }
    }
}
