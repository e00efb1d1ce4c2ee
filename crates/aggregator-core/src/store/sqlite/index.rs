//! The dedup index: "which row holds this identity?"
//!
//! A B-tree over random ids grows slower with every identity, for each of them lies on another page.
//! This index is log-structured instead. The events table is the log and the truth; the index only
//! points into it, and every answer is compared with the row's own bytes.
//!
//! ```text
//!  append ─► recent (a map in memory: fingerprint ─► offset) ──full──► frozen
//!                                                                        │ flush
//!            level 0   run run run run ── merge ─► level 1  run run … ◄──┘ (into level 0)
//! ```
//!
//! * A **fingerprint** is 48 bits of a keyed hash of the identity ([`fingerprint`]). Two identities may
//!   share one; then both rows are looked at.
//! * A **run** holds the entries of consecutive offsets, sorted by fingerprint, and never changes. It is
//!   cut into 2^bits **sections** by the fingerprint's first bits. A section has **chunks** of entries,
//!   each a row that fits a page, and a **head**: a maplet and the chunks' first fingerprints. Heads stay
//!   in memory, chunks do not ([`section`], [`chunk`], [`run`]).
//! * A **maplet** is a filter that says which of several runs a fingerprint may be in. All that is asked of runs is
//!   asked of maplets first ([`maplet`], [`unit`]).
//! * In front of those of the two lowest levels, which have many runs, is a **Bloom filter**: most of what is new is asked
//!   of none of them ([`bloom`], and [`cover`] after a start). Other maplets of a level are put together, so that fifteen
//!   take five looks ([`join`]).
//! * Runs of one level are **merged** into one of the next, section by section. What lies before the last
//!   finished section is answered by the new run, what lies behind it by the old ones, whose sections are
//!   deleted once they are behind: neither the file nor memory ever holds an entry twice for long.
//! * The **manifest** is one row that says which sections there are, and up to which offset the runs
//!   cover the log ([`manifest`]). What lies beyond is put into the recent map again at start ([`recover`]).
//!
//! Flushes and merges are prepared by a thread of their own ([`builder`]) and written by the writer, in
//! the transactions of its appends, a **slice** at a time ([`upkeep`]). So the index is at one with the
//! events after every commit, a crash at any instant included.
//!
//! Every row of the index has a checksum, and what is missing is noticed, since the manifest and the heads
//! say what has to be there. Nothing that cannot be read is ever taken for "not seen".

mod bloom;
mod builder;
mod check;
mod chunk;
mod cover;
mod fingerprint;
mod join;
mod lookup;
mod manifest;
mod maplet;
mod recent;
mod recover;
mod run;
mod section;
mod unit;
mod upkeep;

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use self::bloom::Filling;
pub(super) use self::check::{check, check_log};
pub(super) use self::fingerprint::BITS as FINGERPRINT_BITS;
use self::fingerprint::Fingerprints;
pub(super) use self::lookup::{Chunks, find, is_at_one};
pub(super) use self::manifest::{Manifest, reset};
pub(super) use self::recent::{Recent, Spread};
pub(super) use self::recover::recover;
use self::unit::{Asked, Runs};
pub(super) use self::upkeep::Upkeep;
use crate::StoreError;

pub(super) const CREATE: &str = "
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
    pub recent: u32,
    /// About how many identities a section holds; 1 to 2^20. One or a few of them are merged at a time, beside
    /// an append.
    pub section: u32,
    /// How many runs of a level make one of the next; 2 to 16.
    pub fan_out: u8,
}

impl IndexOptions {
    pub(super) fn check(self) -> Result<(), StoreError> {
        let refuse = |what: &str| Err(StoreError::invalid("index", what));
        match self {
            Self { recent: 0, .. } => refuse("recent must be 1 to 2^24"),
            Self { recent, .. } if recent > 1 << 24 => refuse("recent must be 1 to 2^24"),
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
        Self { recent: (1 << 19) / 16 * 13, section: 1 << 16, fan_out: 16 }
    }
}

/// An identity with its topic resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub(super) topic_id: i64,
    pub(super) event_id: &'a str,
    /// Empty where the topic's scope leaves the source out.
    pub(super) source: &'a str,
}

/// Says that the row at `offset` may have this fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) fingerprint: u64,
    pub(super) offset: u64,
}

/// What of the index is in memory. The writer changes it after its commits; readers ask it, too.
pub(super) struct Index {
    /// Tells it from all others that were ever opened in this process.
    number: NonZeroU64,
    fingerprints: Fingerprints,
    held: RwLock<Held>,
}

/// At one with the file as of `generation` and `last_offset`.
struct Held {
    generation: u64,
    last_offset: u64,
    recent: Recent,
    /// What is being written as a run, and the offset it goes up to.
    frozen: Option<(Arc<Recent>, u64)>,
    /// What became the newest run, until the next is frozen, and the offset that it begins behind. The writer finds
    /// repeats of late in it that would cost a chunk.
    flushed: Option<(Recent, u64)>,
    /// Shared with whoever looks ahead.
    runs: Arc<Runs>,
    filling: Filling,
    /// The rows up to this offset are in the runs.
    covered: u64,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought {
    pub(super) fingerprint: u64,
    /// It is known to be in no row up to here; 0 if nothing is known.
    pub(super) absent_through: u64,
}

/// Where an identity may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    /// Which of the fingerprints asked for.
    pub(super) position: usize,
    pub(super) place: Place,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// In the row at this offset.
    Row(u64),
    /// In rows that these chunks name, from the first one's key on.
    Chunks { first: i64, count: u32 },
    /// In some run, perhaps. Most repeats are of what a map has, and nobody has to ask then.
    Runs,
}

impl Place {
    /// The row, if it is one.
    pub(super) fn row(self) -> Option<u64> {
        if let Self::Row(offset) = self { Some(offset) } else { None }
    }
}

impl Index {
    fn new(fingerprints: Fingerprints, held: Held) -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let number = NonZeroU64::new(OPENED.fetch_add(1, Ordering::Relaxed));
        let number = number.expect("nobody opens 2^64 stores");
        Self { number, fingerprints, held: RwLock::new(held) }
    }

    pub(super) fn number(&self) -> NonZeroU64 {
        self.number
    }

    pub(super) fn fingerprint(&self, key: Key<'_>) -> u64 {
        self.fingerprints.of(key)
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        // Should a slice's change have panicked half-way, its generation does not fit the file, and nobody uses it.
        // What is being put together is there at any time, at most twice.
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everywhere the fingerprints may be, by their positions; what is quickest to look at comes first. For the writer:
    /// what [`Place::Runs`] stands for changes with its commits.
    pub(super) fn probe(&self, sought: &[Sought]) -> Vec<Hit> {
        self.held().probe(sought, true)
    }

    /// For each of the fingerprints, up to which offset no row has it, as far as the runs can tell; 0 if one
    /// may. Later changes leave that true, and nobody waits for whoever asks.
    pub(super) fn absent(&self, fingerprints: &[u64]) -> Vec<u64> {
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
    pub(super) fn in_runs(&self, fingerprint: u64) -> Vec<Place> {
        let mut places = Vec::new();
        self.held().ask_runs(&[(0, fingerprint)], &mut |_, place| places.push(place));
        places
    }

    /// As [`Self::probe`], if what is in memory is of this generation and knows all rows up to here; all that the
    /// runs say is said at once.
    pub(super) fn probe_at(&self, generation: u64, last_offset: u64, sought: &[Sought]) -> Option<Vec<Hit>> {
        let held = self.held();
        held.is_at(generation, last_offset).then(|| held.probe(sought, false))
    }

    /// Whether what is in memory is of this generation and knows all rows up to here.
    pub(super) fn is_at(&self, generation: u64, last_offset: u64) -> bool {
        self.held().is_at(generation, last_offset)
    }

    /// Up to which offset it knows the rows.
    pub(super) fn last_offset(&self) -> u64 {
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
    fn maps(&self) -> impl Iterator<Item = &Recent> {
        let frozen = self.frozen.as_ref().map(|(frozen, _)| &**frozen);
        [Some(&self.recent), frozen].into_iter().flatten().filter(|map| !map.is_empty())
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
fn ask_map(map: &Recent, sought: &[Sought], asked: impl Fn(&Sought) -> bool, hits: &mut Vec<Hit>) {
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
