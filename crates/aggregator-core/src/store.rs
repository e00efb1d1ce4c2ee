//! The contract of a deduplicating store, and the stores that keep it.

pub mod backend;
mod commit_notifier;
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(feature = "test-util")]
pub mod faulty;
mod info;
mod maintain;
mod memory;
mod page;
mod pointers;
mod records;
#[cfg(feature = "sqlite")]
mod sqlite;
pub mod transfer;

use std::path::Path;

use ulid::Ulid;

pub use commit_notifier::{CommitCallback, CommitListener, CommitNotifier, Watch};
pub use info::{Ancestor, Durability, StoreId, StoreInfo, StoreStats, TopicInfo, VerifyReport};
pub use maintain::Maintain;
pub use memory::MemoryStore;
pub use records::{
    MAX_RECORD_KIND_BYTES, MAX_RECORD_NAME_BYTES, MAX_RECORD_VALUE_BYTES, MAX_RECORDS, MAX_RECORDS_BYTES,
    Record, RecordOutcome, RecordWrite, Records, StaleRecord,
};
#[cfg(all(feature = "sqlite", feature = "test-util"))]
pub use sqlite::{HelperStep, OnHelper, OnReadSteps, OnSync, TestHooks};
#[cfg(feature = "sqlite")]
pub use sqlite::{Hooks, IndexOptions, OnWarning, SqliteOptions, SqliteStore};
pub use transfer::{Import, Imported, RowLimit, Rows, Times, Transfer};

use crate::event::last_before;
use crate::{
    Batch, Event, EventRef, Identity, Page, Partition, Partitions, Query, StoreError, StoredRow, Timestamp,
    Topic, TopicSelector,
};

/// A durable set of events that takes each [`Identity`] once.
///
/// # Contract
///
/// * **Exactly once.** Of all events with one identity, one is stored, ever: across batches, callers
///   and restarts. Equality is that of the identity's own bytes.
/// * **Durable.** `Ok` means the outcome is as durable as [`StoreInfo::durability`] says.
/// * **One commit.** Identity, event, seq and counters change together or not at all.
/// * **Order.** Within a topic, seqs are 1, 2, 3, … in the order of the batches and, inside a batch,
///   of its events. A reader never sees a seq before the one below it. Duplicates and conflicts take
///   no seq. Across topics there is no order.
/// * **Time.** `processed_at` is one value per append and partition, and never goes back within a
///   partition, whatever the clock does.
/// * **Deadlines.** [`read`](Self::read), [`lookup`](Self::lookup), [`topics`](Self::topics) and
///   [`stats`](Self::stats) end soon after the [`Deadline`](crate::Deadline) of their caller, if it has one,
///   with [`StoreError::Unavailable`], and leave nothing behind that a later call would notice. A call that begins
///   after its deadline does nothing. Appends have no deadline.
/// * **Errors.** `Err` from [`append`](Self::append) promises nothing (the commit may have happened
///   and its reply been lost), so the caller retries with the same identities and learns from the
///   receipts what became of them. The backends here are all or nothing per batch.
///
/// Calls come from any thread. Appends to one partition wait for each other; the intended use is one
/// thread at a time per partition that appends whatever has gathered, as one batch.
pub trait DedupStore: Send + Sync {
    /// What kind of store this is. Constant for a store.
    fn info(&self) -> &StoreInfo;

    /// Stores what is new of `events` and tells the fate of each: `receipts[i]` is that of
    /// `events[i]`. Every topic must belong to `partition` (see [`Partitions::of`]).
    ///
    /// Repeats inside the batch are found: the first one wins. A batch of duplicates only, and an
    /// empty one, are fine. A repeat of an identity with another payload is a conflict, and the first
    /// payload stays. `attempt` names this try: a caller that does not know whether an append was
    /// committed may repeat it with the same events and the same attempt, and a backend that can then
    /// lose a reply without losing the commit tells `stored` from `duplicate` by it.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if a topic does not belong to `partition` or would be one too many;
    /// otherwise whatever the backend meets.
    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError>;

    /// [`append`](Self::append) for events of any partitions, in one commit: many small appends in many
    /// partitions cost less so. Whoever calls it holds all these partitions at once.
    ///
    /// # Errors
    /// As [`append`](Self::append), for all events at once; [`StoreError::Unsupported`] unless
    /// [`StoreInfo::commits_across`].
    fn append_across(
        &self,
        _attempt: AttemptId,
        _events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        Err(StoreError::Unsupported { kind: self.info().kind, operation: "append across partitions" })
    }

    /// Does what can be done of an append before its turn comes, on the calling thread, and notes it in
    /// `batch`. It never waits for an append and changes nothing that is stored; whoever leaves it out has
    /// slower appends and the same receipts.
    fn prepare(&self, _batch: &mut Batch) {}

    /// A page of the clean stream.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a limit out of range; [`StoreError::WrongCursor`] for a cursor of another
    /// store or query; [`StoreError::Expired`] if a topic of the query was purged beyond its cursor.
    fn read(&self, query: &Query) -> Result<Page, StoreError>;

    /// Which of these identities were seen: `result[i]` is about `ids[i]`.
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError>;

    /// Up to `limit` topics after `after`, by name.
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn topics(&self, after: Option<&Topic>, limit: usize) -> Result<Vec<TopicInfo>, StoreError>;

    /// Totals over the store's whole life.
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Whether the store can still keep what it promises, as far as a moment's look tells: cheap enough for every second,
    /// beside appends, for nobody else would notice while nothing is appended. The default has nothing to look at.
    ///
    /// # Errors
    /// What stands in the way. After a [fatal](StoreError::is_fatal) error no append succeeds any more either; after
    /// [`StoreError::NoSpace`] they do once there is room.
    fn check_health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Purging, checking and copying, where the store can.
    fn maintain(&self) -> Option<&dyn Maintain> {
        None
    }

    /// Moving everything it stores to another store and back, where the store can.
    fn transfer(&self) -> Option<&dyn Transfer> {
        None
    }

    /// Small named values with versions, where the store has them.
    fn records(&self) -> Option<&dyn Records> {
        None
    }

    /// Hearing of commits, where the store tells of them.
    fn watch(&self) -> Option<&dyn Watch> {
        None
    }

    /// The store's partitions.
    fn partitions(&self) -> Partitions {
        self.info().partitions
    }
}

/// What follows from [`DedupStore`].
pub trait DedupStoreExt: DedupStore {
    /// [`DedupStore::append`] for events of any partitions: one commit where the store
    /// [`commits_across`](StoreInfo::commits_across) partitions, and otherwise one for each partition met. If
    /// one fails, others may have been stored; retry all of them.
    ///
    /// # Errors
    /// The first one met, with the indices of `events`.
    fn append_all(&self, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        if self.info().commits_across {
            return self.append_across(AttemptId::new(), events);
        }
        let mut indices: Vec<Vec<usize>> = vec![Vec::new(); usize::from(self.partitions().count())];
        for (index, event) in events.iter().enumerate() {
            indices[usize::from(self.partitions().of(event.topic()).0)].push(index);
        }
        let mut receipts = vec![None; events.len()];
        for (partition, indices) in self.partitions().iter().zip(indices) {
            if indices.is_empty() {
                continue;
            }
            let part: Vec<_> = indices.iter().map(|&index| events[index]).collect();
            let appended = self.append(partition, AttemptId::new(), &part);
            for (index, receipt) in indices.iter().zip(appended.map_err(|error| at(&indices, error))?) {
                receipts[*index] = Some(receipt);
            }
        }
        Ok(receipts.into_iter().map(|receipt| receipt.expect("every event has a partition")).collect())
    }

    /// Whether the store has, or had, a topic that `topics` selects. Costs one look at the topics.
    ///
    /// # Errors
    /// As [`DedupStore::topics`].
    fn knows(&self, topics: &TopicSelector) -> Result<bool, StoreError> {
        let after = match topics {
            TopicSelector::All => None,
            TopicSelector::Exact(topic) => last_before(topic.as_str()),
            TopicSelector::Below(topic) => last_before(&format!("{topic}.")),
        };
        let first = self.topics(after.as_ref(), 1)?;
        Ok(first.first().is_some_and(|first| topics.matches(first.topic.as_str())))
    }

    /// [`Maintain::purge`], where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("purge"))?.purge(topic, through_seq)
    }

    /// [`Maintain::verify`], where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("be verified"))?.verify()
    }

    /// [`Maintain::backup`], where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn backup(&self, path: &Path) -> Result<(), StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("be backed up"))?.backup(path)
    }

    /// [`Transfer::rows`], where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::transfer`].
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        self.transfer().ok_or_else(|| self.unsupported("be exported"))?.rows(partition, after, limit)
    }

    /// [`Transfer::import`], where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::transfer`].
    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        self.transfer().ok_or_else(|| self.unsupported("import rows"))?.import(partition, import)
    }

    /// [`Watch::on_commit`], where the store can.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] without [`DedupStore::watch`].
    fn on_commit(&self, callback: CommitCallback) -> Result<CommitListener, StoreError> {
        Ok(self.watch().ok_or_else(|| self.unsupported("tell of commits"))?.on_commit(callback))
    }

    /// The error of a capability that the store lacks.
    fn unsupported(&self, operation: &'static str) -> StoreError {
        StoreError::Unsupported { kind: self.info().kind, operation }
    }

    /// Appends one event.
    ///
    /// # Errors
    /// As [`DedupStore::append`].
    fn append_one(&self, event: &Event) -> Result<Receipt, StoreError> {
        self.append_all(&[event.view()]).map(|receipts| receipts[0])
    }
}

impl<S: DedupStore + ?Sized> DedupStoreExt for S {}

/// The error of a part of a batch, with the indices that its events have in the batch.
fn at(indices: &[usize], mut error: StoreError) -> StoreError {
    if let StoreError::Invalid(faults) = &mut error {
        for fault in faults {
            fault.index = fault.index.map(|index| indices[index]);
        }
    }
    error
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was new.
    Stored,
    /// It repeats an event that is stored. As good as stored.
    Duplicate,
    /// It repeats an identity with another payload; the first payload stays.
    Conflict,
}

/// What became of an event, and of the first one with its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it.
    pub outcome: Outcome,
    /// The seq of the event that is stored under the identity; `None` where only the identity was
    /// ever known.
    pub seq: Option<u64>,
    /// When that event was stored.
    pub processed_at: Timestamp,
}

/// What is known of an identity that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The seq of its event; `None` where only the identity was ever known.
    pub seq: Option<u64>,
    /// When it was stored.
    pub processed_at: Timestamp,
    /// Whether its payload was removed since.
    pub purged: bool,
}

/// Names one try of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId(u128);

impl AttemptId {
    /// A new name.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        Self(Ulid::generate().0)
    }

    /// The name as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

/// The number of topics a store takes unless it is told otherwise.
pub const DEFAULT_MAX_TOPICS: u64 = 100_000;

/// Refuses items whose topic belongs to another partition.
///
/// # Errors
/// [`StoreError::Invalid`], naming each of them; or the partition, if there is no such one.
pub fn check_partition<'t>(
    partitions: Partitions,
    partition: Partition,
    topics: impl Iterator<Item = &'t str>,
) -> Result<(), StoreError> {
    if partition.0 >= partitions.count() {
        return Err(StoreError::invalid("partition", format!("must be below {}", partitions.count())));
    }
    if partitions == Partitions::ONE {
        return Ok(());
    }
    let faults: Vec<_> = topics
        .enumerate()
        .filter(|(_, topic)| partitions.of(topic) != partition)
        .map(|(index, _)| crate::Fault {
            index: Some(index),
            error: crate::InvalidField::new("topic", format!("does not belong to partition {}", partition.0)),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(StoreError::Invalid(faults)) }
}
