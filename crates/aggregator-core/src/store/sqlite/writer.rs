//! The one writer of the file: a transaction per append, and what follows when one fails.

use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::by_topic::ByTopic;
use super::checkpoints::Checkpoints;
use super::fault::write_error;
use super::files::Files;
use super::group::{Failure, Group, check_topics};
use super::import::Importing;
use super::index::{Index, Recent, Upkeep};
use super::known::{Known, Names};
use super::latest::Latest;
use super::{SqliteOptions, log_mark, purge};
use crate::fail_point::{self, FailPoint};
use crate::store::{Import, Imported, Receipt};
use crate::{EventRef, StoreError, Timestamp};

pub(super) struct Writer {
    /// Before the connection, so that it is let go first: SQLite copies the log when the last connection that may
    /// write closes.
    checkpoints: Checkpoints,
    connection: Connection,
    options: SqliteOptions,
    /// What the file says, as of the last commit; `None` where that has to be read first.
    known: Option<Known>,
    upkeep: Upkeep,
    /// The entries of the append at hand.
    added: Recent,
    latest: Latest,
    names: Arc<Names>,
    /// Also why no further write is taken.
    files: Arc<Files>,
    /// Whether the file says that its log belongs to it; nothing is committed before.
    marked: bool,
}

impl Drop for Writer {
    /// Leaves everything in the file, so that the file alone can be copied. SQLite does that when the
    /// last connection closes, unless that is one of the readers, which may only read.
    ///
    /// If it fails, the log still holds everything. It stays as well after a failed sync, for it holds what that may have
    /// lost, and where the files are no longer those under their names: what lies there belongs to somebody else.
    fn drop(&mut self) {
        if self.checkpoints.settle().is_ok() && self.files.check().is_ok() {
            let why = match log_mark::close_in_order(&self.connection) {
                Ok(true) => return,
                Ok(false) => "somebody still reads or copies it".to_owned(),
                Err(error) => write_error("copying the log into the file", error).to_string(),
            };
            (self.options.on_warning)(&format!("the file is closed and its log stays beside it: {why}"));
        } else {
            let _ = log_mark::keep_log(&self.connection);
        }
    }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        mut known: Option<Known>,
        options: SqliteOptions,
        upkeep: Upkeep,
        checkpoints: Checkpoints,
        names: Arc<Names>,
        files: Arc<Files>,
    ) -> Self {
        if let Some(known) = &mut known {
            names.committed(known);
        }
        Self {
            connection,
            latest: Latest::new(options.latest_bytes as usize),
            names,
            options,
            known,
            upkeep,
            added: Recent::default(),
            files,
            marked: false,
            checkpoints,
        }
    }

    /// The receipts and the last offset.
    pub(super) fn append(&mut self, events: &[EventRef<'_>]) -> Result<(Vec<Receipt>, u64), StoreError> {
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

    /// Sees to it that the file says that its log belongs to it.
    pub(super) fn mark(&mut self) -> Result<(), StoreError> {
        self.files.check_failure()?;
        if !self.marked {
            let marked = log_mark::ensure(&mut self.connection, (self.options.clock)());
            marked.map_err(|error| self.fail("marking the file", Failure::Sqlite(error)))?;
            self.marked = true;
        }
        Ok(())
    }

    /// Merges runs of the dedup index as long as there are too many, in transactions of their own.
    fn relieve(&mut self) -> Result<(), Failure> {
        while self.upkeep.is_crowded() {
            self.upkeep.collect()?;
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let manifest = self.upkeep.write(&transaction)?;
            transaction.commit()?;
            self.upkeep.committed(&mut Recent::default(), manifest);
            self.checkpoints.between_commits(&self.connection)?;
        }
        Ok(())
    }

    fn try_append(&mut self, events: &[EventRef<'_>]) -> Result<(Vec<Receipt>, u64), Failure> {
        let SqliteOptions { clock, max_topics, .. } = &self.options;
        let (clock, max_topics) = (Arc::clone(clock), *max_topics);
        let by_topic = ByTopic::of(events, self.upkeep.index().number());
        let (receipts, stored, now) = self.transact(|transaction, known, index, latest, added| {
            // Before anything changes: a batch that is refused costs its neighbours nothing.
            let names = by_topic.topics.iter().map(|topic| topic.name);
            check_topics(known, names, max_topics).map_err(|failure| by_topic.of_events(failure))?;
            let now = Timestamp::from_micros(clock().as_micros().max(known.tail.last_processed_at));
            let group = Group::new(transaction, known, index, latest, added, now)?;
            let (receipts, stored) = group.append(events, by_topic)?;
            fail_point::decided(&receipts);
            Ok((receipts, stored, now))
        })?;
        let last_offset = self.upkeep.index().last_offset();
        for (offset, event) in (last_offset + 1 - stored.len() as u64..).zip(&stored) {
            self.latest.push(offset, now.as_micros(), event);
        }
        Ok((receipts, last_offset))
    }

    /// What became of the rows, and the last offset.
    pub(super) fn import(&mut self, import: Import<'_>) -> Result<(Imported, u64), StoreError> {
        self.mark()?;
        let max_topics = self.options.max_topics;
        let result = self.relieve().and_then(|()| {
            self.transact(|transaction, known, index, _, added| {
                check_topics(known, import.topic_names(), max_topics)?;
                let imported = Importing::new(transaction, known, index, added)?.import(import)?;
                Ok((imported, known.tail.last_offset))
            })
        });
        let imported = result.map_err(|failure| self.fail("importing", failure))?;
        self.committed()?;
        Ok(imported)
    }

    /// Does `work` and what is ready of the index in one transaction, and commits it.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &mut Known, &Index, &Latest, &mut Recent) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.upkeep.collect()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known = match &mut self.known {
            Some(known) => known,
            unknown => unknown.insert(Known::load(&transaction)?),
        };
        if known.tail.last_offset != self.upkeep.index().last_offset() {
            let what = "the last offset in the file is not the one the dedup index goes up to";
            return Err(Failure::Store(StoreError::corrupt(what)));
        }
        // From here on it is ahead of the file; any failure before the commit's end throws it away.
        let done = work(&transaction, known, self.upkeep.index(), &self.latest, &mut self.added)?;
        let manifest = self.upkeep.write(&transaction)?;
        FailPoint::BeforeCommit.reach();
        transaction.commit()?;
        FailPoint::AfterCommit.reach();
        self.names.committed(known);
        self.upkeep.committed(&mut self.added, manifest);
        Ok(done)
    }

    /// Turns up to a thousand of the topic's oldest events into stubs; how many it were.
    pub(super) fn purge_slice(&mut self, topic: &str, through_seq: u64) -> Result<u64, StoreError> {
        self.mark()?;
        self.latest.clear();
        let result = purge::purge_slice(&mut self.connection, &mut self.known, topic, through_seq);
        let purged = result.map_err(|failure| self.fail("purging", failure))?;
        self.committed()?;
        Ok(purged)
    }

    /// What the caller is told of a failure; remembers it if nothing can be trusted after it.
    fn fail(&mut self, doing: &str, failure: Failure) -> StoreError {
        let error = match failure {
            Failure::Refused(faults) => return StoreError::Invalid(faults),
            Failure::Store(error) => error,
            Failure::Sqlite(error) => write_error(doing, error),
        };
        self.known = None;
        if error.is_fatal() {
            self.files.fail(error.to_string());
        }
        error
    }

    /// What follows a commit before anybody is told of it.
    fn committed(&mut self) -> Result<(), StoreError> {
        self.checkpoint()?;
        // It is on the disk. Whether the next start finds it there is another question.
        self.files.check()
    }

    /// Copies the log back into the file once enough has gathered.
    ///
    /// A failed fsync there is the append's failure, although its commit stands: nothing may be acknowledged
    /// after one. A full disk is not: the log still holds everything.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let Err(failure) = self.checkpoints.between_commits(&self.connection) else { return Ok(()) };
        let known = self.known.take();
        let error = self.fail("checkpointing", failure);
        if error.is_fatal() {
            return Err(error);
        }
        self.checkpoints.warn(&error);
        self.known = known;
        Ok(())
    }
}
