//! How far a reader has come, for one that reads events in another way than page by page.

use super::{Query, StoredEvent};
use crate::cursor::{Anchor, Position};
use crate::store::StoreInfo;
use crate::{Cursor, Partition};

/// A position in each partition that a reader reads.
///
/// A page has one before and one behind it ([`Page::progress`](super::Page::progress)). Between them, a reader may take
/// events from anywhere, such as a page of a broader query that others read as well: the progress says which of them it
/// has read already, and makes the cursor to go on with at any place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    positions: Vec<Position>,
    /// See [`Page::of_shards`](super::Page::of_shards).
    partitions_per_shard: u16,
}

impl Progress {
    /// `positions` are in the order of their partitions, with the fingerprints of their anchors.
    pub(super) fn new(positions: &[Position], partitions_per_shard: u16) -> Self {
        let without_newest = |position: &Position| Position { newest: Anchor::NONE, ..*position };
        Self { positions: positions.iter().map(without_newest).collect(), partitions_per_shard }
    }

    /// The cursor of a query that has come so far.
    pub fn cursor(&self, query: &Query, store: &StoreInfo) -> Cursor {
        query.cursor(store, &self.positions)
    }

    fn index_of(&self, partition: Partition) -> Option<usize> {
        self.positions.binary_search_by_key(&partition, |position| position.partition).ok()
    }

    /// Whether the event was read, or is none of this reader's.
    pub fn is_past(&self, event: &StoredEvent) -> bool {
        self.index_of(event.partition).is_none_or(|at| self.positions[at].offset >= event.offset)
    }

    /// Notes that the event was read.
    pub fn advance(&mut self, event: &StoredEvent) {
        if let Some(at) = self.index_of(event.partition) {
            self.positions[at].move_to(event.anchor_in_shard(self.partitions_per_shard));
        }
    }

    /// Notes that everything up to `other` was read, or is none of this reader's. `other` may have more partitions.
    pub fn advance_to(&mut self, other: &Self) {
        for position in &mut self.positions {
            if let Some(at) = other.index_of(position.partition)
                && other.positions[at].offset > position.offset
            {
                position.move_to(other.positions[at].anchor);
            }
        }
    }

    /// Whether everything up to `other` was read in the partitions of this reader.
    pub fn covers(&self, other: &Self) -> bool {
        let is_covered = |position: &Position| {
            other.index_of(position.partition).is_none_or(|at| position.offset >= other.positions[at].offset)
        };
        self.positions.iter().all(is_covered)
    }
}
