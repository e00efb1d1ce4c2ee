//! One commit for several partitions.

use super::{AttemptId, Receipt};
use crate::{EventRef, StoreError};

/// What a store can do whose commits take several partitions. See [`DedupStore::across`](super::DedupStore::across).
pub trait AppendAcross: Send + Sync {
    /// [`DedupStore::append`](super::DedupStore::append) for events of any partitions, in one commit: many small appends
    /// in many partitions cost less so. Whoever calls it holds all these partitions at once.
    ///
    /// # Errors
    /// As [`DedupStore::append`](super::DedupStore::append), for all events at once.
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError>;
}
