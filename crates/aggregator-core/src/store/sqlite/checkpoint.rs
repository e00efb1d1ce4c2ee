//! Copying the log back into the file.
//!
//! SQLite writes over the log from its start once a transaction begins and all of it is copied. A helper copies while
//! appends go on, so it hardly ever has all: what was committed meanwhile is left. Once that is little, the writer copies
//! it, between two commits.
//!
//! SQLite syncs the file only once all is copied, which would leave all of the sync to the writer. So the helper syncs what
//! it has copied, too.
//!
//! One of them copies at a time. Two at once are what SQLite's worst bug in this place needed (mended in 3.51.3).

use std::io;

use rusqlite::{Connection, ffi};

use super::OnWarning;
use super::background::{Helper, NoResult, Watch};
use super::fault::{TransactionError, write_error};
use super::schema::PAGE_BYTES;
use crate::StoreError;
use crate::fail_point::FailPoint;

/// What the writer may copy itself: a step divided by this.
const LITTLE: u64 = 4;

/// How often the helper tries to leave no more than that.
const PASSES: u32 = 3;

/// Readers that overlap without end keep SQLite from writing over the log. From this many steps on they are waited for, up
/// to the busy timeout.
const PINNED: u64 = 16;

/// Lengths are in pages.
pub(crate) struct Checkpoints {
    copier: Helper<(), Result<(), StoreError>>,
    /// How often the helper has begun since the log became long enough; 0 while it rests.
    passes: u32,
    copying: bool,
    /// How long the log was when it was last looked at, and how much of it was in the file.
    log: u64,
    copied: u64,
    /// How much is worth copying.
    step: u64,
    /// From which length of the log on to begin.
    next: u64,
    /// From which length on to wait for readers.
    restart: u64,
    /// Appends wait for the helper, so that a seed brings back the same writes.
    in_step: bool,
    on_warning: OnWarning,
    /// Whether it was said that the log cannot be copied, or cannot be written over; nothing did it since.
    warned: Warned,
}

#[derive(Default)]
struct Warned {
    failing: bool,
    pinned: bool,
}

impl Checkpoints {
    /// For the log of a file, to which `connection` is one of its own, and which `sync` syncs.
    pub(crate) fn start(
        connection: Connection,
        sync: impl Fn() -> io::Result<()> + Send + 'static,
        step: u32,
        in_step: bool,
        watch: Watch,
        on_warning: OnWarning,
    ) -> io::Result<Self> {
        let copier = Helper::start("checkpoint", connection, watch, move |connection, ()| {
            let copied = copy(connection).and_then(|()| sync().map_err(|error| unsynced(&error)));
            // Here, since the system's error is this thread's.
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
            next: step,
            restart: PINNED * step,
            in_step,
            on_warning,
            warned: Warned::default(),
        })
    }

    /// To be called between the commits of `writer`.
    pub(crate) fn between_commits(&mut self, writer: &Connection) -> Result<(), TransactionError> {
        self.collect(self.log >= self.restart)?;
        self.look(writer)?;
        while !self.copying && (self.passes > 0 || self.log >= self.next) {
            let left = self.log - self.copied;
            if self.passes == PASSES || (self.passes > 0 && left <= self.step / LITTLE) {
                self.passes = 0;
                self.next = self.log + self.step;
                if left > 0 {
                    copy(writer)?;
                    self.warned.failing = false;
                    self.look(writer)?;
                }
            } else {
                self.passes += 1;
                self.copying = true;
                self.copier.send(());
                self.collect(self.in_step)?;
                self.look(writer)?;
            }
        }
        if !self.copying && self.log >= self.restart {
            // The longer the log, the rarer the wait: it costs commits their time.
            self.restart = self.log + self.step.max(self.log / 4);
            if !restart(writer)? && !std::mem::replace(&mut self.warned.pinned, true) {
                let bytes = self.log * u64::from(PAGE_BYTES);
                (self.on_warning)(&format!(
                    "the log has {bytes} bytes and grows, for something reads the store without a pause"
                ));
            }
        }
        Ok(())
    }

    /// Tells that copying failed, once until it succeeds.
    pub(crate) fn warn(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.warned.failing, true) {
            (self.on_warning)(&format!(
                "the log cannot be copied into the file, and grows until it can: {error}"
            ));
        }
    }

    /// Learns how long the log is.
    fn look(&mut self, writer: &Connection) -> rusqlite::Result<()> {
        let (log, copied) = checkpoint(writer, "NOOP")?;
        if copied < self.copied || log < self.log {
            // It is written over.
            self.passes = 0;
            self.next = self.step;
            self.restart = PINNED * self.step;
            self.warned = Warned::default();
        }
        (self.log, self.copied) = (log, copied.min(log));
        Ok(())
    }

    /// Waits until nothing is being copied.
    pub(crate) fn settle(&mut self) -> Result<(), TransactionError> {
        self.collect(true)
    }

    /// Learns what the helper came to, if it has come to an end.
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
            Err(NoResult::Gone) => {
                let reason = "the thread that copies the log panicked".into();
                Err(TransactionError::Store(StoreError::Poisoned { reason }))
            }
        }
    }
}

/// Copies what no reader is before.
fn copy(connection: &Connection) -> rusqlite::Result<()> {
    FailPoint::Checkpoint.reach();
    checkpoint(connection, "PASSIVE")?;
    FailPoint::Checkpointed.reach();
    Ok(())
}

/// As SQLite tells of a sync that failed.
fn unsynced(error: &io::Error) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some(error.to_string()))
}

/// Waits for whoever keeps SQLite from writing over the log; whether they ended in time.
fn restart(connection: &Connection) -> rusqlite::Result<bool> {
    let mut restart = connection.prepare_cached("PRAGMA wal_checkpoint(RESTART)")?;
    restart.query_row([], |row| row.get::<_, bool>(0)).map(|busy| !busy)
}

/// Pages in the log, and how many of them are in the file, too.
pub(crate) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(u64, u64)> {
    let mut checkpoint = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    checkpoint.query_row([], |row| {
        let pages = |i| row.get::<_, i64>(i).map(|pages| u64::try_from(pages).unwrap_or(0));
        Ok((pages(1)?, pages(2)?))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::store::HelperStep;

    fn silent() -> OnWarning {
        Arc::new(|_| {})
    }

    fn connection(directory: &TempDir) -> Connection {
        let connection = Connection::open(directory.path().join("test.db")).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
        connection
    }

    #[test]
    fn what_the_helper_could_not_sync_fails_what_is_committed_next() {
        let directory = TempDir::new().unwrap();
        let writer = connection(&directory);
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        let fails = || Err(io::Error::from(io::ErrorKind::Other));
        let mut checkpoints =
            Checkpoints::start(connection(&directory), fails, 1, true, Watch::default(), silent()).unwrap();
        let Err(TransactionError::Store(error)) = checkpoints.between_commits(&writer) else {
            panic!("it is the helper's failure");
        };
        assert!(error.is_fatal(), "{error}");
    }

    /// Of a helper that begins once it is waited for.
    fn slow() -> Watch {
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let on_step = move |step: HelperStep<'_>| match step {
            // Of a test that fails, nobody may wait for it.
            HelperStep::Begin(_) => drop(released.lock().unwrap().recv_timeout(Duration::from_secs(20))),
            HelperStep::Wait(_) => release.send(()).unwrap(),
        };
        Watch { on_step: Some(Arc::new(on_step)) }
    }

    #[test]
    fn what_is_committed_while_the_helper_copies_is_copied_by_the_writer_and_the_log_begins_anew() {
        let directory = TempDir::new().unwrap();
        let open = || connection(&directory);
        let writer = open();
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        let insert = |bytes: u32| writer.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes]).unwrap();
        let reader = open();
        let step = 8;
        let mut checkpoints = Checkpoints::start(open(), || Ok(()), step, false, slow(), silent()).unwrap();
        for _ in 0..3 {
            insert(100_000);
            // As long as somebody reads there, the log is not written over.
            reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
            assert!(checkpoints.between_commits(&writer).is_ok());
            assert!(checkpoints.settle().is_ok());
            insert(10);
            reader.execute_batch("ROLLBACK").unwrap();
            assert!(checkpoints.between_commits(&writer).is_ok());
            let (log, copied) = checkpoint(&writer, "NOOP").unwrap();
            assert!(log > u64::from(step) && copied == log, "{copied} of {log}");
            insert(10);
            let (log, _) = checkpoint(&writer, "NOOP").unwrap();
            assert!(log < u64::from(step), "{log}");
        }
    }

    /// Appends are held up by a slow disk as late as can be, and each time by the same length.
    #[test]
    fn a_copy_is_waited_for_once_the_log_is_sixteen_steps_long_and_not_before() {
        let directory = TempDir::new().unwrap();
        let writer = connection(&directory);
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        let waits = Arc::<AtomicU32>::default();
        let counted = Arc::clone(&waits);
        let Watch { on_step: Some(slow) } = slow() else { unreachable!("it has one") };
        let on_step = move |step: HelperStep<'_>| {
            counted.fetch_add(u32::from(matches!(step, HelperStep::Wait(_))), Ordering::SeqCst);
            slow(step);
        };
        let watch = Watch { on_step: Some(Arc::new(on_step)) };
        let step = 20;
        let mut checkpoints =
            Checkpoints::start(connection(&directory), || Ok(()), step, false, watch, silent()).unwrap();
        for round in 1..=3 {
            let mut longest = 0;
            while waits.load(Ordering::SeqCst) < round {
                writer.execute("INSERT INTO t VALUES (zeroblob(5000))", []).unwrap();
                longest = checkpoint(&writer, "NOOP").unwrap().0.max(longest);
                assert!(checkpoints.between_commits(&writer).is_ok());
                assert!(longest < 2 * PINNED * u64::from(step), "nobody waits");
            }
            // An insert takes a few pages, and it is looked at the log after each.
            let late = PINNED * u64::from(step)..PINNED * u64::from(step) + 20;
            assert!(late.contains(&longest), "round {round}: {longest} pages");
        }
    }

    /// Says how often, and what at last.
    fn listening() -> (OnWarning, Arc<Mutex<Vec<String>>>) {
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let hear = Arc::clone(&heard);
        (Arc::new(move |warning| hear.lock().unwrap().push(warning.to_owned())), heard)
    }

    #[test]
    fn a_log_that_cannot_be_written_over_is_told_of_once() {
        let directory = TempDir::new().unwrap();
        let writer = connection(&directory);
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        let insert = || writer.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap();
        writer.busy_timeout(Duration::from_millis(1)).unwrap();
        let reader = connection(&directory);
        let (on_warning, heard) = listening();
        let mut checkpoints =
            Checkpoints::start(connection(&directory), || Ok(()), 1, true, Watch::default(), on_warning)
                .unwrap();
        for _ in 0..2 {
            reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
            for _ in 0..10 {
                insert();
                assert!(checkpoints.between_commits(&writer).is_ok());
            }
            reader.execute_batch("ROLLBACK").unwrap();
            assert!(checkpoints.between_commits(&writer).is_ok());
            insert();
            assert!(checkpoints.between_commits(&writer).is_ok());
        }
        let heard = heard.lock().unwrap();
        assert!(heard.len() == 2 && heard[0].contains("reads the store without a pause"), "{heard:?}");
        // From the sixteenth step on, of a page each.
        let bytes: u64 = heard[0].split(' ').find_map(|word| word.parse().ok()).unwrap();
        let longest = 40 * u64::from(PAGE_BYTES);
        assert!((PINNED * u64::from(PAGE_BYTES)..longest).contains(&bytes), "{heard:?}");
    }
}
