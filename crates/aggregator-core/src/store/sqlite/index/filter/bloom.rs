//! "Does any of these runs have this fingerprint?": a Bloom filter over the runs of the two lowest levels, of which
//! there are many.
//!
//! B. H. Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors", CACM 13(7), 1970. All bits of an entry lie
//! in one word: F. Putze, P. Sanders, J. Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", WEA 2007.
//!
//! A fingerprint sets three bits of one word. So a lookup reads one word, and for most new identities that is all. The
//! maplets are asked about what the filter admits. The first bits of a fingerprint choose the word, because a flush adds
//! its entries in order. The last bits choose the three bits. Maplets do not look at these last bits, so the two kinds of
//! filter make different mistakes.
//!
//! An entry cannot be removed from a Bloom filter. So one filter takes the flushes that one merge will move to a level
//! above [`HIGHEST_LEVEL`]; then the next filter begins ([`CurrentBloom`]), and the old one is dropped together with its
//! runs. As a rule there are one or two filters, of 64 MiB at most. If merges are so late that appends are about to wait
//! for them, there are up to six. Filters are in memory alone. The runs that a start finds are added to a filter little
//! by little ([`bloom_backfill`](super::bloom_backfill)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::filter_group::PositionedFingerprint;
use crate::store::sqlite::index::fingerprint::BITS;
use crate::store::sqlite::index::manifest::{Manifest, RunEntry};
use crate::store::sqlite::index::{IndexEntry, IndexOptions};

/// Runs of higher levels have no Bloom filter.
pub(crate) const HIGHEST_LEVEL: u8 = 1;

/// The least number of bits for an entry. With it, a full filter admits one new identity in six, and a half full one admits
/// one in 26. The default layout has 4.9 bits: one in nine, and one in 41. Two bits of a word instead of three would
/// admit half as much again in a half full filter; four would admit more in a full one.
const BITS_PER_ENTRY: u64 = 4;

/// 64 MiB.
const MAX_WORDS: u64 = 1 << 23;

pub(crate) struct Bloom(Box<[AtomicU64]>);

impl Bloom {
    /// An empty filter for [`flushes_per_bloom`] flushes. `None` if the layout is so large that the filter would admit too
    /// much.
    pub(crate) fn new(options: IndexOptions) -> Option<Self> {
        let entries = u64::from(options.memtable) * u64::from(flushes_per_bloom(options));
        let words = (entries * BITS_PER_ENTRY / 64).next_power_of_two();
        (words <= MAX_WORDS).then(|| Self((0..words).map(|_| AtomicU64::default()).collect()))
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    pub(crate) fn add(&self, entries: &[IndexEntry]) {
        for entry in entries {
            let (word, bits) = self.word_and_bits(entry.fingerprint);
            // Relaxed is enough: whoever looks up the entries of a run got the run through a lock, after this.
            word.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// The fingerprints that the filter may have.
    pub(crate) fn admitted(&self, fingerprints: &[PositionedFingerprint]) -> Vec<PositionedFingerprint> {
        let mut admitted = vec![(0, 0); fingerprints.len()];
        let mut count = 0;
        for &fingerprint in fingerprints {
            let (word, bits) = self.word_and_bits(fingerprint.1);
            // Without a branch, so that the reads do not wait for each other.
            admitted[count] = fingerprint;
            count += usize::from(word.load(Ordering::Relaxed) & bits == bits);
        }
        admitted.truncate(count);
        admitted
    }

    #[inline]
    fn word_and_bits(&self, fingerprint: u64) -> (&AtomicU64, u64) {
        let word = fingerprint >> (BITS - self.0.len().trailing_zeros());
        let word = usize::try_from(word).expect("there are at most 2^23 words");
        // With the default layout, the maplets of level 1 look at all bits from the 18th on. These three end below it.
        let bit = |of: u32| 1 << (fingerprint >> of & 63);
        (&self.0[word], bit(0) | bit(6) | bit(11))
    }
}

/// The Bloom filter that flushes are added to.
pub(crate) struct CurrentBloom {
    options: IndexOptions,
    /// `None` if the next flush begins a filter.
    bloom: Option<Arc<Bloom>>,
    /// How many flushes the filter has.
    flushes: u32,
}

impl CurrentBloom {
    /// The filter to go on with after a start, so that the next merge to a level above [`HIGHEST_LEVEL`] takes exactly the
    /// runs of one filter.
    pub(crate) fn new(options: IndexOptions, manifest: &Manifest) -> Self {
        let flushes = flushes_in_runs(options, manifest) % flushes_per_bloom(options);
        let bloom = if flushes > 0 { Bloom::new(options).map(Arc::new) } else { None };
        Self { options, bloom, flushes }
    }

    /// The filter for the runs of the next merge.
    pub(crate) fn bloom(&self) -> Option<&Arc<Bloom>> {
        self.bloom.as_ref()
    }

    pub(crate) fn for_flush(&self) -> FlushBloom {
        FlushBloom { options: self.options, bloom: self.bloom.clone() }
    }

    /// Counts a flush that was added to this filter.
    pub(crate) fn record_flush(&mut self, bloom: Option<Arc<Bloom>>) {
        self.flushes = (self.flushes + 1) % flushes_per_bloom(self.options);
        self.bloom = bloom.filter(|_| self.flushes > 0);
    }
}

/// The Bloom filter that the next flush is added to.
pub(crate) struct FlushBloom {
    options: IndexOptions,
    bloom: Option<Arc<Bloom>>,
}

impl FlushBloom {
    /// The filter, created if there is none yet. `None` if the layout has no filters.
    pub(crate) fn get_or_create(self) -> Option<Arc<Bloom>> {
        self.bloom.or_else(|| Bloom::new(self.options).map(Arc::new))
    }
}

/// How many flushes the runs up to [`HIGHEST_LEVEL`] are made of.
pub(crate) fn flushes_in_runs(options: IndexOptions, manifest: &Manifest) -> u32 {
    let whole = manifest.runs.iter().filter(|run| run.inputs.is_empty() && run.level <= HIGHEST_LEVEL);
    let flushes_of = |run: &RunEntry| u32::from(options.fan_out).pow(run.level.into());
    whole.map(flushes_of).sum()
}

/// How many flushes a filter takes: as many as one merge moves to the level above [`HIGHEST_LEVEL`].
pub(crate) fn flushes_per_bloom(options: IndexOptions) -> u32 {
    u32::from(options.fan_out).pow(u32::from(HIGHEST_LEVEL) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries as a keyed hash spreads them, sorted.
    fn entries(seed: u64, count: u64) -> Vec<IndexEntry> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed) >> (64 - BITS);
        let mut entries: Vec<_> =
            (0..count).map(|n| IndexEntry { fingerprint: hash(n), offset: n + 1 }).collect();
        entries.sort_unstable();
        entries
    }

    fn admitted(bloom: &Bloom, entries: &[IndexEntry]) -> usize {
        let fingerprints: Vec<PositionedFingerprint> =
            entries.iter().map(|entry| entry.fingerprint).enumerate().collect();
        let admitted = bloom.admitted(&fingerprints);
        assert!(
            admitted.is_sorted() && admitted.iter().all(|asked_of| fingerprints[asked_of.0] == *asked_of)
        );
        admitted.len()
    }

    /// The filter admits all entries of all flushes. A full filter admits at most one other fingerprint in six.
    #[test]
    fn it_admits_what_was_added_and_little_else() {
        for (memtable, fan_out) in [(1, 2), (20, 8), (3_000, 4)] {
            let bloom = Bloom::new(IndexOptions { memtable, section: 100, fan_out }).unwrap();
            let (flushes, size) = (u64::from(fan_out).pow(2), u64::from(memtable));
            assert_eq!(admitted(&bloom, &entries(99, 1_000)), 0);
            for flush in 0..flushes {
                bloom.add(&entries(flush, size));
            }
            for flush in 0..flushes {
                assert_eq!(
                    admitted(&bloom, &entries(flush, size)) as u64,
                    size,
                    "flush {flush} of {memtable}"
                );
            }
            let others = admitted(&bloom, &entries(99, 10_000));
            assert!((1..=1_750).contains(&others), "{others} of 10000 others, {memtable} and {fan_out}");
        }
    }

    /// With two bits of a word instead of three, it would admit 538 of 10,000 others.
    #[test]
    fn half_full_it_admits_one_in_26() {
        let bloom = Bloom::new(IndexOptions { memtable: 512, section: 100, fan_out: 16 }).unwrap();
        for flush in 0..128 {
            bloom.add(&entries(flush, 512));
        }
        let others = admitted(&bloom, &entries(999, 10_000));
        assert!((320..=450).contains(&others), "{others}");
    }

    #[test]
    fn it_takes_no_more_memory_however_much_is_to_come() {
        let words = |memtable, fan_out| {
            Bloom::new(IndexOptions { memtable, section: 1 << 16, fan_out }).map(|bloom| bloom.0.len())
        };
        let IndexOptions { memtable, fan_out, .. } = IndexOptions::default();
        assert_eq!(words(memtable, fan_out), Some(1 << 23));
        assert_eq!(words(1 << 19, 16), Some(1 << 23));
        assert_eq!(words((1 << 19) + 1, 16), None);
        assert_eq!(words(1 << 24, 16), None);
    }

    /// A start counts the flushes in whole runs and in runs that are being merged, but not in the run they are merged into.
    #[test]
    fn after_a_start_one_ends_with_the_runs_of_a_merge() {
        let run = |id, level, inputs: &[u32]| RunEntry {
            id,
            level,
            bits: 0,
            written: u32::from(inputs.is_empty()),
            entries: 1,
            inputs: inputs.to_vec(),
        };
        let options = IndexOptions { memtable: 1, section: 1, fan_out: 2 };
        for (runs, left) in [
            (vec![], 4),
            (vec![run(1, 0, &[])], 3),
            (vec![run(1, 1, &[]), run(2, 0, &[])], 1),
            (vec![run(1, 1, &[]), run(2, 1, &[])], 4),
            (vec![run(1, 2, &[]), run(2, 1, &[])], 2),
            (vec![run(1, 0, &[]), run(2, 0, &[]), run(3, 1, &[1, 2])], 2),
        ] {
            let manifest = Manifest { generation: 1, key: (1, 2), covered: 0, next_run: 9, runs };
            let mut current_bloom = CurrentBloom::new(options, &manifest);
            let mut flushes = 0;
            loop {
                flushes += 1;
                current_bloom.record_flush(current_bloom.for_flush().get_or_create());
                if current_bloom.for_flush().bloom.is_none() {
                    break;
                }
            }
            assert_eq!(flushes, left, "{:?}", manifest.runs);
        }
    }
}
