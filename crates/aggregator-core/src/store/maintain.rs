//! Keeping a store: removing payloads, checking, copying.

use std::path::Path;

use crate::store::VerifyReport;
use crate::{StoreError, Topic};

/// What a store can do for the operator who keeps it. See [`DedupStore::maintain`](super::DedupStore::maintain).
pub trait Maintain: Send + Sync {
    /// Removes the payloads of `topic`'s events up to and including `through_seq`, and says how many events lost
    /// theirs. It keeps the identities as stubs, so repeats and conflicts are still found. It removes a prefix of the
    /// topic, never a middle.
    ///
    /// # Errors
    /// Whatever the backend meets; what was removed until then stays removed.
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError>;

    /// Reads everything and checks it against itself: dense seqs, counters, index. Takes time.
    ///
    /// # Errors
    /// Whatever keeps the store from reading. What it finds wrong is in the report.
    fn verify(&self) -> Result<VerifyReport, StoreError>;

    /// Writes a consistent copy to `path`, which must not exist, while appends go on.
    ///
    /// The copy is a store of its own, with a name of its own. If it takes the original's place, cursors up to the
    /// instant of the copy stay good, and later ones are refused and not taken for others.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where there is nothing to copy; otherwise whatever the backend meets.
    fn backup(&self, path: &Path) -> Result<(), StoreError>;
}
