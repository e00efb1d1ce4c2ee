//! A whole store, made of the public API of `aggregator-core` alone: the proof that anybody can write one, and a
//! beginning for those who do.
//!
//! It keeps the rows of each partition in a list ([`Disk`]), which a store can be opened on again after it was closed.
//! [`DedupStore`] is implemented here, what happens to the lists is in `disk.rs`. It has no commit across partitions, no
//! records, and no way to erase, release or forget: `across`, `records`, `amend` and `forget` are left out, and `tests/it/main.rs` says
//! so to the conformance suite. So an identity has one row for ever, and rows of other stores are refused whose identity
//! was released or forgotten.

mod disk;

use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;
use std::sync::MutexGuard;

use aggregator_core::store::backend::{
    CommitNotifier, DEFAULT_MAX_TOPICS, check_partition, check_positions, check_seqs, merge,
};
use aggregator_core::{
    AttemptId, BackupProgress, Clock, CommitCallback, CommitListener, Deadline, DedupStore, Durability,
    EventRef, Identity, Import, Imported, Maintain, Outcome, Page, Partition, Query, Receipt, RowLimit, Seen,
    StoreError, StoreInfo, StoreStats, StoredRow, Topic, TopicInfo, TopicQuery, Transfer, VerifyReport,
    Watch, system_clock,
};

use disk::Contents;
pub use disk::Disk;

/// A store whose rows live in the memory of its [`Disk`].
pub struct ListStore {
    info: StoreInfo,
    disk: Disk,
    clock: Clock,
    max_topics: u64,
    commits: CommitNotifier,
}

impl ListStore {
    /// Opens what is on `disk`.
    pub fn open(disk: &Disk) -> Self {
        let info = StoreInfo::new("list", disk.id(), Durability::Volatile, disk.partitions());
        let commits = CommitNotifier::new(disk.lock().last_offsets());
        let (clock, max_topics) = (system_clock(), DEFAULT_MAX_TOPICS);
        Self { info, disk: disk.clone(), clock, max_topics, commits }
    }

    /// With another clock and another bound on the number of topics.
    #[must_use]
    pub fn with(mut self, clock: Clock, max_topics: u64) -> Self {
        (self.clock, self.max_topics) = (clock, max_topics);
        self
    }

    /// For a caller that waits no longer than its deadline.
    fn read_contents(&self, doing: &str) -> Result<MutexGuard<'_, Contents>, StoreError> {
        let contents = self.disk.lock();
        // Also after the wait for the lock.
        Deadline::check(doing)?;
        Ok(contents)
    }
}

impl DedupStore for ListStore {
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
        let (receipts, last_offset) = {
            let mut contents = self.disk.lock();
            contents.check_topics(events.iter().map(EventRef::topic), self.max_topics)?;
            let now = (self.clock)();
            let receipts = contents.append(partition, now, events);
            (receipts, contents.last_offset(partition))
        };
        if receipts.iter().any(|receipt| receipt.outcome == Outcome::Stored) {
            self.commits.announce(partition, last_offset);
        }
        Ok(receipts)
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        let mut positions = query.positions(&self.info)?;
        let contents = self.read_contents("reading events")?;
        check_positions(query, &self.info, &mut positions, |position| Ok(contents.ends(query, position)))?;
        let scans = positions.into_iter().map(|from| contents.scan(query, from)).collect();
        Ok(merge(query, &self.info, scans))
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        let contents = self.read_contents("looking identities up")?;
        Ok(ids.iter().map(|id| contents.seen(id)).collect())
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        Ok(self.read_contents("listing topics")?.topics(query))
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        Ok(self.read_contents("counting")?.stats())
    }

    fn maintain(&self) -> Option<&dyn Maintain> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        Some(self)
    }
}

impl Maintain for ListStore {
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        Ok(self.disk.lock().purge(topic, through_seq))
    }

    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError> {
        check_seqs(&seqs)?;
        Ok(self.disk.lock().bytes(topic, &seqs))
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        Ok(self.disk.lock().verify())
    }

    fn backup(
        &self,
        _path: &Path,
        _on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { kind: self.info.kind, operation: "be backed up" })
    }
}

impl Transfer for ListStore {
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        check_partition(self.info.partitions, partition, std::iter::empty())?;
        Ok(self.disk.lock().rows(partition, after, limit))
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        check_partition(self.info.partitions, partition, import.topic_names())?;
        if import.rows.iter().any(|row| row.is_forgotten()) {
            return Err(StoreError::Unsupported {
                kind: self.info.kind,
                operation: "go on behind events that another store has forgotten",
            });
        }
        if import.rows.iter().any(|row| row.released) {
            return Err(StoreError::Unsupported {
                kind: self.info.kind,
                operation: "keep released identities",
            });
        }
        let (imported, last_offset) = {
            let mut contents = self.disk.lock();
            contents.check_topics(import.topic_names(), self.max_topics)?;
            // All or nothing: what is refused half-way is thrown away.
            let mut changed = contents.clone();
            let imported = changed.import(partition, import)?;
            *contents = changed;
            (imported, contents.last_offset(partition))
        };
        if imported.added > 0 {
            self.commits.announce(partition, last_offset);
        }
        Ok(imported)
    }
}

impl Watch for ListStore {
    fn on_commit(&self, callback: CommitCallback) -> CommitListener {
        self.commits.listen(callback)
    }
}
