//! One commit for several partitions.

use super::{AttemptId, Receipt};
use crate::{EventRef, StoreError};

/// Implemented by stores that can commit to several partitions at once. See
/// [`DedupStore::across`](super::DedupStore::across).
pub trait AppendAcross: Send + Sync {
    /// [`DedupStore::append`](super::DedupStore::append) for events of any partitions, in one commit. This makes many
    /// small appends cheaper. The caller must own all these partitions during the call.
    ///
    /// # Errors
    /// As [`DedupStore::append`](super::DedupStore::append), for all events at once.
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError>;
}
