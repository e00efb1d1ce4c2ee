//! The durable default: everything in one SQLite file.
//!
//! One connection writes, behind a lock, and each append is one transaction that is fsynced before
//! it returns. A small pool of read-only connections reads beside it. The events table is the truth;
//! the dedup index ([`index`]) only points into it.

mod amend;
mod background;
mod catalog;
mod checkpoint;
mod fault;
mod file;
mod forget;
mod free_pages;
mod full_disk;
pub(crate) mod index;
mod journal;
mod maintain;
mod options;
mod read;
mod records;
mod row;
mod schema;
mod test_hooks;
mod write;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::OpenFlags;

use self::checkpoint::{CheckpointGauges, Checkpoints};
use self::fault::store_error;
use self::file::claim::Claim;
use self::file::connector::Connector;
use self::file::files::Files;
use self::file::reserve::{Reserve, fitting};
use self::file::room::Room;
use self::index::Compaction;
pub use self::index::IndexOptions;
use self::journal::Journal;
pub use self::options::{OnProgress, OnWarning, OpenProgress, SqliteOptions};
use self::read::Memory;
pub use self::test_hooks::Hooks;
#[cfg(feature = "test-util")]
pub use self::test_hooks::{HelperStep, OnHelper, OnReadSteps, OnSync, TestHooks};
use self::write::record_queue::RecordQueue;
use self::write::{Writer, lookup_hint};
use super::{
    Amend, AttemptId, CommitCallback, CommitListener, CommitNotifier, DedupStore, Durability, Forget, Import,
    Imported, Maintain, Outcome, Receipt, Records, RowLimit, Seen, StoreGauges, StoreInfo, StoreStats,
    TopicInfo, Transfer, VerifyReport, Watch, check_partition,
};
use crate::histogram::Histogram;
use crate::{
    Batch, Clock, Deadline, EventRef, Identity, Page, Partition, Partitions, Query, StoreError, StoredRow,
    TopicQuery,
};

/// A durable store in one SQLite file.
///
/// `Ok` from an append means the commit was fsynced: it survives `kill -9` and loss of power. An
/// append is all or nothing. After a failed fsync, or once the file contradicts itself, no further
/// append is taken ([`StoreError::Poisoned`]) until it is opened anew.
///
/// One process at a time: a lock beside the file (`…-lock`) refuses a second one. The file has to lie
/// on a local file system. `sqlite3 FILE 'select * from processed_events'` reads it meanwhile.
///
/// While the store is open, and after a crash, its log (`…-wal`) belongs to it: whoever copies the file alone, or removes
/// the log, has lost events, and opening it is refused. [`Maintain::backup`] and `sqlite3 FILE '.backup COPY'` make
/// whole copies at any time; a store that was closed can be copied as a file.
pub struct SqliteStore {
    info: StoreInfo,
    /// See [`Self::warnings`].
    warnings: Vec<String>,
    connector: Connector,
    readers: r2d2::Pool<SqliteConnectionManager>,
    memory: Memory,
    writer: Mutex<Writer>,
    record_queue: RecordQueue,
    commits: CommitNotifier,
    syncs: Arc<Histogram>,
    checkpoints: Arc<CheckpointGauges>,
    clock: Clock,
    files: Arc<Files>,
    room: Room,
    /// The file, for its syncs. Declared after all connections: closing it drops the locks SQLite has on it.
    file: Arc<File>,
    /// Held as long as the store is open; declared last, so it is let go last.
    claim: Claim,
}

impl SqliteStore {
    /// Warnings from opening the store, one sentence each: its file system may lose what is acknowledged.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Opens the store at `path` with the default options; creates it, and its directory, if there is
    /// none.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// Opens the store at `path`; creates it, and its directory, if there is none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if another process has it open or the path cannot be used,
    /// [`StoreError::Invalid`] if the file is not a store of this kind, [`StoreError::Format`] if it is one of another version, and
    /// [`StoreError::Corrupt`] if it is one but is damaged or has lost its log. Whatever the opening made is removed then.
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        options.index.check()?;
        let options = fitting(path.as_ref(), options);
        let connector = Connector::new(&options);
        let mut opened = file::open(path.as_ref(), &options, &connector)?;
        let files = Arc::new(opened.files);
        let info = StoreInfo::new("sqlite", opened.id, Durability::Fsync, Partitions::ONE)
            .with_ancestors(opened.ancestors);
        let watched = Arc::clone(&files);
        let manager = connector
            .manager(opened.claim.path(), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .with_init(move |connection| {
                // It was opened by its name, which may be another file's by now.
                watched
                    .check_names()
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                connection.execute_batch(schema::READER_PRAGMAS)
            });
        let readers = r2d2::Pool::builder()
            .max_size(options.readers.max(1))
            .min_idle(Some(0))
            .connection_timeout(options.read_wait)
            // A few readers cost little, and the pool's job of closing old ones would keep its threads for
            // half a minute after the store is gone.
            .idle_timeout(None)
            .max_lifetime(None)
            .build(manager)
            .map_err(|error| StoreError::Unavailable {
                reason: "its readers cannot be opened".into(),
                source: Some(Box::new(error)),
            })?;
        let index = Arc::new(opened.index);
        let compaction = Compaction::start(
            Arc::clone(&index),
            opened.manifest,
            options.index,
            opened.index_reader,
            connector.in_step(),
            connector.helper_observer(),
        );
        let compaction = compaction.map_err(|error| StoreError::Unavailable {
            reason: "the thread that builds the dedup index cannot be started".into(),
            source: Some(Box::new(error)),
        })?;
        let file = Arc::clone(&opened.file);
        let checkpoints = Checkpoints::start(
            opened.copier,
            move || file.sync_data(),
            options.checkpoint_bytes / schema::PAGE_BYTES,
            connector.in_step(),
            connector.helper_observer(),
            Arc::clone(&options.on_warning),
        );
        let checkpoints = checkpoints.map_err(|error| StoreError::Unavailable {
            reason: "the thread that copies the log cannot be started".into(),
            source: Some(Box::new(error)),
        })?;
        let memory = Memory { index, names: opened.names, tails: Arc::default() };
        let mut journal =
            Journal::new(Arc::clone(&memory.names), Arc::clone(&memory.tails), options.max_unfolded);
        let catalog = opened.catalog.map(|read| journal.begin_with(read));
        let clock = Arc::clone(&options.clock);
        let checkpoint_gauges = checkpoints.gauges();
        let reserve = Reserve::of(opened.claim.path(), &options);
        let writer = Writer::new(
            opened.connection,
            catalog,
            journal,
            options,
            compaction,
            checkpoints,
            Arc::clone(&files),
        );
        opened.claim.keep();
        Ok(Self {
            info,
            warnings: opened.warning.into_iter().collect(),
            room: Room::of(opened.claim.path(), reserve),
            connector,
            readers,
            memory,
            syncs: writer.syncs(),
            checkpoints: checkpoint_gauges,
            writer: Mutex::new(writer),
            record_queue: RecordQueue::default(),
            commits: CommitNotifier::new([0]),
            clock,
            files,
            file: opened.file,
            claim: opened.claim,
        })
    }

    /// Makes the dedup index of the store at `path` anew from its events and stubs, whatever is left of it,
    /// and opens the store. Should it be cut off, the next opening goes on with it.
    ///
    /// # Errors
    /// As [`Self::open_with`]; [`StoreError::Corrupt`] where an event or a stub itself is damaged.
    pub fn rebuild_index(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        let connector = Connector::new(&options);
        file::empty_index(path.as_ref(), &options, &connector)?;
        Self::open_with(path, options)
    }

    /// Reads all of the store at `path`, which nobody has open, and checks it against itself: also one that
    /// is too damaged to be opened. With [`SqliteOptions::accept_lost_log`], one that has lost its log counts as
    /// closed from then on, if what is left of it is sound.
    ///
    /// # Errors
    /// As [`Self::open_with`]. What is found to be wrong is no error, it is in the report.
    pub fn verify_file(path: impl AsRef<Path>, options: &SqliteOptions) -> Result<VerifyReport, StoreError> {
        let connector = Connector::new(options);
        let (claim, mut connection) =
            file::connect_alone(path.as_ref(), options, &connector, schema::VERSION)?;
        let report = read::verify(&mut connection, connector.fingerprint_bits())?;
        if report.faults.is_empty() {
            // A log that cannot be copied now stays, and the next opening copies it.
            let closed = file::wal_mark::close_in_order(&connection);
            if options.accept_lost_log || options.accept_copied_files {
                let doing = format!("marking {} as closed", claim.path().display());
                if !closed.map_err(|error| store_error(&doing, error))? {
                    let path = claim.path().display();
                    return Err(StoreError::unavailable(format!(
                        "another program has {path} open: close it"
                    )));
                }
            }
        }
        Ok(report)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.claim.path()
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        self.writer
            .lock()
            .map_err(|_| StoreError::Poisoned { reason: "a thread panicked during a write".into() })
    }

    /// A connection to read with, until the deadline of the caller.
    fn reader(&self, doing: &str) -> Result<r2d2::PooledConnection<SqliteConnectionManager>, StoreError> {
        Deadline::check(doing)?;
        let deadline = Deadline::current();
        let wait = self.readers.connection_timeout();
        let wait = deadline.map_or(wait, |deadline| wait.min(deadline.remaining()));
        let reader = self.readers.get_timeout(wait).map_err(|error| match self.files.check_names() {
            Err(gone) => gone,
            Ok(()) => StoreError::Unavailable {
                reason: format!("{doing}: all {} readers are busy", self.readers.max_size()),
                source: Some(Box::new(error)),
            },
        })?;
        self.connector.set_deadline(&reader, deadline).map_err(|error| store_error(doing, error))?;
        Ok(reader)
    }

    /// Marks the file before a long read. A long read that begins before the mark would make the first append wait. If
    /// the file cannot be marked, the read goes on without it.
    fn mark(&self) {
        let _ = self.writer().and_then(|mut writer| writer.mark());
    }
}

impl DedupStore for SqliteStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    fn append(
        &self,
        partition: Partition,
        _attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        check_partition(self.info.partitions, partition, events.iter().map(EventRef::topic))?;
        let appended = self.append_if_there_is_room(events);
        self.room.note(&appended);
        let (receipts, last_offset) = appended?;
        if receipts.iter().any(|receipt| receipt.outcome == Outcome::Stored) {
            self.commits.announce(partition, last_offset);
        }
        Ok(receipts)
    }

    fn prepare(&self, batch: &mut Batch) {
        if batch.len() >= lookup_hint::FROM {
            batch.set_hints(lookup_hint::hints(&self.memory.index, &self.memory.names, batch));
        }
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        read::read(&mut *self.reader("reading events")?, &self.memory, &self.info, query)
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        read::lookup(&mut *self.reader("looking identities up")?, &self.memory, ids)
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        read::topics(&mut *self.reader("listing topics")?, &self.memory, query)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        read::stats(&*self.reader("counting")?, self.path())
    }

    fn check_health(&self) -> Result<(), StoreError> {
        self.files.check()?;
        self.room.check()
    }

    fn gauges(&self) -> Option<StoreGauges> {
        let [main, log] = self.files.sizes();
        let (runs, bytes) = self.memory.index.size();
        Some(StoreGauges {
            syncs: Some(self.syncs.counts()),
            checkpoints: Some(self.checkpoints.durations.counts()),
            log_bytes: Some(self.checkpoints.log_bytes()),
            parts: vec![("main", main), ("log", log)],
            index_runs: Some(runs),
            index_bytes: Some(bytes),
        })
    }

    fn maintain(&self) -> Option<&dyn Maintain> {
        Some(self)
    }

    fn amend(&self) -> Option<&dyn Amend> {
        Some(self)
    }

    fn forget(&self) -> Option<&dyn Forget> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn records(&self) -> Option<&dyn Records> {
        Some(self)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        Some(self)
    }
}

impl Transfer for SqliteStore {
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        check_partition(self.info.partitions, partition, std::iter::empty())?;
        read::rows(&mut *self.reader("reading rows")?, after, limit)
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        check_partition(self.info.partitions, partition, import.topic_names())?;
        let imported = self.writer()?.import(import);
        self.room.note(&imported);
        let (imported, last_offset) = imported?;
        if imported.added > 0 {
            self.commits.announce(partition, last_offset);
        }
        Ok(imported)
    }
}

impl Watch for SqliteStore {
    fn on_commit(&self, callback: CommitCallback) -> CommitListener {
        self.commits.listen(callback)
    }
}
