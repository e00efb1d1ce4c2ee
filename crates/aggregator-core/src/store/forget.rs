//! Forgetting identities: the only way in which a repeat is not recognised any more because of its age.

use crate::{StoreError, Timestamp, Topic};

/// Forgetting the oldest identities of a topic. See [`DedupStore::forget`](super::DedupStore::forget).
pub trait Forget: Send + Sync {
    /// Forgets the oldest identities of `topic`: those that were stored before `before`, up to `most` of them. Returns how
    /// many it forgot. What was forgotten is not recognised any more: a repeat of it is stored as a new event.
    ///
    /// Only what has no payload is forgotten, so [`Maintain::purge`](super::Maintain::purge) goes first: stubs of purged
    /// events, and identities that were imported alone. They go in append order, and it ends at the topic's first event with
    /// a payload: nothing behind it is forgotten. Nor is the partition's newest row. The topic's seqs go on where they
    /// were.
    ///
    /// # Errors
    /// Whatever the backend meets; what was forgotten until then stays forgotten.
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError>;

    /// How many identities [`forget_identities`](Self::forget_identities) would forget. It counts up to `most`.
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError>;
}
