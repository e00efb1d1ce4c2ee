//! What the operator asks of an open store.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;

use super::file::backup::{Original, complete, copy_pages};
use super::file::changed_pages::TakenPages;
use super::file::connector::Connector;
use super::file::{adopt, compact, restore, upgrade};
use super::options::SqliteOptions;
use super::{SqliteStore, read};
use crate::store::maintain::check_seqs;
use crate::store::{BackupProgress, Maintain, StoreId, Upgraded, VerifyReport};
use crate::{StoreError, Topic};

/// What is done to a store that nobody has open.
impl SqliteStore {
    /// Makes a store at `to`, where nothing may be, of the copy at `from`, which nobody may have open and which stays as
    /// it is. The copy is checked first. Returns the store's id, which is a new one: see [`Self::adopt`].
    ///
    /// `from` is a backup, or any other copy of a store's file, with the log `…-wal` if one was beside it.
    /// `on_progress` is told how far it is. If it breaks, restoring is given up.
    ///
    /// # Errors
    /// As [`Self::open_with`] for `from`; [`StoreError::Invalid`] if there is something at `to`, and
    /// [`StoreError::Corrupt`] if the copy is not sound. Nothing stays of a store that failed.
    pub fn restore(
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        options: &SqliteOptions,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<StoreId, StoreError> {
        restore(from.as_ref(), to.as_ref(), options, &Connector::new(options), on_progress)
    }

    /// Gives the store at `path`, which nobody has open, an id of its own. To be done before a copy that was not made by
    /// [`Maintain::backup`] is opened for the first time: cursors up to the last event of the copy stay good, and
    /// the original's later ones are refused and not taken for others. Returns the new id.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn adopt(path: impl AsRef<Path>, options: &SqliteOptions) -> Result<StoreId, StoreError> {
        adopt(path.as_ref(), options, &Connector::new(options))
    }

    /// Writes the file of the store at `path`, which nobody has open, anew: what was purged leaves no free pages in it.
    /// Needs as much room as the new file takes, and replaces the old one only once the new one is complete and was
    /// checked. Returns how many bytes the file had, and how many it has now.
    ///
    /// # Errors
    /// As [`Self::open_with`]; [`StoreError::NoSpace`] if there is no room. The old file is as it was then.
    pub fn compact(path: impl AsRef<Path>, options: &SqliteOptions) -> Result<(u64, u64), StoreError> {
        compact(path.as_ref(), options, &Connector::new(options))
    }

    /// Brings the store at `path`, which nobody has open, up to the format of this program, if it knows the store's format.
    /// Copies the store's file first: to `backup`, or to the store's own name with `.format-N` behind it. The
    /// copy is a store that the older program opens. `on_progress` is told how far the copy is; if it breaks, the
    /// upgrade is given up. If it is cut off, the same call goes on with it. Returns `None` if there was nothing to do.
    ///
    /// # Errors
    /// As [`Self::open_with`]; [`StoreError::Format`] if the format is unknown, [`StoreError::NoSpace`] without room for the
    /// copy, and [`StoreError::Invalid`] if there is another file at its name. In all these cases the store stays as it is.
    pub fn upgrade(
        path: impl AsRef<Path>,
        backup: Option<&Path>,
        options: SqliteOptions,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<Option<Upgraded>, StoreError> {
        let upgraded = upgrade(path.as_ref(), backup, &options, &Connector::new(&options), on_progress)?;
        // Builds the index, also if an earlier upgrade was cut off there.
        drop(Self::open_with(path, options)?);
        Ok(upgraded)
    }
}

/// As long as it lives, the writer notes which pages change.
pub(super) struct Noting<'s>(&'s SqliteStore);

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        if let Ok(mut writer) = self.0.writer() {
            writer.end_copy();
        }
    }
}

impl SqliteStore {
    /// From now on, and as long as the result lives, the writer notes which pages change. Returns how many there are, too.
    pub(super) fn note_changed_pages(&self) -> Result<(u32, Noting<'_>), StoreError> {
        let pages = self.writer()?.begin_copy(&self.file)?;
        Ok((pages, Noting(self)))
    }
}

impl Maintain for SqliteStore {
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        self.purge_in_slices(topic, through_seq)
    }

    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError> {
        check_seqs(&seqs)?;
        read::bytes(&mut *self.reader("summing up bytes")?, &self.memory, topic, seqs)
    }

    fn give_back(
        &self,
        keep_bytes: u64,
        on_turn: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        self.give_free_pages_back(keep_bytes, on_turn)
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.mark();
        read::verify(&mut *self.reader("verifying")?, self.connector.fingerprint_bits())
    }

    fn backup(
        &self,
        path: &Path,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let copied = {
            let (pages, _noting) = self.note_changed_pages()?;
            let take = |limit, taken: &mut TakenPages| self.writer()?.take_pages(limit, &self.file, taken);
            copy_pages(&Original { main: &self.file, pages, take: &take }, path, on_progress)?
        };
        complete(copied, &self.connector, on_progress)
    }
}
