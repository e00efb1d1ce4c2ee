//! "Has any of these runs this fingerprint?": a Bloom filter of the runs of the lowest levels, of which there are many.
//!
//! A fingerprint sets three bits of one word of it, so that to ask it is one read, and for most of what is new that is all.
//! What it admits is asked of the maplets. The first bits of a fingerprint say which word it is, since a flush adds its
//! entries in order; the last say which bits, and maplets do not look at those: what one takes for another, the other
//! does not.
//!
//! Nothing can be taken out of it. So the next one is begun with the runs of another merge to a level above
//! [`HIGHEST_LEVEL`] ([`Filling`]), and this one goes when its runs do. As a rule there are one or two, of 64 MiB at most;
//! where merges fall behind so far that appends are about to wait for them, up to six. They are in memory alone: what was
//! there at start comes to one little by little ([`cover`](super::bloom_backfill)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::filter_group::Asked;
use crate::store::sqlite::index::fingerprint::BITS;
use crate::store::sqlite::index::manifest::{Manifest, RunEntry};
use crate::store::sqlite::index::{Entry, IndexOptions};

/// Runs of a level above have none.
pub(crate) const HIGHEST_LEVEL: u8 = 1;

/// How many bits there are for an entry, at least: of what is new, one in six is admitted when all flushes are there, and
/// one in 26 when half of them are. With the default layout it is 4.9, one in nine, and one in 41. Two bits of a word would
/// admit half as much again at half, and four more once all are there.
const BITS_PER_ENTRY: u64 = 4;

/// 64 MiB.
const MOST_WORDS: u64 = 1 << 23;

pub(crate) struct Bloom(Box<[AtomicU64]>);

impl Bloom {
    /// For the flushes that come to one. None for those of a layout so large that it would admit too much.
    pub(crate) fn new(options: IndexOptions) -> Option<Self> {
        let entries = u64::from(options.memtable) * u64::from(flushes(options));
        let words = (entries * BITS_PER_ENTRY / 64).next_power_of_two();
        (words <= MOST_WORDS).then(|| Self((0..words).map(|_| AtomicU64::default()).collect()))
    }

    pub(crate) fn add(&self, entries: &[Entry]) {
        for entry in entries {
            let (word, bits) = self.place(entry.fingerprint);
            // Whoever asks for what is in a run has been handed the run, by a lock, after this.
            word.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Which of the fingerprints may be there.
    pub(crate) fn admitted(&self, asked: &[Asked]) -> Vec<Asked> {
        let mut admitted = vec![(0, 0); asked.len()];
        let mut count = 0;
        for &asked in asked {
            let (word, bits) = self.place(asked.1);
            // Without a branch, so that the reads do not wait for each other.
            admitted[count] = asked;
            count += usize::from(word.load(Ordering::Relaxed) & bits == bits);
        }
        admitted.truncate(count);
        admitted
    }

    #[inline]
    fn place(&self, fingerprint: u64) -> (&AtomicU64, u64) {
        let word = fingerprint >> (BITS - self.0.len().trailing_zeros());
        let word = usize::try_from(word).expect("there are at most 2^23 words");
        // With the default layout, the maplets of level 1 look at all bits from the 18th on: these end below.
        let bit = |of: u32| 1 << (fingerprint >> of & 63);
        (&self.0[word], bit(0) | bit(6) | bit(11))
    }
}

/// Which one the flushes are added to.
pub(crate) struct Filling {
    options: IndexOptions,
    /// None where the next flush begins one.
    bloom: Option<Arc<Bloom>>,
    /// How many flushes it has had.
    count: u32,
}

impl Filling {
    /// To go on with these runs: the next merge to a level above [`HIGHEST_LEVEL`] is to take all of one.
    pub(crate) fn new(options: IndexOptions, manifest: &Manifest) -> Self {
        let count = flushed(options, manifest) % flushes(options);
        let bloom = if count > 0 { Bloom::new(options).map(Arc::new) } else { None };
        Self { options, bloom, count }
    }

    /// The one that the runs of its merge are in, or are to be.
    pub(crate) fn bloom(&self) -> Option<&Arc<Bloom>> {
        self.bloom.as_ref()
    }

    pub(crate) fn next(&self) -> Next {
        Next { options: self.options, bloom: self.bloom.clone() }
    }

    /// Another flush is in this one.
    pub(crate) fn flushed(&mut self, bloom: Option<Arc<Bloom>>) {
        self.count = (self.count + 1) % flushes(self.options);
        self.bloom = bloom.filter(|_| self.count > 0);
    }
}

/// What the next flush is added to.
pub(crate) struct Next {
    options: IndexOptions,
    bloom: Option<Arc<Bloom>>,
}

impl Next {
    /// Makes it, if there is none yet and there is to be one.
    pub(crate) fn get_or_make(self) -> Option<Arc<Bloom>> {
        self.bloom.or_else(|| Bloom::new(self.options).map(Arc::new))
    }
}

/// How many flushes the runs up to [`HIGHEST_LEVEL`] are of.
pub(crate) fn flushed(options: IndexOptions, manifest: &Manifest) -> u32 {
    let whole = manifest.runs.iter().filter(|run| run.inputs.is_empty() && run.level <= HIGHEST_LEVEL);
    let flushes_of = |run: &RunEntry| u32::from(options.fan_out).pow(run.level.into());
    whole.map(flushes_of).sum()
}

/// How many flushes come to one: as many as a merge to the level above [`HIGHEST_LEVEL`] takes.
pub(crate) fn flushes(options: IndexOptions) -> u32 {
    u32::from(options.fan_out).pow(u32::from(HIGHEST_LEVEL) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a keyed hash spreads them, in order.
    fn entries(seed: u64, count: u64) -> Vec<Entry> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed) >> (64 - BITS);
        let mut entries: Vec<_> = (0..count).map(|n| Entry { fingerprint: hash(n), offset: n + 1 }).collect();
        entries.sort_unstable();
        entries
    }

    fn admitted(bloom: &Bloom, entries: &[Entry]) -> usize {
        let asked: Vec<Asked> = entries.iter().map(|entry| entry.fingerprint).enumerate().collect();
        let admitted = bloom.admitted(&asked);
        assert!(admitted.is_sorted() && admitted.iter().all(|asked_of| asked[asked_of.0] == *asked_of));
        admitted.len()
    }

    /// All of it is admitted, however many flushes it came in, and of the rest one in six at most when all are there.
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

    /// Of 10,000 others; two bits of a word would let 538 in.
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

    /// What a start finds counts: whole runs, and those that one is being made of, but not that one.
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
            let mut filling = Filling::new(options, &manifest);
            let mut flushes = 0;
            loop {
                flushes += 1;
                filling.flushed(filling.next().get_or_make());
                if filling.next().bloom.is_none() {
                    break;
                }
            }
            assert_eq!(flushes, left, "{:?}", manifest.runs);
        }
    }
}
