//! What a store says of itself: its name and kind, its totals, and what is wrong with it.

use std::fmt;

use ulid::Ulid;
use xxhash_rust::xxh3::xxh3_64;

use crate::event::slot;
use crate::{Partition, Partitions, Scope, Timestamp, Topic};

/// Names a store for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(Ulid);

impl StoreId {
    /// A new name.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        Self(Ulid::generate())
    }

    /// The name as a number.
    pub fn as_u128(self) -> u128 {
        self.0.0
    }

    /// What cursors keep of it: XXH3-64 of the number, big-endian.
    pub(crate) fn hash(self) -> u64 {
        xxh3_64(&self.as_u128().to_be_bytes())
    }

    /// The name with this number.
    pub fn from_u128(id: u128) -> Self {
        Self(Ulid(id))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an `Ok` from [`DedupStore::append`](super::DedupStore::append) survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Volatile,
    /// `kill -9` and loss of power: it was fsynced to the disk.
    Fsync,
    /// The loss of the machine, too: a synchronous replica has it.
    Replicated,
}

impl Durability {
    /// `volatile`, `fsync` or `replicated`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volatile => "volatile",
            Self::Fsync => "fsync",
            Self::Replicated => "replicated",
        }
    }
}

/// What kind of store it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreInfo {
    /// `memory`, `sqlite`, …
    pub kind: &'static str,
    /// Its name for life.
    pub id: StoreId,
    /// What an acknowledged append survives.
    pub durability: Durability,
    /// How many append orders it has.
    pub partitions: Partitions,
    /// The stores it is a copy of, from the first to the last.
    pub ancestors: Vec<Ancestor>,
    /// Whether other processes may use it at the same time.
    pub shared: bool,
    /// How many stores it is made of that fail each alone. Each has as many partitions as the others, the first ones those
    /// with the lowest numbers.
    pub shards: u16,
}

impl StoreInfo {
    /// For a store that is not a copy of another one, and that one process uses at a time. `kind` is a noun, such as `memory`.
    pub fn new(kind: &'static str, id: StoreId, durability: Durability, partitions: Partitions) -> Self {
        Self { kind, id, durability, partitions, ancestors: Vec::new(), shared: false, shards: 1 }
    }

    /// For a store that other processes may use at the same time.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// For a store that is made of so many others.
    #[must_use]
    pub fn of_shards(mut self, shards: u16) -> Self {
        self.shards = shards;
        self
    }

    /// For a store that is a copy. `ancestors` are the stores before it, from the first to the last.
    #[must_use]
    pub fn with_ancestors(mut self, ancestors: Vec<Ancestor>) -> Self {
        self.ancestors = ancestors;
        self
    }
}

/// A store that another one is a copy of. Up to [`Self::until_offset`], the two have the same events at the same
/// offsets, and so the same cursors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ancestor {
    /// The name of the original.
    pub id: StoreId,
    /// The last offset of the copy when it was made.
    pub until_offset: u64,
}

impl Ancestor {
    /// The store of this name, up to this offset.
    pub fn new(id: StoreId, until_offset: u64) -> Self {
        Self { id, until_offset }
    }
}

/// Totals over a store's whole life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreStats {
    /// Events stored, purged ones included.
    pub stored: u64,
    /// Repeats recognised, conflicts included.
    pub duplicates: u64,
    /// Repeats that came with another payload.
    pub conflicts: u64,
    /// Topics.
    pub topics: u64,
    /// Bytes on disk, or an estimate of the bytes in memory.
    pub bytes: u64,
    /// The latest time that an append or an imported row had; `None` before the first one. No event gets an earlier
    /// `processed_at` in the partition that has it, whatever the clock says by then.
    pub newest_processed_at: Option<Timestamp>,
    /// The partitions that are not in these totals, because they did not answer; ascending.
    pub unavailable: Vec<Partition>,
}

/// A topic and its totals.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// What makes two of its events the same.
    pub scope: Scope,
    /// Where it is hashed to: see [`crate::event::slot`].
    pub slot: u16,
    /// The seq of its newest event; as many were stored in it.
    pub last_seq: u64,
    /// The events up to this seq were purged; 0 if none was.
    pub purged_seq: u64,
    /// Repeats recognised, conflicts included.
    pub duplicates: u64,
    /// Repeats that came with another payload.
    pub conflicts: u64,
    /// When the oldest event that still has its payload was stored; `None` if there is no such event, or if the
    /// [query](crate::TopicQuery::times) does not ask for times. A store may leave it out where more than 1,000
    /// identities that were imported alone stand before that event, and the next one where as many stand behind.
    pub first_processed_at: Option<Timestamp>,
    /// When the newest event was stored, whether or not it still has its payload; `None` if there was none, or if
    /// the query does not ask for times.
    pub last_processed_at: Option<Timestamp>,
}

impl TopicInfo {
    /// A topic without events. Its slot follows from its name.
    pub fn new(topic: Topic, scope: Scope) -> Self {
        let slot = slot(topic.as_str());
        Self {
            topic,
            scope,
            slot,
            last_seq: 0,
            purged_seq: 0,
            duplicates: 0,
            conflicts: 0,
            first_processed_at: None,
            last_processed_at: None,
        }
    }

    /// How many of its events still have their payloads.
    pub fn count(&self) -> u64 {
        self.last_seq.saturating_sub(self.purged_seq)
    }
}

/// What [`Maintain::verify`](super::Maintain::verify) read and found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Events read.
    pub events: u64,
    /// Stubs read.
    pub stubs: u64,
    /// What is wrong, a sentence each; nothing if all is well.
    pub faults: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durability_has_a_word_of_its_own() {
        let words = [Durability::Volatile, Durability::Fsync, Durability::Replicated].map(Durability::as_str);
        assert_eq!(words, ["volatile", "fsync", "replicated"]);
    }
}
