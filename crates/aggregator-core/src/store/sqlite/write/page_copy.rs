//! The writer's part of a backup: after each commit it notes which pages have changed, and between two commits it gives
//! them out.

use std::fs::File;
use std::io;

use super::Writer;
use crate::StoreError;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::file::changed_pages::{ChangedPages, TakenPages};
use crate::store::sqlite::file::files::{beside, unusable};

/// What a copy that is under way has to copy again; or why that is not known.
pub(crate) type PageCopy = Result<ChangedPages, StoreError>;

impl Writer {
    /// From now on, changed pages are noted. Returns how many pages the file has.
    pub(crate) fn begin_copy(&mut self, main: &File) -> Result<u32, StoreError> {
        if self.page_copy.is_some() {
            return Err(StoreError::unavailable(
                "a copy of the store is being made, or what was erased is being removed from its file: wait until that is \
                 complete",
            ));
        }
        // The commit of the mark is not told to anybody, so it has to come before.
        self.mark()?;
        let frames = self.log_frames()?;
        let begun = ChangedPages::begin(&self.log_path()?, frames, main);
        let begun = begun.map_err(unreadable_log)?;
        let pages = begun.pages();
        self.page_copy = Some(Ok(begun));
        Ok(pages)
    }

    pub(crate) fn end_copy(&mut self) {
        self.page_copy = None;
    }

    /// To be called after each commit, before the log can be started again.
    pub(super) fn note_pages(&mut self) {
        let Some(Ok(_)) = &self.page_copy else { return };
        let frames = self.log_frames();
        let Some(Ok(pages)) = &mut self.page_copy else { return };
        // The commit stands, so this is the copy's failure alone.
        if let Err(error) = frames.and_then(|frames| pages.note(frames).map_err(unreadable_log)) {
            self.page_copy = Some(Err(error));
        }
    }

    /// Takes up to `limit` changed pages out of the file, as of the last commit.
    pub(crate) fn take_pages(
        &mut self,
        limit: usize,
        main: &File,
        taken: &mut TakenPages,
    ) -> Result<(), StoreError> {
        self.files.check()?;
        match &mut self.page_copy {
            Some(Ok(pages)) => pages.take(limit, main, taken).map_err(unreadable_log),
            Some(failed @ Err(_)) => {
                let failed = std::mem::replace(failed, Err(StoreError::unavailable("the copy has failed")));
                failed.map(drop)
            }
            None => Err(StoreError::unavailable("the copy has ended")),
        }
    }

    pub(super) fn log_frames(&self) -> Result<u64, StoreError> {
        let noop = "PRAGMA wal_checkpoint(NOOP)";
        let log =
            self.connection.query_row(noop, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        match log.map_err(|error| store_error("copying the store", error))? {
            (0, log) if log >= 0 => Ok(log.unsigned_abs()),
            // Another program writes, and what it has written is not known.
            _ => Err(StoreError::unavailable(
                "the length of the log cannot be read: another program uses the store",
            )),
        }
    }

    pub(super) fn log_path(&self) -> Result<std::path::PathBuf, StoreError> {
        let path = self.connection.path().ok_or_else(|| StoreError::unavailable("the store has no file"))?;
        Ok(beside(path.as_ref(), "-wal"))
    }
}

fn unreadable_log(error: io::Error) -> StoreError {
    unusable("the write-ahead log".as_ref(), error)
}
