//! The dedup index: which row holds this identity?
//!
//! A B-tree over random ids slows down with every identity, because each id lies on another page. So this index is a
//! log-structured merge tree (P. O'Neil et al., "The Log-Structured Merge-Tree (LSM-Tree)", Acta Informatica 33(4),
//! 1996). The events table is the log and the truth. The index only points into it, and every answer is compared with
//! the row's own bytes.
//!
//! ```text
//!  append ─► memtable (a map: fingerprint ─► offset) ──full──► sealed memtable
//!                                                                   │ flush
//!            level 0   run run run run ── merge ─► level 1  run … ◄─┘ (into level 0)
//! ```
//!
//! * A **fingerprint** is 48 bits of a keyed hash of the identity ([`fingerprint`]). Two identities may share one; then
//!   both rows are compared.
//! * A **run** ([`run`]) holds the entries of consecutive offsets, sorted by fingerprint, and never changes. The first
//!   bits of the fingerprint cut it into 2^bits **sections** ([`run::section`]). A section has **chunks** of entries
//!   ([`run::chunk`]), each a row that fits a page, and a **head**: a maplet and the first fingerprint of each chunk.
//!   Heads stay in memory, chunks do not.
//! * **Filters** ([`filter`]) stay in memory and say which runs may have a fingerprint. One Bloom filter stands in front
//!   of the two lowest levels, which have many runs. Maplets, one for each section of a run or of several runs, answer
//!   for all other levels and for what the Bloom filter lets through.
//! * **Compaction** ([`compaction`]) merges the runs of one level into one run of the next, section by section. The new
//!   run answers for the fingerprints up to the last finished section, the old runs answer for the rest. Sections of old
//!   runs are deleted as soon as the new run answers for them: neither the file nor memory holds an entry twice for long.
//! * The **manifest** ([`manifest`]) is one row. It says which sections there are, and up to which offset the runs cover
//!   the log. **Recovery** ([`recovery`]) puts everything after that offset into the memtable again.
//!
//! A thread of its own prepares flushes and merges ([`compaction::build`]). The writer writes them a **slice** at a time,
//! in the transactions of its appends. So the index agrees with the events after every commit and after any crash.
//!
//! Every row of the index has a checksum. Missing rows are noticed, because the manifest and the heads say which rows
//! there have to be. The index never takes what it cannot read for "not seen".

pub(crate) mod check;
pub(crate) mod compaction;
pub(crate) mod filter;
pub(crate) mod fingerprint;
mod forgotten_rows;
pub(crate) mod layout;
pub(crate) mod lookup;
pub(crate) mod manifest;
pub(crate) mod memtable;
pub(crate) mod recovery;
pub(crate) mod run;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub(crate) use self::check::{check, check_rows};
pub(crate) use self::compaction::Compaction;
use self::filter::bloom::CurrentBloom;
use self::filter::filter_group::{PositionedFingerprint, Runs};
pub(crate) use self::fingerprint::BITS as FINGERPRINT_BITS;
use self::fingerprint::Fingerprints;
pub(crate) use self::lookup::{ChunkReader, find, matches_snapshot};
pub(crate) use self::manifest::{Manifest, reset};
pub(crate) use self::memtable::{FibonacciHasher, Memtable};
pub(crate) use self::recovery::recover;
use crate::StoreError;
use crate::event::HintOwner;
use crate::store::sqlite::row::Key;

pub(crate) const CREATE: &str = "
-- The dedup index. One row says which runs and sections there are.
CREATE TABLE index_manifest (
    id         INTEGER PRIMARY KEY CHECK (id = 0),
    generation INTEGER NOT NULL, -- counts the changes
    manifest   TEXT    NOT NULL, -- JSON
    checksum   INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;

CREATE TABLE index_sections (
    section INTEGER PRIMARY KEY, -- run, number
    head    BLOB NOT NULL        -- with its checksum
) STRICT;

CREATE TABLE index_chunks (
    chunk   INTEGER PRIMARY KEY, -- run, section, number
    entries BLOB NOT NULL        -- with their checksum
) STRICT;
";

/// How the dedup index is laid out. A file may be opened with other values than it was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexOptions {
    /// How many identities gather in memory before they are written as a run; 1 to 2^24. Memory holds at most twice as
    /// many and those of one append. A start reads as many rows. A Bloom filter takes half a byte to a byte for each of
    /// `memtable * fan_out^2` identities, and 64 MiB at most; as a rule there are one or two filters. If that product
    /// is above 2^27, there is no Bloom filter, and each new identity is looked up in every run's maplets.
    pub memtable: u32,
    /// About how many identities a section holds; 1 to 2^20. A merge writes one or a few sections with each append.
    pub section: u32,
    /// How many runs of a level make one of the next; 2 to 16.
    pub fan_out: u8,
}

impl IndexOptions {
    pub(crate) fn check(self) -> Result<(), StoreError> {
        let refuse = |what: &str| Err(StoreError::invalid("index", what));
        match self {
            Self { memtable: 0, .. } => refuse("memtable must be 1 to 2^24"),
            Self { memtable, .. } if memtable > 1 << 24 => refuse("memtable must be 1 to 2^24"),
            Self { section: 0, .. } => refuse("section must be 1 to 2^20"),
            Self { section, .. } if section > 1 << 20 => refuse("section must be 1 to 2^20"),
            Self { fan_out, .. } if !(2..=16).contains(&fan_out) => refuse("fan_out must be 2 to 16"),
            _ => Ok(()),
        }
    }
}

impl Default for IndexOptions {
    fn default() -> Self {
        // A map of 2^19 buckets holds 7/8 * 2^19 entries. The last append has to fit as well, or the map would grow: so
        // 13/16. Measured: with half the size, a store of 16 million identities appends at 0.80 of an empty store's
        // rate instead of 0.86, because there are more merges and more runs to look into. Twice the size brings nothing.
        // A start reads two full memtables at worst; one of this size takes 0.42 s.
        //
        // With 16 runs to a merge, an entry is merged once until there are 109 million entries, then a second time.
        // Bloom filters spare new identities the look into all these runs.
        Self { memtable: (1 << 19) / 16 * 13, section: 1 << 16, fan_out: 16 }
    }
}

/// Says that the row at `offset` may have this fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexEntry {
    pub(crate) fingerprint: u64,
    pub(crate) offset: u64,
}

/// The part of the index that is in memory. The writer changes it after its commits; readers use it as well.
pub(crate) struct Index {
    /// Marks the hints that this index made.
    owner: HintOwner,
    fingerprints: Fingerprints,
    state: RwLock<IndexState>,
    size: IndexSize,
}

/// Where nobody waits for it: see [`Index::size`].
#[derive(Default)]
struct IndexSize {
    runs: AtomicU64,
    bytes: AtomicU64,
}

/// Agrees with the file as of `generation` and `last_offset`.
pub(crate) struct IndexState {
    generation: u64,
    last_offset: u64,
    memtable: Memtable,
    /// The sealed memtable, which is being written as a run, and the offset of its last row.
    sealed: Option<(Arc<Memtable>, u64)>,
    /// The memtable that became the newest run, and the offset before its first row. It stays until the next memtable is
    /// sealed, so that the writer finds recent repeats in memory instead of reading a chunk.
    flushed: Option<(Memtable, u64)>,
    /// Shared with the threads that make lookup hints.
    runs: Arc<Runs>,
    current_bloom: CurrentBloom,
    /// The rows up to this offset are in the runs.
    covered: u64,
}

/// One question to the index: where may this fingerprint be?
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) fingerprint: u64,
    /// No row up to this offset has the fingerprint; 0 if nothing is known.
    pub(crate) absent_through: u64,
}

/// A place where an identity may be. The row decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The index of the probe that this answers.
    pub(crate) position: usize,
    pub(crate) location: Location,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Location {
    /// The row at this offset.
    Row(u64),
    /// The rows that `count` chunks name, beginning with the chunk of key `first`.
    Chunks { first: i64, count: u32 },
    /// Perhaps some run. A memtable has most repeats, and then nobody has to ask the runs.
    Runs,
}

impl Location {
    /// The row's offset, if this is a row.
    pub(crate) fn row(self) -> Option<u64> {
        if let Self::Row(offset) = self { Some(offset) } else { None }
    }
}

impl Index {
    fn new(fingerprints: Fingerprints, state: IndexState) -> Self {
        Self { owner: HintOwner::new(), fingerprints, state: RwLock::new(state), size: IndexSize::default() }
    }

    pub(crate) fn owner(&self) -> HintOwner {
        self.owner
    }

    pub(crate) fn fingerprint(&self, key: Key<'_>) -> u64 {
        self.fingerprints.of(key)
    }

    fn state(&self) -> RwLockReadGuard<'_, IndexState> {
        // If a change panicked half-way, the generation does not match the file, and no reader uses the state. While
        // two maplets are united, each entry is found at least once and at most twice.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All places where the fingerprints may be, sorted by position; the place that is cheapest to look at comes first.
    /// Only for the writer: the meaning of [`Location::Runs`] changes with its commits.
    pub(crate) fn probe(&self, probes: &[Probe]) -> Vec<Candidate> {
        self.state().probe(probes, true)
    }

    /// For each fingerprint, the offset up to which no row has it, as far as the runs can tell; 0 if a run may have it.
    /// Later changes of the index leave that true. Nobody waits for the caller.
    pub(crate) fn absent(&self, fingerprints: &[u64]) -> Vec<u64> {
        let state = self.state();
        let (runs, covered) = (Arc::clone(&state.runs), state.covered);
        drop(state);
        let mut absent = vec![covered; fingerprints.len()];
        let mut unknown: Vec<PositionedFingerprint> = fingerprints.iter().copied().enumerate().collect();
        for bloom_group in runs.bloom_groups() {
            let admitted = bloom_group.admitted(&unknown);
            runs.lookup(bloom_group.filter_groups(), &admitted, |(position, _), _| absent[position] = 0);
            unknown.retain(|&(position, _)| absent[position] > 0);
        }
        absent
    }

    /// The chunks that [`Location::Runs`] stands for.
    pub(crate) fn locations_in_runs(&self, fingerprint: u64) -> Vec<Location> {
        let mut locations = Vec::new();
        self.state().probe_runs(&[(0, fingerprint)], &mut |_, location| locations.push(location));
        locations
    }

    /// As [`Self::probe`], but never says [`Location::Runs`]. `None` if the index in memory does not
    /// [match](Self::matches) the snapshot.
    pub(crate) fn probe_at(
        &self,
        generation: u64,
        last_offset: u64,
        probes: &[Probe],
    ) -> Option<Vec<Candidate>> {
        let state = self.state();
        state.matches(generation, last_offset).then(|| state.probe(probes, false))
    }

    /// Whether the index in memory is of this generation and has all rows up to `last_offset`.
    pub(crate) fn matches(&self, generation: u64, last_offset: u64) -> bool {
        self.state().matches(generation, last_offset)
    }

    /// How many runs there are, and how many bytes of memory their filters and fences take.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.size.runs.load(Ordering::Relaxed), self.size.bytes.load(Ordering::Relaxed))
    }

    /// To be called when the runs have changed.
    fn note_size(&self, runs: &Runs) {
        self.size.runs.store(runs.runs.len() as u64, Ordering::Relaxed);
        self.size.bytes.store(runs.bytes() as u64, Ordering::Relaxed);
    }

    /// The offset of the last row that the index has.
    pub(crate) fn last_offset(&self) -> u64 {
        self.state().last_offset
    }
}

impl IndexState {
    fn matches(&self, generation: u64, last_offset: u64) -> bool {
        self.generation == generation && self.last_offset >= last_offset
    }

    /// If `defer_runs` is set, a fingerprint that a memtable has is not looked up in the runs: the answer for them is
    /// [`Location::Runs`].
    fn probe(&self, probes: &[Probe], defer_runs: bool) -> Vec<Candidate> {
        let mut candidates = Vec::with_capacity(probes.len());
        // A flush since the hint was made has put rows into a run, and the hint does not cover these rows.
        let is_in_no_run = |probe: &Probe| probe.absent_through >= self.covered;
        let flushed = self.flushed.as_ref().filter(|_| defer_runs);
        // One memtable after the other: while one lookup waits for memory, the next ones are under way.
        for memtable in self.uncovered() {
            probe_memtable(memtable, probes, |_| true, &mut candidates);
        }
        if let Some((memtable, _)) = flushed {
            probe_memtable(memtable, probes, |probe| !is_in_no_run(probe), &mut candidates);
        }
        let mut is_found = vec![false; probes.len()];
        candidates.iter().for_each(|candidate| is_found[candidate.position] = true);
        let mut unknown = Vec::with_capacity(probes.len());
        for (position, probe) in probes.iter().enumerate().filter(|(_, probe)| !is_in_no_run(probe)) {
            if defer_runs && is_found[position] {
                candidates.push(Candidate { position, location: Location::Runs });
            // The flushed memtable has just answered for the newest run. No other run is asked if the hint says that
            // none has the fingerprint.
            } else if flushed.is_none_or(|&(_, before)| probe.absent_through < before) {
                unknown.push((position, probe.fingerprint));
            }
        }
        self.probe_runs(&unknown, &mut |position, location| {
            candidates.push(Candidate { position, location });
        });
        candidates.sort_by_key(|candidate| candidate.position);
        candidates
    }

    /// The memtables of the rows that no run covers yet.
    fn uncovered(&self) -> impl Iterator<Item = &Memtable> {
        let sealed = self.sealed.as_ref().map(|(sealed, _)| &**sealed);
        [Some(&self.memtable), sealed].into_iter().flatten().filter(|memtable| !memtable.is_empty())
    }

    /// Tells `found` the position of a fingerprint and the chunks of a run that may have it.
    fn probe_runs(&self, fingerprints: &[PositionedFingerprint], found: &mut dyn FnMut(usize, Location)) {
        for bloom_group in self.runs.bloom_groups() {
            let admitted = bloom_group.admitted(fingerprints);
            self.runs.lookup(bloom_group.filter_groups(), &admitted, |(position, fingerprint), run| {
                if let Some(location) = run.chunks(fingerprint) {
                    found(position, location);
                }
            });
        }
    }
}

/// Adds the rows that the memtable has for the probes that `admit` lets through.
fn probe_memtable(
    memtable: &Memtable,
    probes: &[Probe],
    admit: impl Fn(&Probe) -> bool,
    candidates: &mut Vec<Candidate>,
) {
    for (position, probe) in probes.iter().enumerate().filter(|(_, probe)| admit(probe)) {
        let rows = memtable.offsets(probe.fingerprint);
        candidates.extend(rows.map(|offset| Candidate { position, location: Location::Row(offset) }));
    }
}

impl From<u64> for Probe {
    fn from(fingerprint: u64) -> Self {
        Self { fingerprint, absent_through: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_and_the_most_of_each_option_are_taken_and_what_lies_beyond_is_refused() {
        let least = IndexOptions { memtable: 1, section: 1, fan_out: 2 };
        let most = IndexOptions { memtable: 1 << 24, section: 1 << 20, fan_out: 16 };
        for options in [least, most, IndexOptions::default()] {
            assert!(options.check().is_ok(), "{options:?}");
        }
        for (options, named) in [
            (IndexOptions { memtable: 0, ..least }, "memtable"),
            (IndexOptions { memtable: (1 << 24) + 1, ..most }, "memtable"),
            (IndexOptions { section: 0, ..least }, "section"),
            (IndexOptions { section: (1 << 20) + 1, ..most }, "section"),
            (IndexOptions { fan_out: 1, ..least }, "fan_out"),
            (IndexOptions { fan_out: 17, ..most }, "fan_out"),
        ] {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(named), "{options:?}: {error}");
        }
    }
}
