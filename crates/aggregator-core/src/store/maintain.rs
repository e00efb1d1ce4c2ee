//! Keeping a store: removing payloads, checking, copying.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};

use crate::store::VerifyReport;
use crate::{StoreError, Topic};

/// The most seqs that [`Maintain::bytes`] sums in one call.
pub const MAX_SEQS_PER_SUM: u64 = 10_000;

/// What a store can do for the operator who keeps it. See [`DedupStore::maintain`](super::DedupStore::maintain).
pub trait Maintain: Send + Sync {
    /// Removes the payloads of `topic`'s events up to and including `through_seq`, and says how many events lost
    /// theirs. It keeps the identities as stubs, so repeats and conflicts are still found. It removes a prefix of the
    /// topic, never a middle.
    ///
    /// # Errors
    /// Whatever the backend meets; what was removed until then stays removed.
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError>;

    /// How many bytes of data the events of `topic` with these seqs have: those of their event ids, sources and payloads.
    /// Only events that still have their payloads count, so a seq that was purged or does not exist yet adds nothing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for more than [`MAX_SEQS_PER_SUM`] seqs; otherwise whatever the backend meets.
    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError>;

    /// Gives the space in its files that holds nothing any more back to the file system, apart from `keep_bytes` of it for
    /// what comes, and says how many bytes that was. A piece at a time, so that appends get their turn in between; `on_turn`
    /// is asked before each piece, and may break it off. The default is for stores that have no such space, or give it back by
    /// themselves.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the file system takes nothing back; otherwise whatever the backend meets. What was
    /// given back until then stays given.
    fn give_back(
        &self,
        _keep_bytes: u64,
        _on_turn: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Reads everything and checks it against itself: dense seqs, counters, index. Takes time.
    ///
    /// # Errors
    /// Whatever keeps the store from reading. What it finds wrong is in the report.
    fn verify(&self) -> Result<VerifyReport, StoreError>;

    /// Writes a consistent copy to `path`, which must not exist, while appends go on, and checks it as
    /// [`verify`](Self::verify) does. There is nothing at `path` before the copy is complete and was found sound.
    ///
    /// The copy is a store of its own, with an id of its own. If it takes the original's place, cursors up to the
    /// instant of the copy stay good, and later ones are refused and not taken for others.
    ///
    /// `on_progress` is told now and then how far the copy is. If it breaks, the copy is given up.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where there is nothing to copy, [`StoreError::NoSpace`] where the copy does not fit,
    /// [`StoreError::Corrupt`] if it is not sound, and [`StoreError::Unavailable`] if it was given up or another one is
    /// being made; otherwise whatever the backend meets. Nothing stays of a copy that failed.
    fn backup(
        &self,
        path: &Path,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;
}

/// What an upgrade has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The format that the store had.
    pub from: u32,
    /// The format that it has.
    pub to: u32,
    /// The copy of the store as it was.
    pub backup: PathBuf,
}

/// How far a backup is. See [`Maintain::backup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupProgress {
    /// So much of the store is copied. What changes meanwhile is copied once more, so `bytes` may also fall.
    Copying {
        /// How many bytes of the copy are as they are to stay.
        bytes: u64,
        /// How many bytes the copy has so far.
        total: u64,
    },
    /// All is copied, and is now read and checked.
    Checking,
}

/// Refuses too many seqs for [`Maintain::bytes`]. Every backend calls it before it sums.
///
/// # Errors
/// [`StoreError::Invalid`] for the seqs.
pub fn check_seqs(seqs: &RangeInclusive<u64>) -> Result<(), StoreError> {
    // The first and the last one count, so the difference is one less than their number.
    if seqs.end().saturating_sub(*seqs.start()) >= MAX_SEQS_PER_SUM {
        return Err(StoreError::invalid("seqs", format!("must be at most {MAX_SEQS_PER_SUM}")));
    }
    Ok(())
}
