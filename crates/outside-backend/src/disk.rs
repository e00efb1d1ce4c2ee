//! What a store keeps, and what happens to it while nobody else looks.

mod transfer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aggregator_core::event::{DEFAULT_SOURCE, digest, equals_digest, equals_payload};
use aggregator_core::store::backend::{Anchor, Ends, Position, Scan, Scanner, too_many_topics};
use aggregator_core::store::transfer::TopicState;
use aggregator_core::{
    EventRef, Fault, Identity, Kept, KeptEvent, Order, Outcome, Partition, Partitions, Query, Receipt, Scope,
    Seen, Source, StoreError, StoreId, StoreStats, StoredEvent, StoredRow, Timestamp, Topic, TopicInfo,
    TopicQuery, VerifyReport,
};

/// What stays when a store is closed.
#[derive(Clone)]
pub struct Disk {
    id: StoreId,
    contents: Arc<Mutex<Contents>>,
}

impl Disk {
    /// An empty one, with this many partitions.
    pub fn new(partitions: Partitions) -> Self {
        let logs = partitions.iter().map(|_| Log::default()).collect();
        let contents = Contents { partitions, logs, topics: BTreeMap::new() };
        Self { id: StoreId::new(), contents: Arc::new(Mutex::new(contents)) }
    }

    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    pub(crate) fn partitions(&self) -> Partitions {
        self.lock().partitions
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
pub(crate) struct Contents {
    partitions: Partitions,
    logs: Vec<Log>,
    topics: BTreeMap<Topic, TopicEntry>,
}

/// The rows of a partition.
#[derive(Clone, Default)]
struct Log {
    /// The row at offset `n` is `rows[n - 1]`.
    rows: Vec<StoredRow>,
    seen: HashMap<Key, usize>,
    newest: Option<Timestamp>,
}

/// An identity: topic, event id, and the source where the topic's scope asks for it.
type Key = (String, String, String);

#[derive(Clone)]
struct TopicEntry {
    info: TopicInfo,
    purged_offset: u64,
}

fn key(topic: &str, event_id: &str, scope: Scope, source: &str) -> Key {
    (topic.to_owned(), event_id.to_owned(), scope.key(source).to_owned())
}

fn topic_of(name: &str) -> Topic {
    Topic::new(name).expect("the topic of an event or a checked row is a good one")
}

/// Whether an event of this payload repeats the row, and is no conflict.
fn repeats(row: &StoredRow, payload: &str) -> bool {
    match &row.kept {
        Kept::Event(event) => equals_payload(&event.payload, payload),
        Kept::Stub { digest: kept, .. } => equals_digest(*kept, payload),
        Kept::Identity => true,
        Kept::Forgotten { .. } => false,
    }
}

impl Contents {
    fn log(&self, partition: Partition) -> &Log {
        &self.logs[usize::from(partition.0)]
    }

    pub(crate) fn last_offset(&self, partition: Partition) -> u64 {
        self.log(partition).rows.len() as u64
    }

    pub(crate) fn last_offsets(&self) -> Vec<u64> {
        self.partitions.iter().map(|partition| self.last_offset(partition)).collect()
    }

    /// Refuses the items whose topics would be too many.
    pub(crate) fn check_topics<'t>(
        &self,
        topics: impl Iterator<Item = &'t str>,
        max_topics: u64,
    ) -> Result<(), StoreError> {
        let mut new = HashSet::new();
        let mut faults = Vec::new();
        for (index, topic) in topics.enumerate() {
            if self.topics.contains_key(&topic_of(topic)) || new.contains(topic) {
                continue;
            }
            if ((self.topics.len() + new.len()) as u64) < max_topics {
                new.insert(topic);
            } else {
                faults.push(Fault { index: Some(index), error: too_many_topics(max_topics) });
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(StoreError::Invalid(faults)) }
    }

    /// Appends at this time, unless the partition's is later.
    pub(crate) fn append(
        &mut self,
        partition: Partition,
        now: Timestamp,
        events: &[EventRef<'_>],
    ) -> Vec<Receipt> {
        let log = &mut self.logs[usize::from(partition.0)];
        let now = log.newest.map_or(now, |newest| newest.max(now));
        let mut receipts = Vec::with_capacity(events.len());
        for event in events {
            log.newest = Some(now);
            let name = topic_of(event.topic());
            let topic =
                self.topics.entry(name).or_insert_with_key(|name| TopicEntry::new(name, event.scope()));
            let info = &mut topic.info;
            let key = key(event.topic(), event.event_id(), info.scope, event.source());
            if let Some(&at) = log.seen.get(&key) {
                let first = &log.rows[at];
                let same = repeats(first, event.payload());
                info.duplicates += 1;
                info.conflicts += u64::from(!same);
                let outcome = if same { Outcome::Duplicate } else { Outcome::Conflict };
                receipts.push(Receipt::new(outcome, first.seq(), first.processed_at));
                continue;
            }
            info.last_seq += 1;
            info.first_processed_at.get_or_insert(now);
            info.last_processed_at = Some(now);
            log.seen.insert(key, log.rows.len());
            log.rows.push(StoredRow {
                topic: event.topic().to_owned(),
                scope: Some(info.scope),
                event_id: event.event_id().to_owned(),
                source: Some(event.source().to_owned()),
                processed_at: now,
                released: false,
                kept: Kept::Event(KeptEvent {
                    seq: info.last_seq,
                    timestamp: event.timestamp().to_owned(),
                    payload: event.payload().to_owned(),
                    sequence: event.sequence(),
                    content_type: event.content_type().map(str::to_owned),
                    attributes: event.attributes().map(str::to_owned),
                }),
            });
            receipts.push(Receipt::new(Outcome::Stored, Some(info.last_seq), now));
        }
        receipts
    }

    pub(crate) fn ends(&self, query: &Query, position: Position) -> Ends {
        let partition = position.partition;
        let in_query = self.topics.iter().filter(|(topic, _)| {
            query.topics.matches(topic.as_str()) && self.partitions.of(topic.as_str()) == partition
        });
        let purged_offset = in_query.map(|(_, topic)| topic.purged_offset).max().unwrap_or(0);
        let rows = &self.log(partition).rows;
        let newest = rows.last().map_or(Anchor::NONE, |row| anchor(row, partition, rows.len()));
        let last_offset = newest.offset;
        let at = position.anchor_offset(last_offset).and_then(|offset| usize::try_from(offset).ok());
        let anchor = at.map_or(Anchor::NONE, |at| anchor(&rows[at - 1], partition, at));
        Ends { purged_offset, newest, anchor: Some(anchor.fingerprint) }
    }

    pub(crate) fn scan(&self, query: &Query, from: Position) -> Scan {
        let rows = &self.log(from.partition).rows;
        let at = usize::try_from(from.offset).unwrap_or(usize::MAX);
        let offsets: Box<dyn Iterator<Item = usize>> = match query.order {
            Order::Ascending => Box::new(at.min(rows.len()) + 1..=rows.len()),
            Order::Descending => Box::new((1..=at.saturating_sub(1).min(rows.len())).rev()),
        };
        let mut scanner = Scanner::new(query, from);
        for offset in offsets {
            let row = &rows[offset - 1];
            let Kept::Event(event) = &row.kept else { continue };
            if !query.topics.matches(&row.topic) {
                continue;
            }
            if scanner.is_full() || scanner.is_past(row.processed_at) {
                break;
            }
            if query.begins_behind(row.processed_at) {
                continue;
            }
            let passes = query.admits(&row.event_id, row.source(), row.processed_at);
            let event = passes.then(|| stored(row, event, from.partition, offset as u64));
            scanner.looked_at(anchor(row, from.partition, offset), event);
        }
        scanner.finish()
    }

    pub(crate) fn seen(&self, id: &Identity) -> Option<Seen> {
        let scope = self.topics.get(&id.topic)?.info.scope;
        let log = self.log(self.partitions.of(id.topic.as_str()));
        let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
        let row = &log.rows[*log.seen.get(&key(id.topic.as_str(), id.event_id.as_str(), scope, source))?];
        Some(Seen::new(row.seq(), row.processed_at, !matches!(row.kept, Kept::Event(_))))
    }

    pub(crate) fn topics(&self, query: &TopicQuery) -> Vec<TopicInfo> {
        let from = query.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.topics.range::<Topic, _>((from, Bound::Unbounded));
        let selected = behind.filter(|(name, _)| query.topics.matches(name.as_str()));
        let mut infos: Vec<_> = selected.take(query.limit).map(|(_, topic)| topic.info.clone()).collect();
        for info in infos.iter_mut().filter(|_| !query.times) {
            (info.first_processed_at, info.last_processed_at) = (None, None);
        }
        infos
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let mut stats = StoreStats::default();
        stats.topics = self.topics.len() as u64;
        for topic in self.topics.values() {
            stats.stored += topic.info.last_seq;
            stats.duplicates += topic.info.duplicates;
            stats.conflicts += topic.info.conflicts;
        }
        let newest = self.logs.iter().filter_map(|log| log.newest).max();
        stats.newest_processed_at = newest.and_then(Timestamp::after_the_first);
        let bytes = |row: &StoredRow| (size_of::<StoredRow>() + row.payload_bytes()) as u64;
        stats.bytes = self.logs.iter().flat_map(|log| &log.rows).map(bytes).sum();
        stats
    }

    pub(crate) fn purge(&mut self, topic: &Topic, through_seq: u64) -> u64 {
        let Some(entry) = self.topics.get_mut(topic) else { return 0 };
        let log = &mut self.logs[usize::from(self.partitions.of(topic.as_str()).0)];
        let before = entry.info.purged_seq;
        entry.info.first_processed_at = None;
        for (row, offset) in log.rows.iter_mut().zip(1..).filter(|(row, _)| row.topic == topic.as_str()) {
            let Kept::Event(event) = &row.kept else { continue };
            if event.seq > through_seq {
                entry.info.first_processed_at = Some(row.processed_at);
                break;
            }
            (entry.info.purged_seq, entry.purged_offset) = (event.seq, offset);
            row.kept = Kept::Stub { seq: event.seq, digest: digest(&event.payload) };
            row.source = row.source.take().filter(|_| entry.info.scope == Scope::Source);
        }
        entry.info.purged_seq - before
    }

    pub(crate) fn bytes(&self, topic: &Topic, seqs: &RangeInclusive<u64>) -> u64 {
        let rows = &self.log(self.partitions.of(topic.as_str())).rows;
        let bytes = |row: &StoredRow| match &row.kept {
            Kept::Event(event) if row.topic == topic.as_str() && seqs.contains(&event.seq) => {
                row.event_id.len() + row.source.as_ref().map_or(0, String::len) + event.payload.len()
            }
            _ => 0,
        };
        rows.iter().map(|row| bytes(row) as u64).sum()
    }

    pub(crate) fn verify(&self) -> VerifyReport {
        let mut report = VerifyReport::default();
        for (name, topic) in &self.topics {
            let rows = &self.log(self.partitions.of(name.as_str())).rows;
            let seqs = rows.iter().filter(|row| row.topic == name.as_str()).filter_map(StoredRow::seq);
            if !seqs.eq(1..=topic.info.last_seq) {
                report.faults.push(format!("the seqs of topic {name} are not dense"));
            }
        }
        for row in self.logs.iter().flat_map(|log| &log.rows) {
            match row.kept {
                Kept::Event(_) => report.events += 1,
                Kept::Stub { .. } | Kept::Identity => report.stubs += 1,
                Kept::Forgotten { .. } => {
                    report.faults.push("a mark of forgotten events was stored".to_owned());
                }
            }
        }
        report
    }
}

impl TopicEntry {
    fn new(name: &Topic, scope: Scope) -> Self {
        Self { info: TopicInfo::new(name.clone(), scope), purged_offset: 0 }
    }

    fn state(&self) -> TopicState {
        let TopicInfo { scope, last_seq, purged_seq, .. } = self.info;
        TopicState { scope, last_seq, purged_seq, forgotten_seq: 0 }
    }
}

fn anchor(row: &StoredRow, partition: Partition, offset: usize) -> Anchor {
    Anchor::new(partition, offset as u64, &row.topic, row.seq(), &row.event_id)
}

fn stored(row: &StoredRow, event: &KeptEvent, partition: Partition, offset: u64) -> StoredEvent {
    let event = event.clone();
    StoredEvent {
        topic: row.topic.clone(),
        event_id: row.event_id.clone(),
        timestamp: event.timestamp,
        source: row.source().to_owned(),
        payload: event.payload,
        sequence: event.sequence,
        content_type: event.content_type,
        attributes: event.attributes,
        seq: event.seq,
        processed_at: row.processed_at,
        partition,
        offset,
    }
}
