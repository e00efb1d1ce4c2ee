//! The contract of a deduplicating store, and the stores that keep it.

pub mod backend;
mod commit_notifier;
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(feature = "test-util")]
pub mod faulty;
mod info;
mod memory;
mod page;
mod sqlite;
pub mod transfer;

use std::path::Path;

use ulid::Ulid;

pub use commit_notifier::{CommitCallback, CommitListener, CommitNotifier};
pub use info::{Ancestor, Durability, StoreId, StoreInfo, StoreStats, TopicInfo, VerifyReport};
pub use memory::MemoryStore;
#[cfg(feature = "test-util")]
pub use sqlite::{HelperStep, OnHelper, OnReadSteps, OnSync, TestHooks};
pub use sqlite::{IndexOptions, OnWarning, SqliteOptions, SqliteStore};
pub use transfer::{Import, Imported, RowLimit, Rows, Times};

use crate::event::last_before;
use crate::{
    Batch, Event, EventRef, Identity, Page, Partition, Partitions, Query, Record, StoreError, Timestamp,
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

    /// Calls `callback` after commits that stored something, with the partition and its last offset, until the
    /// listener is dropped.
    ///
    /// * The offsets of a partition only rise. Where commits race, a call with the newest offset stands for all.
    /// * Whoever listens first and reads then misses nothing: what the read does not find is announced.
    /// * The callback may use the store, listen and drop listeners, for the store holds no lock meanwhile. It must
    ///   not block: an append waits for it, though not always the one it is told of, and no other append does.
    /// * A commit that comes after the listener was dropped is not told to it. A call that has begun on another
    ///   thread may still be running.
    /// * One that panics is called for the next commit again. Neither the append nor other listeners notice.
    fn on_commit(&self, callback: CommitCallback) -> CommitListener;

    /// Whether the store can still keep what it promises, as far as a moment's look tells: cheap enough for every second,
    /// beside appends, for nobody else would notice while nothing is appended. The default has nothing to look at.
    ///
    /// # Errors
    /// What stands in the way. After a [fatal](StoreError::is_fatal) error no append succeeds any more either; after
    /// [`StoreError::NoSpace`] they do once there is room.
    fn check_health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes the payloads of `topic`'s events up to and including `through_seq`, keeps their
    /// identities (as stubs, so that repeats and conflicts are still told), and says how many events
    /// went. A prefix goes, never a middle.
    ///
    /// # Errors
    /// Whatever the backend meets; what was removed until then stays removed.
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError>;

    /// Reads everything and checks it against itself: dense seqs, counters, index. Takes time.
    ///
    /// # Errors
    /// Whatever keeps it from reading; what it finds wrong is in the report.
    fn verify(&self) -> Result<VerifyReport, StoreError>;

    /// Writes a consistent copy to `path`, which must not exist, while appends go on.
    ///
    /// The copy is a store of its own, with a name of its own: if it takes the original's place, cursors
    /// up to where it was made stay good, and those beyond are refused and not taken for others.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where there is nothing to copy; otherwise whatever the backend meets.
    fn backup(&self, path: &Path) -> Result<(), StoreError>;

    /// The rows of a partition behind the offset `after`, in append order, each with its offset: events,
    /// stubs, and identities that were imported alone. Nothing is left out, and only the end has none.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where it cannot be exported; [`StoreError::Corrupt`] where a row is
    /// damaged or missing; otherwise whatever the backend meets.
    fn rows(
        &self,
        _partition: Partition,
        _after: u64,
        _limit: RowLimit,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        Err(StoreError::Unsupported { kind: self.info().kind, operation: "be exported" })
    }

    /// Stores rows of another store with their seqs and times, in one commit, as durable as an append. A
    /// row that is there already is skipped, so an import that was cut off, or whose reply was lost, is
    /// repeated. What is taken and what is refused is decided by [`transfer::judge`] and, for the
    /// totals that come with or behind the rows, by [`transfer::judge_topic`].
    ///
    /// Every topic must belong to `partition`. Rows with a seq move the partition's time, which never goes
    /// back; identities alone do not, and are not counted as stored.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if anything of it is refused: nothing of it was stored then. The fault's
    /// index is that of the row; totals count on behind the rows. [`StoreError::Unsupported`] where nothing
    /// can be imported; otherwise whatever the backend meets.
    fn import(&self, _partition: Partition, _import: Import<'_>) -> Result<Imported, StoreError> {
        Err(StoreError::Unsupported { kind: self.info().kind, operation: "import rows" })
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
        let mut receipts = vec![None; events.len()];
        for partition in self.partitions().iter() {
            let indices: Vec<usize> =
                (0..events.len()).filter(|&i| self.partitions().of(events[i].topic()) == partition).collect();
            if indices.is_empty() {
                continue;
            }
            let part: Vec<_> = indices.iter().map(|&index| events[index]).collect();
            let appended = self.append(partition, AttemptId::new(), &part).map_err(|error| match error {
                StoreError::Invalid(mut faults) => {
                    for fault in &mut faults {
                        fault.index = fault.index.map(|index| indices[index]);
                    }
                    StoreError::Invalid(faults)
                }
                other => other,
            })?;
            for (index, receipt) in indices.into_iter().zip(appended) {
                receipts[index] = Some(receipt);
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

    /// Appends one event.
    ///
    /// # Errors
    /// As [`DedupStore::append`].
    fn append_one(&self, event: &Event) -> Result<Receipt, StoreError> {
        self.append_all(&[event.view()]).map(|receipts| receipts[0])
    }
}

impl<S: DedupStore + ?Sized> DedupStoreExt for S {}

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
