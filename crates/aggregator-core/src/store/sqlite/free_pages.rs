//! What is done to bytes of the file that hold nothing: they are cleared, or given back to the file system.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use super::SqliteStore;
use super::file::free_space::Pages;
use super::file::page_set::PageSet;
use super::schema::PAGE_BYTES;
use super::write::Writer;
use super::write::clear_free_space::{PAGES_PER_TURN, ToClear};
use crate::StoreError;
use crate::store::EraseProgress;

/// Progress is told each time so many pages were looked through.
const PAGES_PER_REPORT: u32 = 1_000;

/// How long a call waits, in all, for reads to end that began before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it leaves a reader alone before it tries again.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// The longest pause between two turns of the writer.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// How often a turn may look at a page where so many change that smaller turns come to no end.
const MAX_PAGES_PER_TURN: u64 = 32_000;

type OnProgress<'p> = &'p mut dyn FnMut(EraseProgress) -> ControlFlow<()>;

impl SqliteStore {
    /// Fills everything with zeros that holds nothing: free pages, the free bytes of all others, and the log. SQLite leaves
    /// there what was deleted, and what was moved from one page to another.
    ///
    /// It looks at each page once, and again at all that change meanwhile, which the writer notes. The last turn of the writer
    /// leaves nothing: neither a page that has changed since, nor one that has become free.
    pub(super) fn remove_traces(&self, on_progress: OnProgress<'_>) -> Result<(), StoreError> {
        let pages = Pages::of(&self.file, PAGE_BYTES).map_err(|error| {
            let reason = "the payloads are gone from their events, but not from the free space of the file";
            StoreError::unavailable(format!("{reason}: {error}"))
        })?;
        let (mut to_clear, mut turns) = (ToClear::default(), Turns { store: self, waited: Duration::ZERO });
        for number in 1..=pages.count {
            if number % PAGES_PER_REPORT == 1 {
                tell(on_progress, number - 1, pages.count)?;
                if to_clear.dirty.len() as u64 >= PAGES_PER_TURN {
                    turns.clear(&mut to_clear, PAGES_PER_TURN)?;
                }
            }
            // Most pages are clean. This look is without a turn of the writer, so it only says where to look again.
            let is_clean = pages.free_ranges(number).and_then(|free| {
                let clean: Vec<_> = free.iter().map(|free| pages.is_clear(free)).collect::<Result<_, _>>()?;
                Ok(clean.into_iter().all(|clean| clean))
            });
            if !is_clean.unwrap_or(false) {
                to_clear.dirty.push(number);
            }
        }
        let (mut most, mut before) = (PAGES_PER_TURN, u64::MAX);
        loop {
            tell(on_progress, pages.count, pages.count)?;
            let Some(left) = turns.clear(&mut to_clear, most)? else { continue };
            if left == 0 {
                return Ok(());
            }
            if left >= before {
                if most >= MAX_PAGES_PER_TURN {
                    return Err(StoreError::unavailable(
                        "the payloads are erased, but pages change faster than their last traces are removed: erase them \
                         again when less is published",
                    ));
                }
                most *= 2;
            }
            before = left;
        }
    }

    /// Gives free pages back to the file system, apart from so many bytes of them. `on_turn` is asked before each turn of the
    /// writer.
    pub(super) fn give_free_pages_back(
        &self,
        keep_bytes: u64,
        on_turn: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        let keep_bytes = keep_bytes.max(self.room.reserved_bytes());
        let (mut looked_at, mut given) = (PageSet::default(), 0);
        let mut keep = keep_bytes.div_ceil(u64::from(PAGE_BYTES));
        let mut turns = Turns { store: self, waited: Duration::ZERO };
        if self.free_bytes(&*self.writer()?) <= keep_bytes {
            return Ok(0);
        }
        while on_turn().is_continue() {
            let turn =
                turns.take(|writer| writer.give_free_pages_back(&self.file, &mut looked_at, &mut keep))?;
            if let Some((pages, is_all)) = turn {
                given += pages * u64::from(PAGE_BYTES);
                if is_all {
                    break;
                }
            }
        }
        Ok(given)
    }

    /// The bytes of the file's free pages that have room on the disk. 0 if that cannot be told now.
    pub(super) fn free_bytes(&self, writer: &Writer) -> u64 {
        let free = writer.free_bytes();
        let Ok(file) = self.file.metadata() else { return free };
        // Some were given back, and every other page has room.
        let others = file.len().saturating_sub(free);
        (file.blocks() * 512).saturating_sub(others).min(free)
    }
}

fn tell(on_progress: OnProgress<'_>, pages: u32, total: u32) -> Result<(), StoreError> {
    let bytes = |pages: u32| u64::from(pages) * u64::from(PAGE_BYTES);
    if on_progress(EraseProgress::Overwriting { bytes: bytes(pages), total: bytes(total) }).is_break() {
        return Err(StoreError::unavailable(
            "the payloads are erased, but removing their last traces was given up: erase them again",
        ));
    }
    Ok(())
}

/// The turns of the writer in one call.
struct Turns<'s> {
    store: &'s SqliteStore,
    waited: Duration,
}

impl Turns<'_> {
    fn clear(&mut self, to_clear: &mut ToClear, most: u64) -> Result<Option<u64>, StoreError> {
        let file = &self.store.file;
        self.take(|writer| writer.clear_pages(file, to_clear, most))
    }

    /// Does `work` of the writer, and pauses for as long as it took. If a reader stands in the way (`None`), it pauses longer,
    /// and fails if that was so for too long.
    fn take<T>(
        &mut self,
        work: impl FnOnce(&mut Writer) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let begun = Instant::now();
        let done = work(&mut *self.store.writer()?)?;
        if done.is_some() {
            thread::sleep(begun.elapsed().min(MAX_PAUSE));
            return Ok(done);
        }
        thread::sleep(BETWEEN_TRIES);
        self.waited += begun.elapsed();
        if self.waited < PATIENCE {
            return Ok(None);
        }
        Err(StoreError::unavailable(format!(
            "reads that began before have not ended for {} s, and keep the free space of the file from being changed: try again",
            PATIENCE.as_secs()
        )))
    }
}
