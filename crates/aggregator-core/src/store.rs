//! The contract of a deduplicating store, and the stores that keep it.
//!
//! [`DedupStore`] is what every store does. What a store may lack is a capability with a trait of its own
//! ([`AppendAcross`], [`Amend`], [`Maintain`], [`Transfer`], [`Records`], [`Watch`]): the store hands out the ones it has, so there
//! is no flag beside them that could say something else. [`DedupStoreExt`] has what follows from these. [`backend`] says
//! how to add a store.
//!
//! # How these types may grow
//!
//! What may be added to a type without breaking anybody depends on who builds it and who reads it.
//!
//! * **A store builds it, callers read it** ([`StoreInfo`], [`StoreStats`], [`StoreGauges`], [`Outage`], [`TopicInfo`],
//!   [`VerifyReport`], [`Receipt`], [`Seen`], [`Erased`], [`Imported`], [`Page`]): `#[non_exhaustive]`, with a constructor
//!   or a default. It can get fields; whatever is no argument of the constructor is set as a field.
//! * **A caller builds it** ([`Query`], [`TopicQuery`], [`Import`], [`RowLimit`], `SqliteOptions`, `IndexOptions`): all fields are
//!   public. Write it with `..`, as in `SqliteOptions { readers: 8, ..SqliteOptions::default() }`, and take it apart
//!   with `..`: it can get fields.
//! * **It says all that is kept of an event** ([`StoredEvent`](crate::StoredEvent), [`StoredRow`](crate::StoredRow),
//!   [`KeptEvent`](crate::KeptEvent), [`Identity`]) **or all that a decision needs** (what [`backend`] and [`transfer`]
//!   are given): closed. A backend that did not know a new field would lose it without a word, so it must not compile.
//! * **An enum that tells a caller something** ([`StoreError`], [`WrongCursor`](crate::WrongCursor), [`Durability`]):
//!   `#[non_exhaustive]`. [`StoreError::is_retryable`] and [`StoreError::is_fatal`] say what to do about an unknown
//!   error.
//! * **An enum that somebody has to act on** ([`Outcome`], [`Order`](crate::Order), [`Times`],
//!   [`Kept`](crate::Kept), [`Scope`](crate::Scope), [`TopicSelector`](crate::TopicSelector),
//!   [`Verdict`](transfer::Verdict)): closed. To ignore a new variant would be a mistake.

mod amend;
mod append_across;
pub mod backend;
mod commit_notifier;
#[cfg(feature = "test-util")]
pub mod conformance;
mod ext;
#[cfg(feature = "test-util")]
pub mod faulty;
mod forget;
mod gauges;
mod info;
mod maintain;
mod memory;
mod outage;
mod page;
mod pages;
mod pointers;
mod receipt;
mod records;
pub mod sharded;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
mod tail;
pub mod transfer;

pub use amend::{Amend, EraseProgress, Erased, MAX_IDS_PER_AMEND};
pub use append_across::AppendAcross;
pub use commit_notifier::{CommitCallback, CommitListener, CommitNotifier, Watch};
pub use ext::DedupStoreExt;
pub use forget::Forget;
pub use gauges::StoreGauges;
pub use info::{Ancestor, Durability, StoreId, StoreInfo, StoreStats, TopicInfo, VerifyReport};
pub use maintain::{BackupProgress, MAX_SEQS_PER_SUM, Maintain, Upgraded};
pub use memory::MemoryStore;
pub use outage::Outage;
pub use pages::Pages;
pub use receipt::{AttemptId, Outcome, Receipt, Seen};
pub use records::{
    MAX_RECORD_KIND_BYTES, MAX_RECORD_NAME_BYTES, MAX_RECORD_VALUE_BYTES, MAX_RECORDS_PER_CALL,
    MAX_VALUE_BYTES_PER_CALL, Record, RecordOutcome, RecordWrite, Records, StaleRecord,
};
pub use sharded::Sharded;
#[cfg(all(feature = "sqlite", feature = "test-util"))]
pub use sqlite::{HelperStep, OnHelper, OnReadSteps, OnSync, TestHooks};
#[cfg(feature = "sqlite")]
pub use sqlite::{Hooks, IndexOptions, OnProgress, OnWarning, OpenProgress, SqliteOptions, SqliteStore};
pub use tail::Tail;
pub use transfer::{Import, Imported, RowLimit, Rows, Times, Transfer};

use crate::{Batch, EventRef, Identity, Page, Partition, Partitions, Query, StoreError, TopicQuery};

/// A durable set of events that takes each [`Identity`] once.
///
/// # Contract
///
/// * **Exactly once.** Of all events with one identity, one is stored, ever: across batches, callers
///   and restarts. Equality is that of the identity's own bytes. Only an operator can let an identity come again
///   ([`Amend::release`], [`Forget`]).
/// * **Durable.** `Ok` means the outcome is as durable as [`StoreInfo::durability`] says.
/// * **One commit.** Identity, event, seq and counters change together or not at all.
/// * **Order.** Within a topic, seqs are 1, 2, 3, … in the order of the batches and, inside a batch,
///   of its events. A reader never sees a seq before the one below it. Duplicates and conflicts take
///   no seq. Across topics there is no order.
/// * **Time.** `processed_at` is one value per append and partition, and never goes back within a
///   partition, whatever the clock does.
/// * **Deadlines.** [`read`](Self::read), [`lookup`](Self::lookup), [`topics`](Self::topics) and
///   [`stats`](Self::stats), and [`get`](Records::get) and [`list`](Records::list) of the store's records, end soon
///   after the [`Deadline`](crate::Deadline) of their caller, if it has one, with [`StoreError::Unavailable`], and
///   leave nothing behind that a later call would notice. A call that begins after its deadline does nothing. Appends
///   and writes of records have no deadline.
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
    /// committed may repeat it with the same events and the same attempt. A backend whose reply can be
    /// lost after the commit must store `attempt` in that commit: only so can the repeat be told `stored`
    /// and not `duplicate`. A backend in the same process loses no reply and may ignore it.
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

    /// Does what can be done of an append before its turn comes, on the calling thread, and notes it in
    /// `batch`. It never waits for an append and changes nothing that is stored. A caller may skip it:
    /// appends are then slower, and the receipts are the same.
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

    /// A page of the topics, by name. It costs what it returns, however many topics lie beside it.
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError>;

    /// Totals over the store's whole life. Partitions that do not answer while others do are left out and named
    /// ([`StoreStats::unavailable`]).
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Whether the store can still keep what it promises. A quick check, cheap enough to run every second beside
    /// appends. It is needed because without appends nobody else would notice a failure. The default checks nothing.
    ///
    /// # Errors
    /// What stands in the way. After a [fatal](StoreError::is_fatal) error no append succeeds any more either; after
    /// [`StoreError::NoSpace`] they do once there is room.
    fn check_health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The parts of the store that did not answer the latest calls and checks, while others did. It costs nothing: it asks
    /// nobody. A store that answers as a whole or not at all has none, which is the default.
    fn outages(&self) -> Vec<Outage> {
        Vec::new()
    }

    /// What the store measures of itself, where it does. A call costs the same however much is stored: it waits for no
    /// append and no disk, and answers after a failure as well. The default measures nothing.
    fn gauges(&self) -> Option<StoreGauges> {
        None
    }

    /// Appending to several partitions in one commit, where the store can.
    fn across(&self) -> Option<&dyn AppendAcross> {
        None
    }

    /// Purging, checking and copying, where the store can.
    fn maintain(&self) -> Option<&dyn Maintain> {
        None
    }

    /// Erasing and releasing single events, where the store can.
    fn amend(&self) -> Option<&dyn Amend> {
        None
    }

    /// Forgetting old identities, where the store can.
    fn forget(&self) -> Option<&dyn Forget> {
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

/// The number of topics a store takes unless it is told otherwise.
pub const DEFAULT_MAX_TOPICS: u64 = 100_000;

/// Refuses items whose topic belongs to another partition.
///
/// # Errors
/// [`StoreError::Invalid`], which names each of them, or the partition if the store does not have it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_of_another_partition_is_refused_and_named() {
        let partitions = Partitions::new(4).unwrap();
        assert_eq!(partitions.count(), 4);
        let here = partitions.of("here");
        let elsewhere = (0..).map(|n| n.to_string()).find(|topic| partitions.of(topic) != here).unwrap();
        assert!(check_partition(partitions, here, ["here"].into_iter()).is_ok());
        let refused = check_partition(partitions, here, ["here", &elsewhere].into_iter()).unwrap_err();
        let StoreError::Invalid(faults) = refused else { panic!("{refused}") };
        assert_eq!(faults.iter().map(|fault| fault.index).collect::<Vec<_>>(), [Some(1)]);
        assert!(check_partition(partitions, Partition(4), ["here"].into_iter()).is_err());
    }
}
