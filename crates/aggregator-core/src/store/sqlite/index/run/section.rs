//! A section of a run: the entries whose fingerprints begin with the same bits.
//!
//! Its head stays in memory. In the file, the head is
//!
//! ```text
//!  checksum 8 │ entries 4 │ chunks 4 │ first fingerprint of each chunk 8 … │ maplet
//! ```

use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::chunk::{self, Widths};
use crate::store::sqlite::index::IndexEntry;
use crate::store::sqlite::index::filter::maplet::Maplet;
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::manifest::RunEntry;

/// The chunks of a section. Clones share the fences.
#[derive(Clone)]
pub(crate) struct Section {
    pub(crate) entries: u32,
    /// Fence pointers: the first fingerprint of each chunk.
    fences: Arc<[u64]>,
}

/// A section that is not yet written to the file.
pub(crate) struct NewSection {
    pub(crate) section: Section,
    pub(crate) maplet: Maplet,
    pub(crate) number: u32,
    pub(crate) head: Vec<u8>,
    /// All chunks in one allocation, because the allocator reuses large pieces of memory well.
    chunks: Vec<u8>,
    /// The end of each chunk in `chunks`.
    ends: Vec<usize>,
}

impl NewSection {
    /// The section of all its entries, sorted.
    pub(crate) fn of(run: &RunEntry, number: u32, entries: &[IndexEntry]) -> Self {
        let widths = Widths::of(entries);
        let mut fences = Vec::new();
        let mut chunks = Vec::with_capacity(widths.bytes(entries.len()));
        let mut ends = Vec::new();
        for (place, entries) in (0..).zip(entries.chunks(widths.capacity())) {
            fences.push(entries[0].fingerprint);
            chunk::encode(layout::chunk_key(run.id, number, place), entries, widths, &mut chunks);
            ends.push(chunks.len());
        }
        let fractions = entries.iter().map(|entry| layout::fraction(run.bits, entry.fingerprint));
        // Level 0 has many runs but few entries: with the default layout at most 14 million, whatever the size of the
        // store, as long as merges keep up. So its maplets may take more memory, and name a chunk in vain a quarter as
        // often.
        let expected = (run.entries >> run.bits) << if run.level == 0 { 2 } else { 0 };
        let maplet = Maplet::of(fractions, expected);
        let section = Section { entries: count(entries.len()), fences: fences.into() };
        let head = section.encode(layout::section_key(run.id, number), &maplet);
        Self { section, maplet, number, head, chunks, ends }
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(&start, &end)| &self.chunks[start..end])
    }
}

impl Section {
    /// The chunks that may hold some of these fingerprints.
    pub(crate) fn chunks(&self, fingerprints: std::ops::RangeInclusive<u64>) -> Range<u32> {
        // Equal fingerprints can begin in the chunk before the chunk whose first fingerprint they are.
        let first = self.fences.partition_point(|fence| fence < fingerprints.start()).saturating_sub(1);
        let end = self.fences.partition_point(|fence| fence <= fingerprints.end());
        count(first)..count(end)
    }

    pub(crate) fn fence_bytes(&self) -> usize {
        size_of_val(&*self.fences)
    }

    pub(crate) fn chunk_count(&self) -> u32 {
        count(self.fences.len())
    }

    /// About how many entries this number of chunks has.
    pub(crate) fn entries_of(&self, chunks: usize) -> usize {
        chunks * (self.entries as usize).div_ceil(self.fences.len().max(1))
    }

    pub(crate) fn encode(&self, key: i64, maplet: &Maplet) -> Vec<u8> {
        let mut head = vec![0; 8];
        head.extend(self.entries.to_le_bytes());
        head.extend(self.chunk_count().to_le_bytes());
        head.extend(self.fences.iter().flat_map(|fence| fence.to_le_bytes()));
        maplet.encode(&mut head);
        let checksum = xxh3_64_with_seed(&head[8..], key.cast_unsigned());
        head[..8].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// The head that was written under this key. `None` if the bytes are anything else.
    pub(crate) fn decode(key: i64, head: &[u8]) -> Option<(Self, Maplet)> {
        let (checksum, mut rest) = head.split_first_chunk()?;
        if xxh3_64_with_seed(rest, key.cast_unsigned()) != u64::from_le_bytes(*checksum) {
            return None;
        }
        let entries = read_u32(&mut rest)?;
        let chunks = read_u32(&mut rest)?;
        let fences = (0..chunks).map(|_| read_u64(&mut rest)).collect::<Option<Arc<[u64]>>>()?;
        if !fences.is_sorted() {
            // Whoever searches them would not find a chunk that is there.
            return None;
        }
        Some((Self { entries, fences }, Maplet::decode(rest)?))
    }
}

/// A number of entries or chunks.
fn count(of: usize) -> u32 {
    u32::try_from(of).expect("the first bits of a keyed hash share a run out evenly")
}

fn read_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

fn read_u64(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distinct fingerprints, as a keyed hash spreads them.
    fn entries(count: u64) -> Vec<IndexEntry> {
        let fingerprint = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let mut entries: Vec<_> =
            (1..=count).map(|n| IndexEntry { fingerprint: fingerprint(n), offset: n }).collect();
        entries.sort_unstable();
        entries
    }

    /// A run of one section.
    fn of(entries: &[IndexEntry]) -> NewSection {
        of_level(1, entries)
    }

    fn of_level(level: u8, entries: &[IndexEntry]) -> NewSection {
        let (bits, written, entries_of_run) = (0, 1, entries.len() as u64);
        let run = RunEntry { id: 7, level, bits, written, entries: entries_of_run, inputs: Vec::new() };
        NewSection::of(&run, 0, entries)
    }

    fn found(new: &NewSection, chunks: Range<u32>) -> impl Iterator<Item = IndexEntry> {
        chunks.flat_map(|number| {
            let chunk = new.chunks().nth(number as usize).unwrap();
            chunk::decode(layout::chunk_key(7, 0, number), chunk).unwrap()
        })
    }

    #[test]
    fn a_section_of_any_size_holds_what_it_was_made_of_and_comes_back_as_it_was() {
        for size in (0..200).chain([1_000, 5_000, 60_000]) {
            let entries = entries(size);
            let new = of(&entries);
            let (read, maplet) = Section::decode(layout::section_key(7, 0), &new.head).unwrap();
            assert!(Section::decode(layout::section_key(7, 1), &new.head).is_none());
            assert_eq!((u64::from(read.entries), read.chunk_count() as usize), (size, new.ends.len()));
            for entry in entries {
                let chunks = read.chunks(entry.fingerprint..=entry.fingerprint);
                assert!(found(&new, chunks).any(|found| found == entry), "{entry:?} of {size}");
                assert_eq!(maplet.runs(layout::fraction(0, entry.fingerprint)), 1, "{entry:?} of {size}");
            }
        }
    }

    /// Whatever wrote it: a search would miss chunks.
    #[test]
    fn fences_out_of_order_are_refused_even_with_the_right_checksum() {
        let Section { entries, fences } = of(&entries(2_000)).section;
        let maplet = Maplet::of([].into_iter(), 1);
        let mut fences = fences.to_vec();
        let is_read = |fences: &[u64]| {
            let head = Section { entries, fences: fences.into() }.encode(5, &maplet);
            Section::decode(5, &head).is_some()
        };
        assert!(is_read(&fences));
        fences.swap(1, 2);
        assert!(!is_read(&fences));
    }

    #[test]
    fn a_head_takes_little_memory() {
        // The sizes of sections that the default layout makes of a full memtable and of merges.
        for size in [53_248, 65_536, 45_000] {
            for (level, most) in [(0, 2.2), (1, 2.2), (2, 1.41), (3, 1.41)] {
                let head = of_level(level, &entries(size)).head;
                assert!(head.len() as f64 <= most * size as f64, "{} bytes for {size} entries", head.len());
            }
        }
    }

    /// Equal fingerprints over several chunks: all of them are looked at.
    #[test]
    fn equal_fingerprints_are_found_across_chunks() {
        let entries: Vec<_> =
            (0..3_000).map(|offset| IndexEntry { fingerprint: 5 + offset / 1_000, offset }).collect();
        let new = of(&entries);
        let found = found(&new, new.section.chunks(6..=6));
        assert_eq!(found.filter(|entry| entry.fingerprint == 6).count(), 1_000);
    }
}
