//! The dedup index, as it is read back from the store's file.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::sqlite::index::filter::maplet::{Maplet, SlotRef};
use crate::store::sqlite::index::manifest::Manifest;
use crate::store::sqlite::index::run::chunk::{self, Widths};
use crate::store::sqlite::index::run::section::Section;
use crate::store::sqlite::index::{FINGERPRINT_BITS, IndexEntry};

#[cfg(test)]
fuzz_corpus::corpus_tests!(index_chunk, index_manifest, index_section);

const KEY: i64 = 0x0100_0002;

/// The bytes as they are, and behind the checksum that fits.
fn with_and_without_checksum(data: &[u8], check: fn(&[u8])) {
    check(data);
    let checksum = xxh3_64_with_seed(data, KEY.cast_unsigned()).to_le_bytes();
    check(&[&checksum, data].concat());
}

/// The head of a section, with its maplet.
pub fn index_section(data: &[u8]) {
    with_and_without_checksum(data, |head| {
        let Some((section, maplet)) = Section::decode(KEY, head) else { return };
        assert_eq!(section.encode(KEY, &maplet), head, "it is not written as it was read");
        assert!(Section::decode(KEY + 1, head).is_none(), "it is taken for another section");
        for fingerprint in (0..48).flat_map(|bit| [1 << bit, (1 << FINGERPRINT_BITS) - (1 << bit)]) {
            let chunks = section.chunks(fingerprint..=fingerprint);
            assert!(chunks.start <= chunks.end && chunks.end <= section.chunk_count(), "{chunks:?}");
        }
        let fences = head[16..].as_chunks::<8>().0.iter().take(section.chunk_count() as usize);
        for (number, fence) in (0..).zip(fences.map(|fence| u64::from_le_bytes(*fence))) {
            let chunks = section.chunks(fence..=fence);
            assert!(
                chunks.contains(&number),
                "chunk {number} begins with {fence}, which is looked for in {chunks:?}"
            );
        }
        let upper = section.chunks(0..=u64::MAX).len();
        assert_eq!(upper, section.chunk_count() as usize, "some chunks are never looked at");
        check_maplet(&maplet, 0);
    });
}

/// Looks up what may be in the maplet and what may not, and unites it with itself as long as it can be.
fn check_maplet(maplet: &Maplet, tag_bits: u32) {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    for first in [0, 1 << 32, u64::MAX >> 1] {
        let fractions: [u64; 16] = std::array::from_fn(|n| SPREAD.wrapping_mul(first + n as u64));
        let slots = fractions.map(|fraction| (fraction, maplet.slot(fraction)));
        SlotRef::lookup(&slots, |_, runs| assert!(runs != 0 && runs >> (1 << tag_bits) == 0, "{runs:b}"));
    }
    if maplet.can_unite(maplet) {
        for half in maplet.unite(maplet) {
            check_maplet(&half, tag_bits + 1);
        }
    }
}

/// A chunk of entries.
pub fn index_chunk(data: &[u8]) {
    with_and_without_checksum(data, |bytes| {
        let Some(entries) = chunk::decode(KEY, bytes) else { return };
        let entries: Vec<IndexEntry> = entries.collect();
        assert!(chunk::decode(KEY + 1, bytes).is_none(), "it is taken for another chunk");
        assert!(!entries.is_empty() && entries.len() <= bytes.len() / 2, "{} entries", entries.len());
        // A lookup does not add up the distances behind what it looks for, so a sum beyond 64 bits is not noticed. No
        // program writes one.
        if !entries.is_sorted_by_key(|entry| entry.fingerprint) {
            return;
        }
        let mut again = Vec::new();
        chunk::encode(KEY, &entries, Widths::of(&entries), &mut again);
        let read: Vec<_> = chunk::decode(KEY, &again).expect("it was just written").collect();
        assert_eq!(read, entries, "they are not read as they are written");
    });
}

/// The row that says which runs there are.
pub fn index_manifest(data: &[u8]) {
    let Some(manifest) = str::from_utf8(data).ok().and_then(Manifest::parse) else { return };
    assert_eq!(
        Manifest::parse(&manifest.to_text()).as_ref(),
        Some(&manifest),
        "it is not read as it is written"
    );
    for run in &manifest.runs {
        assert!(run.sections() >= run.written);
        assert!(manifest.answers_from(run.id) <= 1 << FINGERPRINT_BITS);
        assert!(manifest.live_sections(run).end <= run.sections());
        assert_eq!(manifest.run(run.id), Some(run), "two runs have the number {}", run.id);
        let next = manifest.with_run(run, None);
        assert!(Manifest::parse(&next.to_text()).is_some(), "a run that is written again makes it unsound");
    }
}
