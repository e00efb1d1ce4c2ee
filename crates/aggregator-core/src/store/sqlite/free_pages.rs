//! What is done to bytes of the file that hold nothing: they are cleared, or given back to the file system.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::SqliteStore;
use super::file::files::unusable;
use super::file::free_space::{PageSet, Pages};
use super::schema::PAGE_BYTES;
use super::write::Writer;
use crate::StoreError;
use crate::store::EraseProgress;

/// Progress is told each time so many pages were looked through.
const PAGES_PER_REPORT: u32 = 1_000;

/// How long a turn waits for reads to end that began before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest pause between two turns of the writer.
const MAX_PAUSE: Duration = Duration::from_millis(50);

impl SqliteStore {
    /// Fills everything with zeros that holds nothing: free pages, the free bytes of all others, and the log. SQLite leaves
    /// there what was deleted, and what was moved from one page to another.
    ///
    /// Since the erasure was committed, no page gets bytes of it that it did not have. So it is enough to look at every page
    /// once, and pages that appear meanwhile need not be looked at.
    pub(super) fn remove_traces(
        &self,
        on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut cleared = PageSet::default();
        while self.in_turn(|writer| writer.clear_free_pages(&self.file, &mut cleared))? > 0 {}
        let pages = Pages::of(&self.file, PAGE_BYTES).map_err(|error| unusable(self.path(), error))?;
        let mut dirty = Vec::new();
        for number in 1..=pages.count {
            if number % PAGES_PER_REPORT == 1 {
                let bytes = |pages: u32| u64::from(pages) * u64::from(PAGE_BYTES);
                let (bytes, total) = (bytes(number - 1), bytes(pages.count));
                if on_progress(EraseProgress::Overwriting { bytes, total }).is_break() {
                    return Err(StoreError::unavailable(
                        "the payloads are erased, but removing their last traces was given up: erase them again",
                    ));
                }
                self.clear(&mut dirty)?;
            }
            // Most pages are clean. This look is without a turn of the writer, so it only says where to look again.
            let is_clean = pages.free_ranges(number).and_then(|free| {
                let clean: Vec<_> = free.iter().map(|free| pages.is_clear(free)).collect::<Result<_, _>>()?;
                Ok(clean.into_iter().all(|clean| clean))
            });
            if !is_clean.unwrap_or(false) {
                dirty.push(number);
            }
        }
        self.clear(&mut dirty)?;
        self.in_turn(|writer| writer.clear_log(&self.file).map(|cleared| cleared.then_some(())))
    }

    /// Gives free pages back to the file system, apart from so many bytes of them.
    pub(super) fn give_free_pages_back(&self, keep_bytes: u64) -> Result<u64, StoreError> {
        let mut looked_at = PageSet::default();
        let mut keep = keep_bytes.div_ceil(u64::from(PAGE_BYTES));
        let mut given = 0;
        if self.writer()?.free_bytes() <= keep_bytes {
            return Ok(0);
        }
        loop {
            let turn =
                self.in_turn(|writer| writer.give_free_pages_back(&self.file, &mut looked_at, &mut keep))?;
            given += turn.1 as u64 * u64::from(PAGE_BYTES);
            if turn.0 == 0 {
                return Ok(given);
            }
        }
    }

    fn clear(&self, dirty: &mut Vec<u32>) -> Result<(), StoreError> {
        while !dirty.is_empty() {
            self.in_turn(|writer| {
                writer.clear_pages(&self.file, dirty).map(|cleared| cleared.then_some(()))
            })?;
        }
        Ok(())
    }

    /// Does `work` of the writer, again and again until no reader stands in the way, and pauses for as long as it took.
    fn in_turn<T>(
        &self,
        mut work: impl FnMut(&mut Writer) -> Result<Option<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let begun = Instant::now();
            let done = work(&mut *self.writer()?)?;
            thread::sleep(begun.elapsed().min(MAX_PAUSE));
            match done {
                Some(done) => return Ok(done),
                None if Instant::now() < until => {}
                None => {
                    return Err(StoreError::unavailable(format!(
                        "reads that began before have not ended for {} s, and keep free pages from being cleared: try again",
                        PATIENCE.as_secs()
                    )));
                }
            }
        }
    }
}
