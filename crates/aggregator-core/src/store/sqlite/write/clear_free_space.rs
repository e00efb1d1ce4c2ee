//! The writer's turns in free space: between two commits it fills bytes of the main file that hold nothing with zeros, or
//! gives whole pages of them back to the file system.
//!
//! That is safe only because nobody else writes there then, and because SQLite does not read these bytes: the writer has
//! its turn, all of the log is copied, and the next commit begins the log anew. And it is of use only because the
//! writer's connection forgets the pages that it has in memory: otherwise it would write the old bytes again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::Writer;
use crate::store::sqlite::checkpoint::fsync_error;
use crate::store::sqlite::fault::{Corruption, TransactionError};
use crate::store::sqlite::file::changed_pages::ChangedPages;
use crate::store::sqlite::file::free_space::{FreeList, Pages};
use crate::store::sqlite::file::page_set::PageSet;
use crate::store::sqlite::schema::PAGE_BYTES;
use crate::{StoreError, Timestamp};

/// How often a turn may look at a page while appends wait, if nothing else is said.
pub(crate) const PAGES_PER_TURN: u64 = 4_000;

/// What is still to be cleared, apart from what the writer notes.
#[derive(Default)]
pub(crate) struct ToClear {
    /// Pages that are not clean.
    pub(crate) dirty: Vec<u32>,
    /// Pages that were filled with zeros since they became free.
    zeroed: PageSet,
}

impl Writer {
    /// Clears pages: those that have changed since [`Self::begin_copy`], those of `to_clear`, and those that are free. It stops
    /// once it has looked at pages `most` times. Returns how many pages are left; if none are, the log is cleared, too.
    /// `None` if a reader still needs the log.
    pub(crate) fn clear_pages(
        &mut self,
        main: &File,
        to_clear: &mut ToClear,
        most: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut changed = match self.page_copy.take() {
            Some(Ok(changed)) => changed,
            Some(Err(error)) => return Err(error),
            None => return Err(StoreError::unavailable("nobody has noted which pages change")),
        };
        let left = self.in_main_file(main, |pages| clear_some(pages, &mut changed, to_clear, most));
        self.page_copy = Some(Ok(changed));
        match left? {
            Some(0) => Ok(self.clear_log(main)?.then_some(0)),
            left => Ok(left),
        }
    }

    /// Gives the room of free pages that are not among `looked_at` back, and adds them there, until it has used
    /// [`PAGES_PER_TURN`]. Leaves `keep` pages that have room, and counts it down. Returns how many pages it gave back, and
    /// whether it has looked at all; `None` if a reader still needs the log.
    pub(crate) fn give_free_pages_back(
        &mut self,
        main: &File,
        looked_at: &mut PageSet,
        keep: &mut u64,
    ) -> Result<Option<(u64, bool)>, StoreError> {
        let done = self.in_main_file(main, |pages| {
            let (mut free, mut looks, mut given) = (pages.free_list()?.pages, 0, Vec::new());
            while looks < PAGES_PER_TURN
                && let Some(page) = free.take()
            {
                if looked_at.insert(page) {
                    looks += 1;
                    match pages.takes_room(page)? {
                        true if *keep > 0 => *keep -= 1,
                        true => given.push(page),
                        false => {}
                    }
                }
            }
            Ok((given, free.count() == 0))
        })?;
        let Some((given, is_all)) = done else { return Ok(None) };
        let number = given.len() as u64;
        let punched = Pages::of(main, PAGE_BYTES).and_then(|pages| pages.punch(given));
        // It changes nothing that anybody reads, so it may fail.
        punched.map_err(|error| {
            StoreError::unavailable(format!("the file system does not take free space back: {error}"))
        })?;
        Ok(Some((number, is_all)))
    }

    /// Fills what is left of the log behind one small commit with zeros, and syncs both files. Returns whether that was
    /// possible: no, if a reader still needs the log. All of the log has to be copied.
    fn clear_log(&mut self, main: &File) -> Result<bool, StoreError> {
        let path = self.log_path()?;
        let before = salts(&path).map_err(|error| self.fail_to_clear(&error))?;
        note_time(&self.connection, (self.options.clock)())
            .map_err(|error| self.fail("erasing", TransactionError::Sqlite(error)))?;
        self.committed()?;
        let frames = self.log_frames()?;
        // If a reader was quicker, SQLite has written the commit behind all others.
        if salts(&path).map_err(|error| self.fail_to_clear(&error))? == before {
            return Ok(false);
        }
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
        let pages = Pages::of(main, PAGE_BYTES).map_err(|error| self.fail_to_clear(&error))?;
        let done = work(&pages);
        // Also after a failure.
        if pages.has_written() {
            let forgotten = self.connection.release_memory();
            forgotten.map_err(|error| self.fail("erasing", TransactionError::Sqlite(error)))?;
        }
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

/// Returns how many pages are left. A page is judged by what it is now: one that is free is never parsed, because it may
/// say that it goes on in pages that have other rows by now.
fn clear_some(
    pages: &Pages<'_>,
    changed: &mut ChangedPages,
    to_clear: &mut ToClear,
    most: u64,
) -> io::Result<u64> {
    let FreeList { pages: mut free, rests } = pages.free_list()?;
    rests.iter().try_for_each(|rest| pages.clear(rest).map(drop))?;
    let begun = pages.used();
    let has_turn = || pages.used() - begun < most;
    while has_turn()
        && let Some(page) = changed.take_number()
    {
        to_clear.zeroed.remove(page);
        if !free.contains(page) && page <= pages.count {
            clear_page(pages, page)?;
        }
    }
    while has_turn()
        && let Some(page) = to_clear.dirty.pop()
    {
        if !free.contains(page) {
            clear_page(pages, page)?;
        }
    }
    let mut left = changed.left() + to_clear.dirty.len() as u64;
    while let Some(page) = free.take() {
        if to_clear.zeroed.contains(page) {
            continue;
        }
        if has_turn() {
            pages.clear(&pages.whole(page))?;
            to_clear.zeroed.insert(page);
        } else {
            left += 1;
        }
    }
    Ok(left)
}

fn clear_page(pages: &Pages<'_>, page: u32) -> io::Result<()> {
    pages.free_ranges(page)?.iter().try_for_each(|free| pages.clear(free).map(drop))
}

/// The random numbers in the header of the log, which SQLite changes when it begins the log anew.
fn salts(log: &Path) -> io::Result<Vec<u8>> {
    let mut salts = Vec::new();
    File::open(log)?.take(32).read_to_end(&mut salts)?;
    Ok(salts.split_off(salts.len().min(16)))
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
