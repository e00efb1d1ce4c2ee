//! The contract as plain lists.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use proptest::test_runner::{TestCaseError, TestCaseResult};
use proptest::{prop_assert, prop_assert_eq};

use super::super::Shards;
use super::MAX_TOPICS;
use super::operation::{Draft, Filters, Name};
use crate::{
    DedupStore, Outcome, Partition, Partitions, Receipt, Scope, Seen, StoreError, StoreStats, StoredEvent,
    Timestamp, Topic, TopicInfo, VerifyReport,
};

/// What a store has to hold.
pub(super) struct Reference {
    partitions: Partitions,
    shards: Shards,
    topics: BTreeMap<&'static str, TopicEvents>,
    /// How many events each partition has taken, and when the last append was.
    taken: BTreeMap<Partition, Taken>,
}

struct TopicEvents {
    scope: Scope,
    /// All that were ever stored: the event of seq `n` is `events[n - 1]`.
    events: Vec<Known>,
    /// How many of them were purged, from the front.
    purged: usize,
    /// How many of these were forgotten, from the front.
    forgotten: usize,
    duplicates: u64,
    conflicts: u64,
}

struct Known {
    /// With offset 0 until it was read for the first time: how a batch is ordered across topics is the
    /// store's choice.
    event: StoredEvent,
    /// The offsets its batch was given.
    offsets: RangeInclusive<u64>,
    /// It lets its identity come again.
    released: bool,
}

/// What an erased event has as its payload. All repeats equal it.
const ERASED: &str = r#"{"erased":true}"#;

#[derive(Clone, Copy)]
struct Taken {
    events: u64,
    /// When the newest event was stored.
    stored_at: i64,
    /// The latest time at which anything was appended.
    appended_at: i64,
}

const NOTHING_TAKEN: Taken = Taken { events: 0, stored_at: i64::MIN, appended_at: i64::MIN };

impl Reference {
    pub(super) fn new(store: &dyn DedupStore) -> Self {
        let (partitions, shards) = (store.partitions(), Shards::of(store));
        Self { partitions, shards, topics: BTreeMap::new(), taken: BTreeMap::new() }
    }

    /// Judges whether an append had to be refused, or what receipts it came to.
    pub(super) fn judge(
        &self,
        drafts: &[&Draft],
        answer: Result<Vec<Receipt>, StoreError>,
    ) -> Result<Option<Vec<Receipt>>, TestCaseError> {
        let new: HashSet<_> = drafts.iter().map(|draft| draft.topic).collect();
        let new: HashSet<_> = new.into_iter().filter(|topic| !self.topics.contains_key(topic)).collect();
        let names = self.topics.keys().chain(&new);
        let mut of_shards = BTreeMap::<_, usize>::new();
        names.for_each(|topic| *of_shards.entry(self.shards.shard_of(topic)).or_default() += 1);
        if of_shards.values().any(|&topics| topics > MAX_TOPICS) {
            let Err(StoreError::Invalid(faults)) = &answer else {
                prop_assert!(false, "a topic too many was not refused: {answer:?}");
                return Ok(None);
            };
            let refused = |fault: &crate::Fault| fault.index.is_some_and(|i| new.contains(drafts[i].topic));
            prop_assert!(!faults.is_empty() && faults.iter().all(refused), "{faults:?}");
            return Ok(None);
        }
        prop_assert!(answer.is_ok(), "an append failed: {answer:?}");
        let receipts = answer.unwrap_or_default();
        prop_assert_eq!(receipts.len(), drafts.len());
        Ok(Some(receipts))
    }

    /// Takes in the events that were appended to one partition, and judges their receipts.
    pub(super) fn take(
        &mut self,
        partition: Partition,
        now: i64,
        drafts: &[&Draft],
        receipts: &[Receipt],
    ) -> TestCaseResult {
        let before = self.taken.get(&partition).copied().unwrap_or(NOTHING_TAKEN);
        let stored = receipts.iter().find(|receipt| receipt.outcome == Outcome::Stored);
        let at = stored.map_or(Timestamp::MIN, |receipt| receipt.processed_at);
        let mut expected = Vec::new();
        for draft in drafts {
            let topic = self.topics.entry(draft.topic).or_insert_with(|| TopicEvents::new(draft.scope));
            expected.push(topic.append(draft, at, partition));
        }
        prop_assert_eq!(receipts, expected);

        let mut after = Taken { appended_at: before.appended_at.max(now), ..before };
        let fresh = self.topics.values_mut().flat_map(|topic| &mut topic.events);
        let fresh: Vec<_> = fresh.filter(|known| known.offsets.is_empty()).collect();
        if !fresh.is_empty() {
            // The store may also count the times of appends that stored nothing.
            let times = now.max(before.stored_at)..=now.max(before.appended_at);
            prop_assert!(times.contains(&at.as_micros()), "stored at {at}, not within {times:?}");
            after.events += fresh.len() as u64;
            after.stored_at = at.as_micros();
        }
        for known in fresh {
            known.offsets = before.events + 1..=after.events;
        }
        self.taken.insert(partition, after);
        Ok(())
    }

    /// Learns the offsets of events that are read for the first time.
    pub(super) fn learn_offsets(&mut self, read: &[StoredEvent]) -> TestCaseResult {
        for event in read {
            let topic = self.topics.get_mut(event.topic.as_str());
            let at = usize::try_from(event.seq).unwrap_or(usize::MAX).wrapping_sub(1);
            let Some(known) = topic.and_then(|topic| topic.events.get_mut(at)) else {
                prop_assert!(false, "nobody published {event:?}");
                return Ok(());
            };
            if known.event.offset == 0 {
                prop_assert!(
                    known.offsets.contains(&event.offset),
                    "{event:?} is not in {:?}",
                    known.offsets
                );
                known.event.offset = event.offset;
            }
        }
        let mut places = HashSet::new();
        for (name, topic) in &self.topics {
            let offsets: Vec<_> = topic.events.iter().map(|known| known.event.offset).collect();
            prop_assert!(
                offsets.is_sorted_by(|a, b| a < b) && offsets.first() != Some(&0),
                "{name}: {offsets:?}"
            );
            let partition = self.partitions.of(name);
            prop_assert!(offsets.into_iter().all(|offset| places.insert((partition, offset))), "{name}");
        }
        Ok(())
    }

    /// Returns how many events lost their payload.
    pub(super) fn purge(&mut self, topic: &str, through_seq: u64) -> u64 {
        let Some(topic) = self.topics.get_mut(topic) else { return 0 };
        let before = topic.purged;
        let through = usize::try_from(through_seq).unwrap_or(usize::MAX).min(topic.events.len());
        topic.purged = before.max(through);
        (topic.purged - before) as u64
    }

    /// Returns how many events were forgotten.
    pub(super) fn forget(&mut self, topic: &str, before: i64, most: u64) -> u64 {
        let newest = self.last_offset(self.partitions.of(topic));
        let Some(topic) = self.topics.get_mut(topic) else { return 0 };
        let stubs = topic.events[topic.forgotten..topic.purged].iter().map(|known| &known.event);
        let old = stubs.take_while(|event| event.processed_at.as_micros() < before && event.offset < newest);
        let count = old.take(usize::try_from(most).unwrap()).count();
        topic.forgotten += count;
        count as u64
    }

    /// The events that pass `filters`, in their order.
    pub(super) fn passing(&self, filters: &Filters) -> Vec<&StoredEvent> {
        let selected = self.topics.iter().filter(|(name, _)| selects(filters.topics, name));
        let kept = selected.flat_map(|(_, topic)| &topic.events[topic.purged..]).map(|known| &known.event);
        let mut passing: Vec<_> = kept
            .filter(|event| filters.event_id.is_none_or(|id| event.event_id == id))
            .filter(|event| filters.source.is_none_or(|source| event.source == source))
            .filter(|event| filters.since.is_none_or(|since| event.processed_at.as_micros() >= since))
            .filter(|event| filters.until.is_none_or(|until| event.processed_at.as_micros() < until))
            .collect();
        passing.sort_by_key(|event| (event.processed_at, event.partition, event.offset));
        if filters.order == crate::Order::Descending {
            passing.reverse();
        }
        passing
    }

    /// The newest offset of a partition.
    pub(super) fn last_offset(&self, partition: Partition) -> u64 {
        self.taken.get(&partition).map_or(0, |taken| taken.events)
    }

    /// Up to which offset topics of a query were purged in a partition.
    pub(super) fn purged_offset(&self, topics: &str, partition: Partition) -> u64 {
        let here = self.topics.iter();
        let here = here.filter(|(name, _)| selects(topics, name) && self.partitions.of(name) == partition);
        let purged = here.filter_map(|(_, topic)| topic.events[..topic.purged].last());
        purged.map(|known| known.event.offset).max().unwrap_or(0)
    }

    pub(super) fn seen(&self, name: &Name) -> Option<Seen> {
        let topic = self.topics.get(name.topic)?;
        let (at, known) = topic
            .events
            .iter()
            .enumerate()
            .skip(topic.forgotten)
            .find(|(_, known)| !known.released && names(topic.scope, name, known))?;
        Some(Seen {
            seq: Some(known.event.seq),
            processed_at: known.event.processed_at,
            purged: at < topic.purged,
        })
    }

    /// Returns the seqs of the events that have, or had, the identity.
    pub(super) fn erase(&mut self, name: &Name) -> Vec<u64> {
        let Some(topic) = self.topics.get_mut(name.topic) else { return Vec::new() };
        let scope = topic.scope;
        let left = topic.events.iter_mut().skip(topic.forgotten);
        let named = left.filter(|known| names(scope, name, known));
        named
            .map(|known| {
                known.event.payload = ERASED.into();
                known.event.seq
            })
            .collect()
    }

    /// Returns what was known of the event that has the identity.
    pub(super) fn release(&mut self, name: &Name) -> Option<Seen> {
        let seen = self.seen(name)?;
        let topic = self.topics.get_mut(name.topic)?;
        let released = topic.events.iter_mut().find(|known| Some(known.event.seq) == seen.seq)?;
        released.released = true;
        Some(seen)
    }

    pub(super) fn topics(
        &self,
        topics: &str,
        after: Option<&str>,
        limit: usize,
        times: bool,
    ) -> Vec<TopicInfo> {
        let selected = self.topics.iter().filter(|(name, _)| selects(topics, name));
        let behind = selected.filter(|(name, _)| after.is_none_or(|after| **name > after));
        let time = |known: Option<&Known>| known.map(|known| known.event.processed_at).filter(|_| times);
        let info = |(name, topic): (&&str, &TopicEvents)| TopicInfo {
            topic: Topic::new(*name).unwrap(),
            scope: topic.scope,
            slot: crate::event::slot(name),
            last_seq: topic.events.len() as u64,
            purged_seq: topic.purged as u64,
            duplicates: topic.duplicates,
            conflicts: topic.conflicts,
            first_processed_at: time(topic.events.get(topic.purged)),
            last_processed_at: time(topic.events.last()),
        };
        behind.take(limit).map(info).collect()
    }

    /// The totals; without the bytes, which are the store's own matter.
    pub(super) fn stats(&self) -> StoreStats {
        StoreStats {
            stored: self.topics.values().map(|topic| topic.events.len() as u64).sum(),
            duplicates: self.topics.values().map(|topic| topic.duplicates).sum(),
            conflicts: self.topics.values().map(|topic| topic.conflicts).sum(),
            topics: self.topics.len() as u64,
            ..StoreStats::default()
        }
    }

    /// Judges the newest `processed_at` that a store tells. It may also count appends that stored nothing.
    pub(super) fn judge_newest(&self, newest: Option<Timestamp>) -> TestCaseResult {
        let latest = |time: fn(&Taken) -> i64| self.taken.values().map(time).max().unwrap_or(i64::MIN);
        let times = latest(|taken| taken.stored_at)..=latest(|taken| taken.appended_at);
        let told = newest.map_or(i64::MIN, Timestamp::as_micros);
        prop_assert!(times.contains(&told), "the newest is {newest:?}, not within {times:?}");
        Ok(())
    }

    pub(super) fn verified(&self) -> VerifyReport {
        let purged: u64 = self.topics.values().map(|topic| topic.purged as u64).sum();
        let forgotten: u64 = self.topics.values().map(|topic| topic.forgotten as u64).sum();
        VerifyReport { events: self.stats().stored - purged, stubs: purged - forgotten, faults: Vec::new() }
    }
}

impl TopicEvents {
    fn new(scope: Scope) -> Self {
        Self { scope, events: Vec::new(), purged: 0, forgotten: 0, duplicates: 0, conflicts: 0 }
    }

    fn append(&mut self, draft: &Draft, at: Timestamp, partition: Partition) -> Receipt {
        let kept = draft.payload.1;
        let holders = self.events.iter().skip(self.forgotten).filter(|known| !known.released);
        let first = holders.map(|known| &known.event).find(|event| {
            let same_source = self.scope == Scope::Topic || event.source == draft.source;
            event.event_id == draft.event_id && same_source
        });
        if let Some(first) = first {
            let same = first.payload == kept || first.payload == ERASED;
            self.duplicates += 1;
            self.conflicts += u64::from(!same);
            let outcome = if same { Outcome::Duplicate } else { Outcome::Conflict };
            return Receipt { outcome, seq: Some(first.seq), processed_at: first.processed_at };
        }
        let seq = self.events.len() as u64 + 1;
        let event = StoredEvent {
            topic: draft.topic.to_owned(),
            event_id: draft.event_id.to_owned(),
            timestamp: draft.timestamp.to_owned(),
            source: draft.source.to_owned(),
            payload: kept.to_owned(),
            sequence: draft.sequence,
            content_type: None,
            attributes: None,
            seq,
            processed_at: at,
            partition,
            offset: 0,
        };
        #[expect(clippy::reversed_empty_ranges, reason = "none yet")]
        self.events.push(Known { event, offsets: 1..=0, released: false });
        Receipt { outcome: Outcome::Stored, seq: Some(seq), processed_at: at }
    }
}

/// Whether a name means this event in a topic of the scope.
fn names(scope: Scope, name: &Name, known: &Known) -> bool {
    let source = (scope == Scope::Source).then(|| name.source.unwrap_or("unknown"));
    known.event.event_id == name.event_id && source.is_none_or(|source| known.event.source == source)
}

/// Whether selectors as they are written mean a topic.
fn selects(selectors: &str, topic: &str) -> bool {
    selectors.split(',').any(|selector| match selector.strip_suffix('*') {
        Some(beginning) => topic.starts_with(beginning),
        None => topic == selector,
    })
}
