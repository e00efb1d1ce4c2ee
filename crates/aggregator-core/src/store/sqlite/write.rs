//! The one writer of the file. Each append is a transaction; a failed one decides whether the writer goes on.

pub(crate) mod amend_tx;
pub(crate) mod append_tx;
pub(crate) mod by_topic;
pub(crate) mod clear_free_space;
pub(crate) mod forget;
pub(crate) mod import_tx;
pub(crate) mod insert;
pub(crate) mod lookup_hint;
mod page_copy;
pub(crate) mod prefetch;
pub(crate) mod purge;
pub(crate) mod recent_events;
pub(crate) mod record_queue;
pub(crate) mod records_tx;

use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use self::amend_tx::AmendTx;
use self::append_tx::AppendTx;
use self::by_topic::ByTopic;
use self::import_tx::ImportTx;
use self::page_copy::PageCopy;
use self::recent_events::RecentEvents;
use super::catalog::{Catalog, check_topics};
use super::checkpoint::Checkpoints;
use super::fault::{TransactionError, write_error};
use super::file::files::Files;
use super::file::wal_mark;
use super::index::{Compaction, Index, Memtable};
use super::journal::Journal;
use super::options::SqliteOptions;
use super::schema::PAGE_BYTES;
use crate::fail_point::{self, FailPoint};
use crate::histogram::{Histogram, LATENCY};
use crate::store::{Erased, Import, Imported, Receipt, RecordOutcome, RecordWrite, Seen};
use crate::{EventRef, Identity, StoreError, Timestamp};

/// What a transaction changes beside the file. It is as of the last commit.
pub(crate) struct Changing<'w> {
    pub(crate) catalog: &'w mut Catalog,
    pub(crate) journal: &'w mut Journal,
    pub(crate) index: &'w Index,
    pub(crate) recent_events: &'w RecentEvents,
    /// Gets the index entries of what is stored.
    pub(crate) added: &'w mut Memtable,
}

pub(crate) struct Writer {
    /// Declared before the connection, so that it is dropped first: SQLite copies the log when the last connection that
    /// may write closes.
    checkpoints: Checkpoints,
    connection: Connection,
    options: SqliteOptions,
    /// The topics and counters as of the last commit; `None` if they have to be read from the file first.
    catalog: Option<Catalog>,
    journal: Journal,
    compaction: Compaction,
    /// The index entries of the current append.
    added: Memtable,
    recent_events: RecentEvents,
    /// Says why the writer takes no more writes, once it does not.
    files: Arc<Files>,
    /// Whether the file says that its log belongs to it. Nothing is committed before it does.
    marked: bool,
    /// Versions of records are above the time of the opening, in microseconds. So a copy of the file that is put back
    /// gives out no version again, whoever made it and however many were given out since.
    version_floor: u64,
    /// How long the commits of appends and imports took.
    syncs: Arc<Histogram>,
    /// What a copy that is under way has to copy again.
    page_copy: Option<PageCopy>,
}

impl Drop for Writer {
    /// Leaves everything in the file, so that the file alone can be copied. SQLite does that when the
    /// last connection closes, unless that is one of the readers, which may only read.
    ///
    /// If this fails, the log still holds everything. The log also stays after a failed sync, because it holds the pages
    /// that the sync may have lost. And it stays if the files under these names are other files now: those belong to
    /// somebody else.
    fn drop(&mut self) {
        if self.checkpoints.settle().is_ok() && self.files.check().is_ok() {
            let why = match wal_mark::close_in_order(&self.connection) {
                Ok(true) => return,
                Ok(false) => "somebody still reads or copies it".to_owned(),
                Err(error) => write_error("copying the log into the file", error).to_string(),
            };
            (self.options.on_warning)(&format!("the file is closed and its log stays beside it: {why}"));
        } else {
            let _ = wal_mark::keep_wal(&self.connection);
        }
    }
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        catalog: Option<Catalog>,
        journal: Journal,
        options: SqliteOptions,
        compaction: Compaction,
        checkpoints: Checkpoints,
        files: Arc<Files>,
    ) -> Self {
        Self {
            connection,
            recent_events: RecentEvents::new(options.recent_events_bytes as usize),
            catalog,
            journal,
            compaction,
            added: Memtable::default(),
            files,
            marked: false,
            version_floor: u64::try_from((options.clock)().as_micros()).unwrap_or(0),
            options,
            checkpoints,
            syncs: Arc::new(Histogram::new(&LATENCY)),
            page_copy: None,
        }
    }

    pub(crate) fn syncs(&self) -> Arc<Histogram> {
        Arc::clone(&self.syncs)
    }

    /// The receipts and the last offset.
    pub(crate) fn append(&mut self, events: &[EventRef<'_>]) -> Result<(Vec<Receipt>, u64), StoreError> {
        self.files.check_failure()?;
        if events.is_empty() {
            return Ok((Vec::new(), 0));
        }
        self.mark()?;
        let result = self.relieve().and_then(|()| self.try_append(events));
        let appended = result.map_err(|failure| self.fail("appending", failure))?;
        self.committed()?;
        Ok(appended)
    }

    /// Makes the file say that its log belongs to it.
    pub(crate) fn mark(&mut self) -> Result<(), StoreError> {
        self.files.check_failure()?;
        if !self.marked {
            let marked = wal_mark::ensure(&mut self.connection, (self.options.clock)());
            marked.map_err(|error| self.fail("marking the file", TransactionError::Sqlite(error)))?;
            self.marked = true;
        }
        Ok(())
    }

    /// Merges runs of the dedup index as long as there are too many, in transactions of their own.
    fn relieve(&mut self) -> Result<(), TransactionError> {
        while self.compaction.is_crowded() {
            self.compaction.collect()?;
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let manifest = self.compaction.write(&transaction)?;
            transaction.commit()?;
            self.compaction.committed(&mut Memtable::default(), manifest);
            self.note_pages();
            self.checkpoint().map_err(TransactionError::Store)?;
        }
        Ok(())
    }

    fn try_append(&mut self, events: &[EventRef<'_>]) -> Result<(Vec<Receipt>, u64), TransactionError> {
        let SqliteOptions { clock, max_topics, .. } = &self.options;
        let (clock, max_topics) = (Arc::clone(clock), *max_topics);
        let by_topic = ByTopic::of(events, self.compaction.index().owner());
        let (receipts, stored, now) = self.transact(|transaction, changing| {
            let catalog = &mut *changing.catalog;
            // Before anything changes, so that a refused batch does not make the writer read its state again.
            let names = by_topic.topics.iter().map(|topic| topic.name);
            check_topics(catalog, names, max_topics).map_err(|failure| by_topic.of_events(failure))?;
            let now = Timestamp::from_micros(clock().as_micros().max(catalog.partition.last_processed_at));
            changing.journal.begin(transaction, catalog)?;
            let group = AppendTx::new(transaction, changing, now)?;
            let (receipts, stored) = group.append(events, by_topic)?;
            fail_point::decided(&receipts);
            Ok((receipts, stored, now))
        })?;
        let last_offset = self.compaction.index().last_offset();
        for (offset, event) in (last_offset + 1 - stored.len() as u64..).zip(&stored) {
            self.recent_events.push(offset, now.as_micros(), event);
        }
        Ok((receipts, last_offset))
    }

    /// What became of the rows, and the last offset.
    pub(crate) fn import(&mut self, import: Import<'_>) -> Result<(Imported, u64), StoreError> {
        self.mark()?;
        if import.rows.iter().any(|row| row.released) {
            self.recent_events.clear();
        }
        let max_topics = self.options.max_topics;
        let result = self.relieve().and_then(|()| {
            self.transact(|transaction, changing| {
                check_topics(changing.catalog, import.topic_names(), max_topics)?;
                changing.journal.begin(transaction, changing.catalog)?;
                let before = changing.catalog.partition.last_offset;
                let imported = ImportTx::new(transaction, changing)?.import(import)?;
                Ok((imported, before + imported.added))
            })
        });
        let imported = result.map_err(|failure| self.fail("importing", failure))?;
        self.committed()?;
        Ok(imported)
    }

    /// Removes the payloads of all that is or was stored under these identities.
    pub(crate) fn erase(&mut self, ids: &[Identity]) -> Result<Vec<Erased>, StoreError> {
        self.amend("erasing", |amend| amend.erase(ids))
    }

    /// Lets these identities come again.
    pub(crate) fn release(&mut self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.amend("releasing identities", |amend| amend.release(ids))
    }

    fn amend<T>(
        &mut self,
        doing: &str,
        work: impl FnOnce(&mut AmendTx<'_, '_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.mark()?;
        // It would go on comparing with what is in memory.
        self.recent_events.clear();
        let amended = self.transact(|transaction, Changing { catalog, journal, index, added, .. }| {
            journal.begin(transaction, catalog)?;
            added.clear();
            Ok(work(&mut AmendTx::new(transaction, catalog, index)?)?)
        });
        let amended = amended.map_err(|failure| self.fail(doing, failure))?;
        self.committed()?;
        Ok(amended)
    }

    /// Does `work` and what is ready of the index in one transaction, and commits it. `work` begins with what may be refused, and
    /// then [begins](Journal::begin) with the journal.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, Changing<'_>) -> Result<T, TransactionError>,
    ) -> Result<T, TransactionError> {
        self.compaction.collect()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let catalog = self.journal.catalog(&mut self.catalog, &transaction)?;
        if catalog.partition.last_offset != self.compaction.index().last_offset() {
            let what = "the last offset in the file is not the one the dedup index goes up to";
            return Err(TransactionError::Store(StoreError::corrupt(what)));
        }
        // From here on the catalog in memory is ahead of the file. Any failure before the commit has returned discards it.
        let changing = Changing {
            catalog,
            journal: &mut self.journal,
            index: self.compaction.index(),
            recent_events: &self.recent_events,
            added: &mut self.added,
        };
        let done = work(&transaction, changing)?;
        self.journal.write(&transaction, catalog)?;
        let manifest = self.compaction.write(&transaction)?;
        FailPoint::BeforeCommit.reach();
        let begun = Instant::now();
        transaction.commit()?;
        self.syncs.observe_duration(begun.elapsed());
        FailPoint::AfterCommit.reach();
        catalog.committed();
        self.journal.committed(catalog);
        self.compaction.committed(&mut self.added, manifest);
        Ok(done)
    }

    /// Does the writes one after the other in one commit. Returns the outcome of each.
    pub(crate) fn write_records(
        &mut self,
        group: &[&[RecordWrite]],
    ) -> Result<Vec<RecordOutcome>, StoreError> {
        self.mark()?;
        let result = records_tx::write(&mut self.connection, group, self.version_floor);
        let outcomes = result.map_err(|failure| self.fail("writing records", failure))?;
        // Where all were stale, there was no commit.
        if outcomes.iter().any(|outcome| matches!(outcome, RecordOutcome::Written(_))) {
            self.committed()?;
        }
        Ok(outcomes)
    }

    /// Turns up to `most` of the topic's oldest events into stubs. Returns how many.
    pub(crate) fn purge_slice(
        &mut self,
        topic: &str,
        through_seq: u64,
        most: u64,
    ) -> Result<u64, StoreError> {
        self.mark()?;
        self.recent_events.clear();
        let result = purge::purge_slice(
            &mut self.connection,
            &mut self.catalog,
            &mut self.journal,
            topic,
            through_seq,
            most,
        );
        let purged = result.map_err(|failure| self.fail("purging", failure))?;
        self.committed()?;
        Ok(purged)
    }

    /// Removes up to `most` of the topic's oldest stubs that were stored before `before`. Returns how many.
    pub(crate) fn forget_slice(
        &mut self,
        topic: &str,
        before: Timestamp,
        most: u64,
    ) -> Result<u64, StoreError> {
        self.mark()?;
        let before = before.as_micros();
        let result = forget::forget_slice(
            &mut self.connection,
            &mut self.catalog,
            &mut self.journal,
            topic,
            before,
            most,
        );
        let forgotten = result.map_err(|failure| self.fail("forgetting", failure))?;
        if forgotten > 0 {
            self.committed()?;
        }
        Ok(forgotten)
    }

    /// Copies all of the log, so that the next commit is written at its start and makes it no longer. Returns whether no
    /// reader stood in the way.
    pub(crate) fn begin_log_anew(&mut self) -> Result<bool, StoreError> {
        let begun = self.checkpoints.begin_log_anew(&self.connection);
        begun.map_err(|failure| self.fail("copying the log into the file", failure))
    }

    /// The bytes of the file's free pages. 0 if that cannot be told now.
    pub(crate) fn free_bytes(&self) -> u64 {
        let pages = self.connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, u64>(0));
        pages.unwrap_or(0) * u64::from(PAGE_BYTES)
    }

    /// Turns a failure into the caller's error. Remembers it if nothing can be trusted after it.
    fn fail(&mut self, doing: &str, failure: TransactionError) -> StoreError {
        let error = match failure {
            TransactionError::Refused(faults) => return StoreError::Invalid(faults),
            TransactionError::Store(error) => error,
            TransactionError::Sqlite(error) => write_error(doing, error),
        };
        self.catalog = None;
        if error.is_fatal() {
            self.files.fail(error.to_string());
        }
        error
    }

    /// The steps between a commit and its acknowledgement.
    fn committed(&mut self) -> Result<(), StoreError> {
        self.note_pages();
        self.checkpoint()?;
        // The commit is on the disk. But the next start finds it only if the files are still under their names.
        self.files.check()
    }

    /// Copies the log back into the file once enough has gathered.
    ///
    /// A failed fsync there is the append's failure, although its commit stands: nothing may be acknowledged
    /// after one. A full disk is not: the log still holds everything.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let Err(failure) = self.checkpoints.between_commits(&self.connection) else { return Ok(()) };
        let catalog = self.catalog.take();
        let error = self.fail("checkpointing", failure);
        if error.is_fatal() {
            return Err(error);
        }
        self.checkpoints.warn(&error);
        self.catalog = catalog;
        Ok(())
    }
}
