//! Checkpoints: copies the write-ahead log back into the main file.
//!
//! SQLite starts the log again from its beginning when a transaction begins and all of the log is copied. A helper thread
//! copies while appends go on, so the part that is committed meanwhile is left. Once little is left, the writer copies
//! it between two commits.
//!
//! SQLite syncs the file only once all is copied, which would leave the whole sync to the writer. So the helper syncs what
//! it has copied.
//!
//! Either the helper or the writer copies, never both at once: SQLite before 3.51.3 can lose commits if two checkpoints
//! overlap.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rusqlite::{Connection, ffi};

use super::background::{Helper, HelperObserver, NoResult};
use super::fault::{TransactionError, write_error};
use super::options::OnWarning;
use super::schema::PAGE_BYTES;
use crate::StoreError;
use crate::fail_point::FailPoint;
use crate::histogram::{Histogram, LATENCY};

/// The writer copies the rest itself if it is at most a step divided by this.
const WRITER_SHARE: u64 = 4;

/// How many times the helper copies before the writer copies the rest, however much it is.
const MAX_PASSES: u32 = 3;

/// Readers that overlap without end keep SQLite from starting the log again. If the log has this many steps, the writer
/// waits for them, up to the busy timeout.
const RESTART_STEPS: u64 = 16;

/// The state of checkpoints. Lengths are in pages.
pub(crate) struct Checkpoints {
    copier: Helper<(), Result<(), StoreError>>,
    /// How many times the helper has begun to copy in this checkpoint; 0 if no checkpoint is under way.
    passes: u32,
    copying: bool,
    /// The length of the log when it was last read, and how much of it was copied.
    log: u64,
    copied: u64,
    /// A checkpoint begins each time the log has grown by so much.
    step: u64,
    /// The length of the log at which the next checkpoint begins.
    begin_at: u64,
    /// The length of the log at which the writer waits for readers.
    restart_at: u64,
    /// Appends wait for the helper, so that a test with the same seed makes the same writes.
    in_step: bool,
    on_warning: OnWarning,
    /// Which warnings were given since the last success.
    warned: Warned,
    gauges: Arc<CheckpointGauges>,
}

/// What is measured of checkpoints. Anybody may look at it at any time.
pub(crate) struct CheckpointGauges {
    /// How long it took to copy a part of the log, with the sync of the file.
    pub(crate) durations: Histogram,
    log_pages: AtomicU64,
}

impl CheckpointGauges {
    /// How much of the log is in use. A page has a header in the log, and so has the log: see
    /// <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
    pub(crate) fn log_bytes(&self) -> u64 {
        match self.log_pages.load(Ordering::Relaxed) {
            0 => 0,
            pages => 32 + pages * (24 + u64::from(PAGE_BYTES)),
        }
    }
}

#[derive(Default)]
struct Warned {
    failing: bool,
    pinned: bool,
}

impl Checkpoints {
    /// Starts the helper. It owns `connection`, and `sync` syncs the main file.
    pub(crate) fn start(
        connection: Connection,
        sync: impl Fn() -> io::Result<()> + Send + 'static,
        step: u32,
        in_step: bool,
        observer: HelperObserver,
        on_warning: OnWarning,
    ) -> io::Result<Self> {
        let gauges =
            Arc::new(CheckpointGauges { durations: Histogram::new(&LATENCY), log_pages: AtomicU64::new(0) });
        let measured = Arc::clone(&gauges);
        let copier = Helper::start("checkpoint", connection, observer, move |connection, ()| {
            let begun = Instant::now();
            let copied = copy(connection).and_then(|()| sync().map_err(|error| fsync_error(&error)));
            measured.durations.observe_duration(begun.elapsed());
            // On this thread, because the system keeps the last error for each thread.
            copied.map_err(|error| write_error("checkpointing", error))
        })?;
        let step = u64::from(step.max(1));
        Ok(Self {
            copier,
            passes: 0,
            copying: false,
            log: 0,
            copied: 0,
            step,
            begin_at: step,
            restart_at: RESTART_STEPS * step,
            in_step,
            on_warning,
            warned: Warned::default(),
            gauges,
        })
    }

    pub(crate) fn gauges(&self) -> Arc<CheckpointGauges> {
        Arc::clone(&self.gauges)
    }

    /// To be called between the commits of `writer`.
    pub(crate) fn between_commits(&mut self, writer: &Connection) -> Result<(), TransactionError> {
        self.collect(self.log >= self.restart_at)?;
        self.read_lengths(writer)?;
        while !self.copying && (self.passes > 0 || self.log >= self.begin_at) {
            let left = self.log - self.copied;
            if self.passes == MAX_PASSES || (self.passes > 0 && left <= self.step / WRITER_SHARE) {
                self.passes = 0;
                self.begin_at = self.log + self.step;
                if left > 0 {
                    let begun = Instant::now();
                    copy(writer)?;
                    self.gauges.durations.observe_duration(begun.elapsed());
                    self.warned.failing = false;
                    self.read_lengths(writer)?;
                }
            } else {
                self.passes += 1;
                self.copying = true;
                self.copier.send(());
                self.collect(self.in_step)?;
                self.read_lengths(writer)?;
            }
        }
        if !self.copying && self.log >= self.restart_at {
            // Waiting delays commits, so the writer waits more rarely the longer the log is.
            self.restart_at = self.log + self.step.max(self.log / 4);
            if !restart_log(writer)? && !std::mem::replace(&mut self.warned.pinned, true) {
                let bytes = self.log * u64::from(PAGE_BYTES);
                (self.on_warning)(&format!(
                    "the log has {bytes} bytes and grows, because something reads the store without a pause"
                ));
            }
        }
        Ok(())
    }

    /// Copies all of the log and waits for its readers, so that the next commit begins it anew. Returns whether they ended
    /// in time.
    pub(crate) fn begin_log_anew(&mut self, writer: &Connection) -> Result<bool, TransactionError> {
        // That it failed before is why this is tried now.
        match self.settle() {
            Err(TransactionError::Store(StoreError::NoSpace { .. })) | Ok(()) => {}
            Err(failure) => return Err(failure),
        }
        let begun = restart_log(writer)?;
        self.read_lengths(writer)?;
        Ok(begun)
    }

    /// Warns that copying failed: once, until it has succeeded again.
    pub(crate) fn warn(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.warned.failing, true) {
            (self.on_warning)(&format!(
                "the log cannot be copied into the file, and grows until it can: {error}"
            ));
        }
    }

    /// Reads the length of the log and how much of it is copied.
    fn read_lengths(&mut self, writer: &Connection) -> rusqlite::Result<()> {
        let (log, copied) = checkpoint(writer, "NOOP")?;
        if copied < self.copied || log < self.log {
            // SQLite has started the log again.
            self.passes = 0;
            self.begin_at = self.step;
            self.restart_at = RESTART_STEPS * self.step;
            self.warned = Warned::default();
        }
        (self.log, self.copied) = (log, copied.min(log));
        self.gauges.log_pages.store(log, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the helper has finished.
    pub(crate) fn settle(&mut self) -> Result<(), TransactionError> {
        self.collect(true)
    }

    /// Takes the helper's result, if it has finished.
    fn collect(&mut self, wait: bool) -> Result<(), TransactionError> {
        if !self.copying {
            return Ok(());
        }
        match self.copier.take(wait) {
            Ok(copied) => {
                self.copying = false;
                self.warned.failing &= copied.is_err();
                copied.map_err(TransactionError::Store)
            }
            Err(NoResult::NotYet) => Ok(()),
            Err(NoResult::ThreadPanicked) => {
                let reason = "the thread that copies the log panicked".into();
                Err(TransactionError::Store(StoreError::Poisoned { reason }))
            }
        }
    }
}

/// Copies as much as readers allow.
fn copy(connection: &Connection) -> rusqlite::Result<()> {
    FailPoint::Checkpoint.reach();
    checkpoint(connection, "PASSIVE")?;
    FailPoint::Checkpointed.reach();
    Ok(())
}

/// A failed sync of ours, as the error that SQLite gives for its own.
pub(super) fn fsync_error(error: &io::Error) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some(error.to_string()))
}

/// Waits for the readers that keep SQLite from starting the log again. Returns whether they ended in time.
fn restart_log(connection: &Connection) -> rusqlite::Result<bool> {
    let mut restart = connection.prepare_cached("PRAGMA wal_checkpoint(RESTART)")?;
    restart.query_row([], |row| row.get::<_, bool>(0)).map(|busy| !busy)
}

/// Runs a checkpoint. Returns the number of pages in the log, and how many of them are copied.
pub(crate) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(u64, u64)> {
    let mut checkpoint = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    checkpoint.query_row([], |row| {
        let pages = |i| row.get::<_, i64>(i).map(|pages| u64::try_from(pages).unwrap_or(0));
        Ok((pages(1)?, pages(2)?))
    })
}

#[cfg(test)]
mod tests;
