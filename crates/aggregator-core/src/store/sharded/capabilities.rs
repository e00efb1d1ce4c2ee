//! What the whole can do if all shards can, and is asked of one of them at a time.

use std::ops::ControlFlow;

use super::Sharded;
use crate::store::amend::check_amended;
use crate::store::records::{check_key, check_list, check_writes};
use crate::store::{
    Amend, CommitCallback, CommitListener, DedupStoreExt as _, EraseProgress, Erased, Forget, Import,
    Imported, Record, RecordOutcome, RecordWrite, Records, RowLimit, Seen, Transfer, Watch, check_partition,
};
use crate::{Identity, Partition, StoreError, StoredRow, Timestamp, Topic};

impl Amend for Sharded {
    fn erase(
        &self,
        ids: &[Identity],
        on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError> {
        check_amended(ids)?;
        self.amend_each(ids, |shard, part| {
            self.shards[shard].maintain(|store| store.erase_with_progress(part, on_progress))
        })
    }

    fn release(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        check_amended(ids)?;
        self.amend_each(ids, |shard, part| self.shards[shard].maintain(|store| store.release(part)))
    }
}

impl Sharded {
    /// Asks each shard about its own identities, and puts the answers into the order of all.
    fn amend_each<T: Default + Clone>(
        &self,
        ids: &[Identity],
        mut amend: impl FnMut(usize, &[Identity]) -> Result<Vec<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut results = vec![T::default(); ids.len()];
        let of_shards = self.routing.split(ids.iter().map(|id| id.topic.as_str()));
        for (shard, indices) in of_shards.into_iter().enumerate().filter(|(_, indices)| !indices.is_empty()) {
            let part: Vec<_> = indices.iter().map(|&index| ids[index].clone()).collect();
            for (index, result) in indices.into_iter().zip(amend(shard, &part)?) {
                results[index] = result;
            }
        }
        Ok(results)
    }
}

impl Forget for Sharded {
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        let shard = self.shard_of(topic.as_str());
        shard.maintain(|store| store.forget_identities(topic, before, most))
    }

    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        self.shard_of(topic.as_str()).maintain(|store| match store.forget() {
            Some(forget) => forget.forgettable_identities(topic, before, most),
            None => Ok(0),
        })
    }
}

impl Transfer for Sharded {
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        let (shard, partition) = self.locate(partition)?;
        shard.maintain(|store| store.rows(partition, after, limit))
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        check_partition(self.info.partitions, partition, import.topic_names())?;
        let (shard, partition) = self.locate(partition)?;
        shard.append(partition, |store| store.import(partition, import))
    }
}

/// All of them are in shard 0.
impl Records for Sharded {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Record>, StoreError> {
        check_key(kind, name)?;
        self.shards[0].read(|store| records_of(store)?.get(kind, name))
    }

    fn list(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        check_list(kind, limit)?;
        self.shards[0].read(|store| records_of(store)?.list(kind, prefix, after, limit))
    }

    fn write(&self, writes: &[RecordWrite]) -> Result<RecordOutcome, StoreError> {
        check_writes(writes)?;
        self.shards[0].write_records(|store| records_of(store)?.write(writes))
    }

    fn now(&self) -> Result<Timestamp, StoreError> {
        self.shards[0].read(|store| records_of(store)?.now())
    }
}

fn records_of(store: &dyn crate::DedupStore) -> Result<&dyn Records, StoreError> {
    let kind = store.info().kind;
    store.records().ok_or(StoreError::Unsupported { kind, operation: "keep records" })
}

impl Watch for Sharded {
    fn on_commit(&self, callback: CommitCallback) -> CommitListener {
        self.commits.listen(callback)
    }
}
