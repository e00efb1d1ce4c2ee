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

use super::group::Failure;
use super::helper::{Helper, Missing, Watch};
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
pub(super) struct Checkpoints {
    copier: Helper<(), rusqlite::Result<()>>,
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
}

impl Checkpoints {
    /// For the log of a file, to which `connection` is one of its own, and which `sync` syncs.
    pub(super) fn start(
        connection: Connection,
        sync: impl Fn() -> io::Result<()> + Send + 'static,
        step: u32,
        in_step: bool,
        watch: Watch,
    ) -> io::Result<Self> {
        let copier = Helper::start("checkpoint", connection, watch, move |connection, ()| {
            copy(connection)?;
            sync().map_err(|error| unsynced(&error))
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
        })
    }

    /// To be called between the commits of `writer`.
    pub(super) fn between_commits(&mut self, writer: &Connection) -> Result<(), Failure> {
        self.collect(self.log >= self.restart)?;
        self.look(writer)?;
        while !self.copying && (self.passes > 0 || self.log >= self.next) {
            let left = self.log - self.copied;
            if self.passes == PASSES || (self.passes > 0 && left <= self.step / LITTLE) {
                self.passes = 0;
                self.next = self.log + self.step;
                if left > 0 {
                    copy(writer)?;
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
            checkpoint(writer, "RESTART")?;
        }
        Ok(())
    }

    /// Learns how long the log is.
    fn look(&mut self, writer: &Connection) -> rusqlite::Result<()> {
        let (log, copied) = checkpoint(writer, "NOOP")?;
        if copied < self.copied || log < self.log {
            // It is written over.
            self.passes = 0;
            self.next = self.step;
            self.restart = PINNED * self.step;
        }
        (self.log, self.copied) = (log, copied.min(log));
        Ok(())
    }

    /// Waits until nothing is being copied.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        self.collect(true)
    }

    /// Learns what the helper came to, if it has come to an end.
    fn collect(&mut self, wait: bool) -> Result<(), Failure> {
        if !self.copying {
            return Ok(());
        }
        match self.copier.take(wait) {
            Ok(copied) => {
                self.copying = false;
                copied.map_err(Failure::Sqlite)
            }
            Err(Missing::NotYet) => Ok(()),
            Err(Missing::Gone) => {
                let reason = "the thread that copies the log panicked".into();
                Err(Failure::Store(StoreError::Poisoned { reason }))
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

/// Pages in the log, and how many of them are in the file, too.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(u64, u64)> {
    let mut checkpoint = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    checkpoint.query_row([], |row| {
        let pages = |i| row.get::<_, i64>(i).map(|pages| u64::try_from(pages).unwrap_or(0));
        Ok((pages(1)?, pages(2)?))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use tempfile::TempDir;

    use super::*;
    use crate::store::HelperStep;
    use crate::store::sqlite::fault::is_io_failure;

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
            Checkpoints::start(connection(&directory), fails, 1, true, Watch::default()).unwrap();
        let Err(Failure::Sqlite(error)) = checkpoints.between_commits(&writer) else {
            panic!("it is a failure of SQLite's kind");
        };
        assert!(is_io_failure(&error), "{error}");
    }

    /// Of a helper that begins once it is waited for.
    fn slow() -> Watch {
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let on_step = move |step: HelperStep<'_>| match step {
            HelperStep::Begin(_) => released.lock().unwrap().recv().unwrap(),
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
        let mut checkpoints = Checkpoints::start(open(), || Ok(()), step, false, slow()).unwrap();
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
}
