//! A part of a run: the entries whose fingerprints begin with the same bits.
//!
//! Its head, which stays in memory, is written as
//!
//! ```text
//!  checksum 8 │ entries 4 │ chunks 4 │ first fingerprint of each chunk 8 … │ filter
//! ```

use std::ops::Range;
use std::sync::Arc;

use xorf::{BinaryFuse8, Descriptor, Filter as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::chunk::{self, Widths};
use super::{Entry, run};

/// What is kept in memory of a section: 1.2 bytes per entry.
pub(super) struct Section {
    pub(super) entries: u32,
    /// The first fingerprint of each chunk.
    fences: Box<[u64]>,
    /// Whether a fingerprint may be in it. Without one, each may be: a filter cannot be made of every set.
    filter: Option<BinaryFuse8>,
}

/// A section that is to be written.
pub(super) struct NewSection {
    pub(super) section: Arc<Section>,
    pub(super) number: u32,
    pub(super) head: Vec<u8>,
    pub(super) chunks: Vec<Vec<u8>>,
}

impl NewSection {
    /// Of all entries that belong there, sorted.
    pub(super) fn of(run: u32, number: u32, entries: &[Entry]) -> Self {
        let widths = Widths::of(entries);
        let mut fences = Vec::new();
        let mut chunks = Vec::new();
        for (place, entries) in (0..).zip(entries.chunks(widths.capacity())) {
            fences.push(entries[0].fingerprint);
            chunks.push(chunk::encode(run::chunk_key(run, number, place), entries, widths));
        }
        let mut fingerprints: Vec<u64> = entries.iter().map(|entry| entry.fingerprint).collect();
        fingerprints.dedup();
        let section = Section {
            entries: count(entries.len()),
            fences: fences.into(),
            filter: if fingerprints.is_empty() { None } else { BinaryFuse8::try_from(&fingerprints).ok() },
        };
        let head = section.encode(run::section_key(run, number));
        Self { section: Arc::new(section), number, head, chunks }
    }
}

impl Section {
    /// Which of its chunks may hold the fingerprint.
    pub(super) fn probe(&self, fingerprint: u64) -> Option<Range<u32>> {
        if self.filter.as_ref().is_some_and(|filter| !filter.contains(&fingerprint)) {
            return None;
        }
        let chunks = self.chunks(fingerprint..=fingerprint);
        (!chunks.is_empty()).then_some(chunks)
    }

    /// The chunks that may hold some of these fingerprints.
    pub(super) fn chunks(&self, fingerprints: std::ops::RangeInclusive<u64>) -> Range<u32> {
        // Equal fingerprints can begin in the chunk before the one that begins with them.
        let first = self.fences.partition_point(|fence| fence < fingerprints.start()).saturating_sub(1);
        let end = self.fences.partition_point(|fence| fence <= fingerprints.end());
        count(first)..count(end)
    }

    pub(super) fn chunk_count(&self) -> u32 {
        count(self.fences.len())
    }

    /// Whether the filter lets the fingerprint through; for the check of a file.
    pub(super) fn admits(&self, fingerprint: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.contains(&fingerprint))
    }

    fn encode(&self, key: i64) -> Vec<u8> {
        let mut head = vec![0; 8];
        head.extend(self.entries.to_le_bytes());
        head.extend(self.chunk_count().to_le_bytes());
        head.extend(self.fences.iter().flat_map(|fence| fence.to_le_bytes()));
        if let Some(BinaryFuse8 { descriptor, fingerprints }) = &self.filter {
            head.extend(descriptor.seed.to_le_bytes());
            head.extend(descriptor.segment_length.to_le_bytes());
            head.extend(descriptor.segment_length_mask.to_le_bytes());
            head.extend(descriptor.segment_count_length.to_le_bytes());
            head.extend(fingerprints);
        }
        let checksum = xxh3_64_with_seed(&head[8..], key.cast_unsigned());
        head[..8].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// What was written under this key, or `None` if it is something else.
    pub(super) fn decode(key: i64, head: &[u8]) -> Option<Self> {
        let (checksum, mut rest) = head.split_first_chunk()?;
        if xxh3_64_with_seed(rest, key.cast_unsigned()) != u64::from_le_bytes(*checksum) {
            return None;
        }
        let entries = number(&mut rest)?;
        let chunks = number(&mut rest)?;
        let fences = (0..chunks).map(|_| long(&mut rest)).collect::<Option<_>>()?;
        let filter = if rest.is_empty() { None } else { Some(filter(&mut rest)?) };
        Some(Self { entries, fences, filter })
    }
}

/// Of entries or chunks.
fn count(of: usize) -> u32 {
    u32::try_from(of).expect("the first bits of a keyed hash share a run out evenly")
}

fn filter(rest: &mut &[u8]) -> Option<BinaryFuse8> {
    let descriptor = Descriptor {
        seed: long(rest)?,
        segment_length: number(rest)?,
        segment_length_mask: number(rest)?,
        segment_count_length: number(rest)?,
    };
    // The filter does not look where it reads.
    let length = u64::from(descriptor.segment_count_length) + 2 * u64::from(descriptor.segment_length);
    let sound = rest.len() as u64 == length
        && descriptor.segment_length.is_power_of_two()
        && descriptor.segment_length_mask == descriptor.segment_length - 1;
    sound.then(|| BinaryFuse8 { descriptor, fingerprints: (*rest).into() })
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

fn long(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}
