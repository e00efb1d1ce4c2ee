//! The dedup index: which row holds this identity?
//!
//! A B-tree over random ids slows down with every identity, because each id lies on another page. So this index is
//! log-structured. The events table is the log and the truth. The index only points into it, and every answer is
//! compared with the row's own bytes.
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
pub(crate) mod layout;
pub(crate) mod lookup;
pub(crate) mod manifest;
pub(crate) mod memtable;
pub(crate) mod recovery;
pub(crate) mod run;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub(crate) use self::check::{check, check_log};
pub(crate) use self::compaction::Compaction;
use self::filter::bloom::Filling;
use self::filter::filter_group::{Asked, Runs};
pub(crate) use self::fingerprint::BITS as FINGERPRINT_BITS;
use self::fingerprint::Fingerprints;
pub(crate) use self::lookup::{Chunks, find, is_at_one};
pub(crate) use self::manifest::{Manifest, reset};
pub(crate) use self::memtable::{Memtable, Spread};
pub(crate) use self::recovery::recover;
use crate::StoreError;
use crate::event::HintOwner;

pub(crate) const CREATE: &str = "
-- The dedup index. What there is of it: one row.
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
    /// How many identities gather in memory before they are written as a run; 1 to 2^24. Memory holds twice as
    /// many at most, and what one append brings; so many rows are read at start. A Bloom filter takes half a byte to a byte for
    /// each of `recent * fan_out^2`, 64 MiB at most; as a rule there are one or two. With more than 2^27 there is none, and
    /// what is new is asked of each run.
    pub memtable: u32,
    /// About how many identities a section holds; 1 to 2^20. One or a few of them are merged at a time, beside
    /// an append.
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
        // A map of 2^19 buckets takes seven for eight of them; what the last append brings is to fit, too, or it would be
        // made anew. Measured: with half of it, a store of 16 million identities takes 0.80 of what an empty one does and
        // not 0.86, for more is merged and there are more runs to ask. Twice of it brings no more, and to a start, which reads
        // two full maps at worst, one of this size takes 0.42 s.
        //
        // With 16 runs to a merge, each entry is merged once until there are 109 million, and then a second time; Bloom
        // filters keep what is new from asking them all.
        Self { memtable: (1 << 19) / 16 * 13, section: 1 << 16, fan_out: 16 }
    }
}

/// An identity with its topic resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) topic_id: i64,
    pub(crate) event_id: &'a str,
    /// Empty where the topic's scope leaves the source out.
    pub(crate) source: &'a str,
}

/// Says that the row at `offset` may have this fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) fingerprint: u64,
    pub(crate) offset: u64,
}

/// What of the index is in memory. The writer changes it after its commits; readers ask it, too.
pub(crate) struct Index {
    /// Of the hints that were made with it.
    owner: HintOwner,
    fingerprints: Fingerprints,
    held: RwLock<Held>,
}

/// At one with the file as of `generation` and `last_offset`.
pub(crate) struct Held {
    generation: u64,
    last_offset: u64,
    memtable: Memtable,
    /// What is being written as a run, and the offset it goes up to.
    sealed: Option<(Arc<Memtable>, u64)>,
    /// What became the newest run, until the next is frozen, and the offset that it begins behind. The writer finds
    /// repeats of late in it that would cost a chunk.
    flushed: Option<(Memtable, u64)>,
    /// Shared with whoever looks ahead.
    runs: Arc<Runs>,
    filling: Filling,
    /// The rows up to this offset are in the runs.
    covered: u64,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought {
    pub(crate) fingerprint: u64,
    /// It is known to be in no row up to here; 0 if nothing is known.
    pub(crate) absent_through: u64,
}

/// Where an identity may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    /// Which of the fingerprints asked for.
    pub(crate) position: usize,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// In the row at this offset.
    Row(u64),
    /// In rows that these chunks name, from the first one's key on.
    Chunks { first: i64, count: u32 },
    /// In some run, perhaps. Most repeats are of what a map has, and nobody has to ask then.
    Runs,
}

impl Place {
    /// The row, if it is one.
    pub(crate) fn row(self) -> Option<u64> {
        if let Self::Row(offset) = self { Some(offset) } else { None }
    }
}

impl Index {
    fn new(fingerprints: Fingerprints, held: Held) -> Self {
        Self { owner: HintOwner::new(), fingerprints, held: RwLock::new(held) }
    }

    pub(crate) fn owner(&self) -> HintOwner {
        self.owner
    }

    pub(crate) fn fingerprint(&self, key: Key<'_>) -> u64 {
        self.fingerprints.of(key)
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        // Should a slice's change have panicked half-way, its generation does not fit the file, and nobody uses it.
        // What is being put together is there at any time, at most twice.
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everywhere the fingerprints may be, by their positions; what is quickest to look at comes first. For the writer:
    /// what [`Place::Runs`] stands for changes with its commits.
    pub(crate) fn probe(&self, sought: &[Sought]) -> Vec<Hit> {
        self.held().probe(sought, true)
    }

    /// For each of the fingerprints, up to which offset no row has it, as far as the runs can tell; 0 if one
    /// may. Later changes leave that true, and nobody waits for whoever asks.
    pub(crate) fn absent(&self, fingerprints: &[u64]) -> Vec<u64> {
        let held = self.held();
        let (runs, covered) = (Arc::clone(&held.runs), held.covered);
        drop(held);
        let mut absent = vec![covered; fingerprints.len()];
        let mut unknown: Vec<Asked> = fingerprints.iter().copied().enumerate().collect();
        for group in runs.groups() {
            runs.ask(group.units(), &group.admitted(&unknown), |(position, _), _| absent[position] = 0);
            unknown.retain(|&(position, _)| absent[position] > 0);
        }
        absent
    }

    /// The places of this fingerprint that [`Place::Runs`] stands for.
    pub(crate) fn in_runs(&self, fingerprint: u64) -> Vec<Place> {
        let mut places = Vec::new();
        self.held().ask_runs(&[(0, fingerprint)], &mut |_, place| places.push(place));
        places
    }

    /// As [`Self::probe`], if what is in memory is of this generation and knows all rows up to here; all that the
    /// runs say is said at once.
    pub(crate) fn probe_at(&self, generation: u64, last_offset: u64, sought: &[Sought]) -> Option<Vec<Hit>> {
        let held = self.held();
        held.is_at(generation, last_offset).then(|| held.probe(sought, false))
    }

    /// Whether what is in memory is of this generation and knows all rows up to here.
    pub(crate) fn is_at(&self, generation: u64, last_offset: u64) -> bool {
        self.held().is_at(generation, last_offset)
    }

    /// Up to which offset it knows the rows.
    pub(crate) fn last_offset(&self) -> u64 {
        self.held().last_offset
    }
}

impl Held {
    fn is_at(&self, generation: u64, last_offset: u64) -> bool {
        self.generation == generation && self.last_offset >= last_offset
    }

    /// Where a map has the fingerprint, the runs are put off if they may be.
    fn probe(&self, sought: &[Sought], put_off: bool) -> Vec<Hit> {
        let mut hits = Vec::with_capacity(sought.len());
        // What was flushed since somebody looked ahead is in a run, too, and nothing is known of it.
        let is_known = |sought: &Sought| sought.absent_through >= self.covered;
        let flushed = self.flushed.as_ref().filter(|_| put_off);
        // One map after the other: while a lookup waits for memory, those behind it are under way.
        for map in self.maps() {
            ask_map(map, sought, |_| true, &mut hits);
        }
        if let Some((map, _)) = flushed {
            ask_map(map, sought, |sought| !is_known(sought), &mut hits);
        }
        let mut is_found = vec![false; sought.len()];
        hits.iter().for_each(|hit| is_found[hit.position] = true);
        let mut unknown = Vec::with_capacity(sought.len());
        for (position, sought) in sought.iter().enumerate().filter(|(_, sought)| !is_known(sought)) {
            if put_off && is_found[position] {
                hits.push(Hit { position, place: Place::Runs });
            // The newest run has just been asked: nobody else is, where the others are known not to have it.
            } else if flushed.is_none_or(|&(_, behind)| sought.absent_through < behind) {
                unknown.push((position, sought.fingerprint));
            }
        }
        self.ask_runs(&unknown, &mut |position, place| hits.push(Hit { position, place }));
        hits.sort_by_key(|hit| hit.position);
        hits
    }

    /// The maps of the rows that no run has yet.
    fn maps(&self) -> impl Iterator<Item = &Memtable> {
        let sealed = self.sealed.as_ref().map(|(sealed, _)| &**sealed);
        [Some(&self.memtable), sealed].into_iter().flatten().filter(|map| !map.is_empty())
    }

    /// Where in the runs the fingerprints may be, by their positions.
    fn ask_runs(&self, asked: &[Asked], found: &mut dyn FnMut(usize, Place)) {
        for group in self.runs.groups() {
            self.runs.ask(group.units(), &group.admitted(asked), |(position, fingerprint), run| {
                if let Some(place) = run.chunks(fingerprint) {
                    found(position, place);
                }
            });
        }
    }
}

/// Adds the rows that the map has of those `asked`.
fn ask_map(map: &Memtable, sought: &[Sought], asked: impl Fn(&Sought) -> bool, hits: &mut Vec<Hit>) {
    for (position, sought) in sought.iter().enumerate().filter(|(_, sought)| asked(sought)) {
        hits.extend(
            map.offsets(sought.fingerprint).map(|offset| Hit { position, place: Place::Row(offset) }),
        );
    }
}

impl From<u64> for Sought {
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
