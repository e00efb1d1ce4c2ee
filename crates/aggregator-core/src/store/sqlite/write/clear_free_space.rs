//! The writer's part of an erasure: between two commits it fills bytes that hold nothing with zeros, in the main file
//! itself.
//!
//! That is safe only because nobody else writes there then, and because SQLite does not read these bytes: the writer has
//! its turn, all of the log is copied, and the next commit begins the log anew. And it is of use only because the
//! writer's connection forgets the pages that it has in memory: otherwise it would write the old bytes again.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::Writer;
use crate::store::sqlite::checkpoint::fsync_error;
use crate::store::sqlite::fault::{Corruption, TransactionError};
use crate::store::sqlite::file::free_space::{PageSet, Pages};
use crate::store::sqlite::schema::PAGE_BYTES;
use crate::{StoreError, Timestamp};

/// The most pages that are looked at or written while appends wait.
const MAX_PAGES: usize = 1_000;

/// The most frames that the log may have after one small commit.
const FEW_FRAMES: u64 = 100;

impl Writer {
    /// Clears up to [`MAX_PAGES`] free pages that are not among `cleared`, and adds them there. Returns how many they were;
    /// `None` if a reader still needs the log.
    pub(crate) fn clear_free_pages(
        &mut self,
        main: &File,
        cleared: &mut PageSet,
    ) -> Result<Option<usize>, StoreError> {
        self.in_main_file(main, |pages| {
            let mut count = 0;
            for_each_free_page(pages, |leaf| {
                if count == MAX_PAGES {
                    return Ok(ControlFlow::Break(()));
                }
                if cleared.insert(leaf) {
                    pages.clear(&pages.whole(leaf))?;
                    count += 1;
                }
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(count)
        })
    }

    /// Gives the room of up to [`MAX_PAGES`] free pages that are not among `looked_at` back, and adds them there. Leaves
    /// `keep` pages that have room, and counts it down. Returns how many pages it looked at, and how many it gave back;
    /// `None` if a reader still needs the log.
    pub(crate) fn give_free_pages_back(
        &mut self,
        main: &File,
        looked_at: &mut PageSet,
        keep: &mut u64,
    ) -> Result<Option<(usize, usize)>, StoreError> {
        self.in_main_file(main, |pages| {
            let mut count = 0;
            let mut given = Vec::new();
            for_each_free_page(pages, |leaf| {
                if count == MAX_PAGES {
                    return Ok(ControlFlow::Break(()));
                }
                if looked_at.insert(leaf) {
                    count += 1;
                    match pages.takes_room(leaf)? {
                        true if *keep > 0 => *keep -= 1,
                        true => given.push(leaf),
                        false => {}
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            let number = given.len();
            pages.punch(given)?;
            Ok((count, number))
        })
    }

    /// Clears the free bytes of up to [`MAX_PAGES`] of these pages, the last ones, and removes them from the list. Returns
    /// whether that was possible: no, if a reader still needs the log.
    pub(crate) fn clear_pages(&mut self, main: &File, numbers: &mut Vec<u32>) -> Result<bool, StoreError> {
        let done = self.in_main_file(main, |pages| {
            let rest = numbers.len().saturating_sub(MAX_PAGES);
            for &number in &numbers[rest..] {
                for free in pages.free_ranges(number)? {
                    pages.clear(&free)?;
                }
            }
            numbers.truncate(rest);
            Ok(())
        })?;
        Ok(done.is_some())
    }

    /// Fills what is left of the log behind one small commit with zeros, and syncs both files. Returns whether that was
    /// possible: no, if a reader still needs the log.
    pub(crate) fn clear_log(&mut self, main: &File) -> Result<bool, StoreError> {
        if !self.begin_log_anew()? {
            return Ok(false);
        }
        note_time(&self.connection, (self.options.clock)())
            .map_err(|error| self.fail("erasing", TransactionError::Sqlite(error)))?;
        self.committed()?;
        let frames = self.log_frames()?;
        if frames > FEW_FRAMES {
            return Ok(false);
        }
        let path = self.log_path()?;
        let cleared = clear_behind(&path, 32 + frames * (24 + u64::from(PAGE_BYTES)));
        let synced = cleared.and_then(|()| main.sync_data());
        synced.map(|()| true).map_err(|error| self.fail_to_clear(&error))
    }

    /// Calls `work` with the main file while all of the log is copied there. `None` if a reader still needs the log.
    fn in_main_file<T>(
        &mut self,
        main: &File,
        work: impl FnOnce(&Pages<'_>) -> io::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        self.files.check()?;
        if !self.begin_log_anew()? {
            return Ok(None);
        }
        let done = Pages::of(main, PAGE_BYTES).and_then(|pages| work(&pages));
        // Also after a failure: some pages may be written.
        let forgotten = self.connection.release_memory();
        forgotten.map_err(|error| self.fail("erasing", TransactionError::Sqlite(error)))?;
        done.map(Some).map_err(|error| self.fail_to_clear(&error))
    }

    /// The error of a file that cannot be read, written or synced. It leaves it unknown what is on the disk, as a failed
    /// sync of SQLite's own does.
    fn fail_to_clear(&mut self, error: &io::Error) -> StoreError {
        if error.kind() == io::ErrorKind::Unsupported {
            return StoreError::unavailable(format!("the free space of the file stays as it is: {error}"));
        }
        let failure = match error.kind() {
            io::ErrorKind::InvalidData => Corruption::error(format!("the free space of the file: {error}")),
            _ => fsync_error(error),
        };
        self.fail("erasing", TransactionError::Sqlite(failure))
    }
}

/// Hands each free page to `take` until that breaks. The pages of the list itself are not among them: what these hold beside
/// the list is cleared.
fn for_each_free_page(
    pages: &Pages<'_>,
    mut take: impl FnMut(u32) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let mut number = pages.first_trunk()?;
    let mut trunks = PageSet::default();
    while number != 0 {
        if !trunks.insert(number) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the list of free pages is a ring"));
        }
        let trunk = pages.trunk(number)?;
        pages.clear(&trunk.rest)?;
        for leaf in trunk.leaves {
            if take(leaf)?.is_break() {
                return Ok(());
            }
        }
        number = trunk.next;
    }
    Ok(())
}

/// Notes when nothing was left any more: a commit has to change something.
fn note_time(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    // The clock may stand still.
    let value = format!("{now} {}", ulid::Ulid::generate());
    connection
        .prepare_cached(
            "INSERT INTO meta (name, value) VALUES ('erased', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )?
        .execute([value])
        .map(drop)
}

/// Fills the log from the byte `at` on with zeros.
fn clear_behind(log: &Path, at: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let log = OpenOptions::new().write(true).open(log)?;
    let end = log.metadata()?.len();
    let mut at = at;
    while at < end {
        let length = ZEROS.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        log.write_all_at(&ZEROS[..length], at)?;
        at += length as u64;
    }
    log.sync_data()
}
