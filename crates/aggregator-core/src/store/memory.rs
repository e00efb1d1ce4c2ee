//! The reference backend: everything in memory, nothing clever.

mod amend;
mod forget;
mod records;
mod state;
mod transfer;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow, RangeInclusive};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use self::records::RecordTable;
use self::state::{Left, Row, Rows, State};
use crate::event::{digest, slot};
use crate::query::{Page, Query};
use crate::store::amend::check_amended;
use crate::store::maintain::check_seqs;
use crate::store::page::{check_positions, merge};
use crate::store::{
    Amend, AppendAcross, AttemptId, BackupProgress, CommitCallback, CommitListener, CommitNotifier,
    DEFAULT_MAX_TOPICS, DedupStore, Durability, EraseProgress, Erased, Forget, Import, Imported, Maintain,
    Outcome, Receipt, Records, RowLimit, Seen, StoreId, StoreInfo, StoreStats, TopicInfo, Transfer,
    VerifyReport, Watch, check_partition,
};
use crate::time::{Clock, system_clock};
use crate::{
    Deadline, EventRef, Identity, InvalidField, Partition, Partitions, StoreError, StoredRow, Timestamp,
    Topic, TopicQuery,
};

/// A volatile store: for tests, for comparison with the durable stores, and for measuring what durability
/// costs. It removes only what it is told to, so it grows.
pub struct MemoryStore {
    info: StoreInfo,
    commits_across: bool,
    clock: Clock,
    max_topics: u64,
    state: Mutex<State>,
    commits: CommitNotifier,
}

impl MemoryStore {
    /// An empty store with this many partitions.
    pub fn new(partitions: Partitions) -> Self {
        let state = State {
            partitions: partitions.iter().map(|_| Rows::default()).collect(),
            topics: BTreeMap::new(),
            records: RecordTable::default(),
        };
        Self {
            info: StoreInfo::new("memory", StoreId::new(), Durability::Volatile, partitions),
            commits_across: true,
            clock: system_clock(),
            max_topics: DEFAULT_MAX_TOPICS,
            state: Mutex::new(state),
            commits: CommitNotifier::new(partitions.iter().map(|_| 0)),
        }
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// With another bound on the number of topics.
    #[must_use]
    pub fn with_max_topics(mut self, max_topics: u64) -> Self {
        self.max_topics = max_topics;
        self
    }

    /// Turns off commits across partitions, so that callers can be tested with both kinds of store.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn with_a_commit_per_partition(mut self) -> Self {
        self.commits_across = false;
        self
    }

    /// Appends events of any partitions. The caller has checked that they belong where it was asked to append them.
    fn append_checked(&self, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        let mut receipts = Vec::with_capacity(events.len());
        let mut last_offsets = BTreeMap::new();
        {
            let mut state = self.state()?;
            state.check_topics(events.iter().map(EventRef::topic), self.max_topics)?;
            let clock = (self.clock)();
            for event in events {
                let partition = self.info.partitions.of(event.topic());
                let receipt = state.append(partition, clock, event);
                if receipt.outcome == Outcome::Stored {
                    let rows = &state.partitions[usize::from(partition.0)].rows;
                    last_offsets.insert(partition, rows.len() as u64);
                }
                receipts.push(receipt);
            }
        }
        for (partition, last_offset) in last_offsets {
            self.commits.announce(partition, last_offset);
        }
        Ok(receipts)
    }

    /// The state, for a read. An error if the caller's deadline has passed.
    fn state_to_read(&self, doing: &str) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state()?;
        // Checked here, because the wait for the lock counts as well.
        Deadline::check(doing)?;
        Ok(state)
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        self.state
            .lock()
            .map_err(|_| StoreError::Poisoned { reason: "a thread panicked inside the memory store".into() })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Partitions::ONE)
    }
}

/// The fault of an event that would bring one topic too many.
pub fn too_many_topics(max_topics: u64) -> InvalidField {
    InvalidField::new(
        "topic",
        format!(
            "would be a new one, and the store has its {max_topics} topics: use one of these or raise max_topics"
        ),
    )
}

impl DedupStore for MemoryStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    fn append(
        &self,
        partition: Partition,
        _: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        check_partition(self.info.partitions, partition, events.iter().map(EventRef::topic))?;
        self.append_checked(events)
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        let mut positions = query.positions(&self.info)?;
        let state = self.state_to_read("reading events")?;
        check_positions(query, &self.info, &mut positions, |position| {
            Ok(state.ends(self.info.partitions, query, position))
        })?;
        let scans = positions.into_iter().map(|from| state.scan(query, from)).collect::<Result<_, _>>()?;
        Ok(merge(query, &self.info, scans))
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        const DOING: &str = "looking identities up";
        let state = self.state_to_read(DOING)?;
        let look_up = |id| {
            Deadline::check(DOING)?;
            Ok(state.find(self.info.partitions, id).map(Row::seen))
        };
        ids.iter().map(look_up).collect()
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        let state = self.state_to_read("listing topics")?;
        let from = query.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = state.topics.range::<Topic, _>((from, Bound::Unbounded));
        let selected = behind.filter(|(name, _)| query.topics.matches(name.as_str()));
        Ok(selected
            .take(query.limit)
            .map(|(name, topic)| TopicInfo {
                topic: name.clone(),
                scope: topic.scope,
                slot: slot(name.as_str()),
                last_seq: topic.last_seq,
                purged_seq: topic.purged_seq,
                duplicates: topic.duplicates,
                conflicts: topic.conflicts,
                first_processed_at: topic.first_processed_at.filter(|_| query.times),
                last_processed_at: topic.last_processed_at.filter(|_| query.times),
            })
            .collect())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.state_to_read("counting")?;
        let times = state.partitions.iter().filter_map(|rows| rows.last_processed_at);
        let mut stats = StoreStats {
            topics: state.topics.len() as u64,
            newest_processed_at: times.max().and_then(Timestamp::after_the_first),
            ..StoreStats::default()
        };
        for topic in state.topics.values() {
            stats.stored += topic.last_seq;
            stats.duplicates += topic.duplicates;
            stats.conflicts += topic.conflicts;
        }
        let row_bytes = |row: &Row| (size_of::<Row>() + row.event.payload.len()) as u64;
        stats.bytes = state.partitions.iter().flat_map(|rows| &rows.rows).map(row_bytes).sum();
        Ok(stats)
    }

    fn across(&self) -> Option<&dyn AppendAcross> {
        self.commits_across.then_some(self as &dyn AppendAcross)
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

impl AppendAcross for MemoryStore {
    fn append_across(&self, _: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        self.append_checked(events)
    }
}

impl Maintain for MemoryStore {
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        let mut guard = self.state()?;
        let State { partitions, topics, .. } = &mut *guard;
        let Some(state) = topics.get_mut(topic) else { return Ok(0) };
        let rows = &mut partitions[usize::from(self.info.partitions.of(topic.as_str()).0)].rows;
        let before = state.purged_seq;
        state.first_processed_at = None;
        for row in rows.iter_mut().filter(|row| row.event.topic == topic.as_str()) {
            if (state.purged_seq + 1..=through_seq).contains(&row.event.seq) {
                row.left = Left::Digest(digest(&std::mem::take(&mut row.event.payload)));
                (state.purged_seq, state.purged_offset) = (row.event.seq, row.event.offset);
            }
            if row.left == Left::Payload {
                state.first_processed_at.get_or_insert(row.event.processed_at);
            }
        }
        Ok(state.purged_seq - before)
    }

    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError> {
        check_seqs(&seqs)?;
        let state = self.state()?;
        let rows = &state.partitions[usize::from(self.info.partitions.of(topic.as_str()).0)].rows;
        let counts = |row: &&Row| row.left == Left::Payload && seqs.contains(&row.event.seq);
        let of_topic = rows.iter().filter(|row| row.event.topic == topic.as_str());
        Ok(of_topic.filter(counts).map(|row| row.event.data_bytes()).sum())
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        let state = self.state()?;
        let mut report = VerifyReport::default();
        for (name, topic) in &state.topics {
            let rows = &state.partitions[usize::from(self.info.partitions.of(name.as_str()).0)].rows;
            let left = |row: &&Row| row.event.topic == name.as_str() && row.left != Left::Forgotten;
            let forgotten_seq = topic.forgotten.map_or(0, |mark| mark.seq);
            if !rows.iter().filter(left).filter_map(Row::seq).eq(forgotten_seq + 1..=topic.last_seq) {
                report.faults.push(format!("the seqs of topic {name} are not dense"));
            }
        }
        for rows in &state.partitions {
            let identities = rows.seen.len() + rows.released.values().map(Vec::len).sum::<usize>();
            let left: Vec<_> = rows.rows.iter().filter(|row| row.left != Left::Forgotten).collect();
            if identities != left.len() {
                report.faults.push(format!("{identities} identities for {} events", left.len()));
            }
            let stubs = left.iter().filter(|row| row.left != Left::Payload).count() as u64;
            report.stubs += stubs;
            report.events += left.len() as u64 - stubs;
        }
        Ok(report)
    }

    fn backup(
        &self,
        _path: &Path,
        _on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { kind: self.info.kind, operation: "be backed up" })
    }
}

impl Amend for MemoryStore {
    fn erase(
        &self,
        ids: &[Identity],
        _: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError> {
        check_amended(ids)?;
        let mut state = self.state()?;
        Ok(ids.iter().map(|id| state.erase(self.info.partitions, id)).collect())
    }

    fn release(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        check_amended(ids)?;
        let mut state = self.state()?;
        Ok(ids.iter().map(|id| state.release(self.info.partitions, id)).collect())
    }
}

impl Forget for MemoryStore {
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        Ok(self.state()?.forget(self.info.partitions, topic, before, most))
    }

    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        Ok(self.state()?.forgettable(self.info.partitions, topic, before, most).len() as u64)
    }
}

impl Transfer for MemoryStore {
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        check_partition(self.info.partitions, partition, std::iter::empty())?;
        Ok(self.state()?.rows(partition, after, limit))
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        check_partition(self.info.partitions, partition, import.topic_names())?;
        let (imported, last_offset) = {
            let mut state = self.state()?;
            state.check_topics(import.topic_names(), self.max_topics)?;
            let imported = state.import(partition, import)?;
            (imported, state.partitions[usize::from(partition.0)].rows.len() as u64)
        };
        if imported.added > 0 {
            self.commits.announce(partition, last_offset);
        }
        Ok(imported)
    }
}

impl Watch for MemoryStore {
    fn on_commit(&self, callback: CommitCallback) -> CommitListener {
        self.commits.listen(callback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;
    use crate::store::DedupStoreExt as _;

    #[test]
    fn its_bytes_grow_by_what_is_stored() {
        let store = MemoryStore::default();
        let stored = |id: &str, payload: String| {
            let before = store.stats().unwrap().bytes;
            let event = Event::new("t", id).unwrap().with_payload(&payload).unwrap();
            store.append_one(&event).unwrap();
            store.stats().unwrap().bytes - before
        };
        let small = stored("1", "[]".into());
        assert!(small > 2, "a row takes more than its payload");
        assert_eq!(stored("2", format!("[{}]", "1".repeat(1_000))), small + 1_000);
    }

    #[test]
    fn it_says_that_it_cannot_be_backed_up() {
        let answer =
            Maintain::backup(&MemoryStore::default(), Path::new("copy"), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(answer, Err(StoreError::Unsupported { .. })), "{answer:?}");
    }
}
