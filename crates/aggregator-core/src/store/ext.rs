//! Methods for callers of a store, made of those that a store has to implement.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;

use super::{
    AttemptId, BackupProgress, CommitCallback, CommitListener, DedupStore, EraseProgress, Erased, Import,
    Imported, Pages, Receipt, RowLimit, Seen, Tail, VerifyReport,
};
use crate::{
    Cursor, Event, EventRef, Identity, Order, Partition, Query, StoreError, StoredRow, Timestamp, Topic,
    TopicQuery, Topics,
};

/// Methods that every [`DedupStore`] has, and those of its capabilities, which return [`StoreError::Unsupported`] if
/// the store lacks the capability.
///
/// The methods of [`Records`](super::Records) are not among them. As methods of a store, `get`, `write` and `now`
/// would not say that they are about records: call them on [`DedupStore::records`].
pub trait DedupStoreExt: DedupStore {
    /// [`DedupStore::append`] for events of any partitions: one commit where the store can
    /// [append across](DedupStore::across) partitions, and otherwise one for each partition met. If one fails, others
    /// may have been stored; retry all of them.
    ///
    /// # Errors
    /// The first one met, with the indices of `events`.
    fn append_all(&self, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        if let Some(across) = self.across() {
            return across.append_across(AttemptId::new(), events);
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
            for (index, receipt) in
                indices.iter().zip(appended.map_err(|error| with_batch_indices(&indices, error))?)
            {
                receipts[*index] = Some(receipt);
            }
        }
        Ok(receipts.into_iter().map(|receipt| receipt.expect("every event has a partition")).collect())
    }

    /// Whether the store has, or had, a topic that `topics` selects. It costs one read of one topic, or of
    /// as many as there are selectors.
    ///
    /// # Errors
    /// As [`DedupStore::topics`].
    fn knows(&self, topics: &Topics) -> Result<bool, StoreError> {
        let first = TopicQuery { limit: 1, ..TopicQuery::of(topics.clone()) };
        Ok(!self.topics(&first)?.is_empty())
    }

    /// The cursor behind everything that is stored: a reader of `query` that begins there reads what is stored from now
    /// on.
    ///
    /// # Errors
    /// As [`DedupStore::read`].
    fn end(&self, query: &Query) -> Result<Cursor, StoreError> {
        let query = Query { order: Order::Ascending, after: None, ..query.clone() };
        // Nothing is as old as this, so no event is looked at.
        let nothing = Query { until: Some(Timestamp::from_micros(i64::MIN)), limit: 1, ..query.clone() };
        Ok(query.cursor(self.info(), &self.read(&nothing)?.newest()))
    }

    /// Page after page of what `query` asks for, from its cursor on: see [`Pages`].
    fn pages(&self, query: Query) -> Pages<'_, Self> {
        Pages::new(self, query)
    }

    /// What `query` asks for from its cursor on, and then what comes: see [`Tail`].
    fn tail(&self, query: Query) -> Tail<'_, Self> {
        Tail::new(self, query)
    }

    /// [`AppendAcross::append_across`](super::AppendAcross::append_across), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::across`].
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        let across = self.across().ok_or_else(|| self.unsupported("append across partitions"))?;
        across.append_across(attempt, events)
    }

    /// [`Maintain::purge`](super::Maintain::purge), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("purge"))?.purge(topic, through_seq)
    }

    /// [`Forget::forget_identities`](super::Forget::forget_identities), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::forget`].
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        let forget = self.forget().ok_or_else(|| self.unsupported("forget identities"))?;
        forget.forget_identities(topic, before, most)
    }

    /// [`Maintain::bytes`](super::Maintain::bytes), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("sum up bytes"))?.bytes(topic, seqs)
    }

    /// [`Maintain::give_back`](super::Maintain::give_back), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn give_back(&self, keep_bytes: u64) -> Result<u64, StoreError> {
        self.maintain()
            .ok_or_else(|| self.unsupported("give space back"))?
            .give_back(keep_bytes, &mut || ControlFlow::Continue(()))
    }

    /// [`Maintain::verify`](super::Maintain::verify), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("be verified"))?.verify()
    }

    /// [`Maintain::backup`](super::Maintain::backup), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::maintain`].
    fn backup(&self, path: &Path) -> Result<(), StoreError> {
        self.backup_with_progress(path, &mut |_| ControlFlow::Continue(()))
    }

    /// The same; `on_progress` is told how far it is, and may break it off.
    ///
    /// # Errors
    /// As [`Self::backup`].
    fn backup_with_progress(
        &self,
        path: &Path,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.maintain().ok_or_else(|| self.unsupported("be backed up"))?.backup(path, on_progress)
    }

    /// [`Amend::erase`](super::Amend::erase), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::amend`].
    fn erase(&self, ids: &[Identity]) -> Result<Vec<Erased>, StoreError> {
        self.erase_with_progress(ids, &mut |_| ControlFlow::Continue(()))
    }

    /// The same; `on_progress` is told how far it is, and may break it off.
    ///
    /// # Errors
    /// As [`Self::erase`].
    fn erase_with_progress(
        &self,
        ids: &[Identity],
        on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError> {
        self.amend().ok_or_else(|| self.unsupported("erase events"))?.erase(ids, on_progress)
    }

    /// [`Amend::release`](super::Amend::release), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::amend`].
    fn release(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.amend().ok_or_else(|| self.unsupported("release identities"))?.release(ids)
    }

    /// [`Transfer::rows`](super::Transfer::rows), where the store can.
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

    /// [`Transfer::import`](super::Transfer::import), where the store can.
    ///
    /// # Errors
    /// As there; [`StoreError::Unsupported`] without [`DedupStore::transfer`].
    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        self.transfer().ok_or_else(|| self.unsupported("import rows"))?.import(partition, import)
    }

    /// [`Watch::on_commit`](super::Watch::on_commit), where the store can.
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

/// The error of a part of a batch, with the indices that the events of the part have in the whole batch.
fn with_batch_indices(indices: &[usize], mut error: StoreError) -> StoreError {
    if let StoreError::Invalid(faults) = &mut error {
        for fault in faults {
            fault.index = fault.index.map(|index| indices[index]);
        }
    }
    error
}
