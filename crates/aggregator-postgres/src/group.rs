//! What becomes of a group of events, given what the database knew of them: no SQL, no waiting.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};

use aggregator_core::event::{digest, slot};
use aggregator_core::{EventRef, Outcome, Partition, Partitions, Receipt, Scope, StoreError, Timestamp};

use crate::fault::{Failure, Result, signed};

/// The events of an append in the order they are given offsets in: partition by partition, and in each of them topic
/// by topic, stable.
pub(crate) struct Group<'e> {
    pub(crate) sorted: Vec<EventRef<'e>>,
    /// Where each of them was given.
    order: Vec<usize>,
    /// Rising.
    pub(crate) partitions: Vec<Partition>,
    /// In the order of the events.
    pub(crate) topics: Vec<GroupTopic<'e>>,
}

/// The events of one topic in a [`Group`].
pub(crate) struct GroupTopic<'e> {
    pub(crate) name: &'e str,
    pub(crate) partition: Partition,
    pub(crate) events: Range<usize>,
}

impl<'e> Group<'e> {
    pub(crate) fn new(partitions: Partitions, given: &[EventRef<'e>]) -> Self {
        let topic_of = |index: usize| given[index].topic();
        let mut by_topic: Vec<usize> = (0..given.len()).collect();
        by_topic.sort_by_key(|&index| topic_of(index));
        let runs = by_topic.chunk_by(|&a, &b| topic_of(a) == topic_of(b));
        let mut runs: Vec<_> = runs.map(|run| (partitions.of(topic_of(run[0])), run)).collect();
        runs.sort_by_key(|&(partition, _)| partition);
        let mut order = Vec::with_capacity(given.len());
        let mut topics = Vec::with_capacity(runs.len());
        for (partition, run) in runs {
            topics.push(GroupTopic {
                name: topic_of(run[0]),
                partition,
                events: order.len()..order.len() + run.len(),
            });
            order.extend_from_slice(run);
        }
        let mut partitions: Vec<_> = topics.iter().map(|topic| topic.partition).collect();
        partitions.dedup();
        Self { sorted: order.iter().map(|&index| given[index]).collect(), order, partitions, topics }
    }

    /// The receipts of the sorted events in the places of the events as they were given.
    pub(crate) fn as_given(&self, sorted: &[Receipt]) -> Vec<Receipt> {
        let mut receipts = vec![None; self.order.len()];
        for (&index, receipt) in self.order.iter().zip(sorted) {
            receipts[index] = Some(*receipt);
        }
        receipts.into_iter().map(|receipt| receipt.expect("every event is in the order once")).collect()
    }
}

/// What the database knows, as of the partitions' locks.
pub(crate) struct Known {
    /// What time it is.
    pub(crate) clock: Timestamp,
    /// Those of the group's partitions.
    pub(crate) parts: Vec<KnownPart>,
    pub(crate) topics: HashMap<String, TopicRow>,
    /// By position in the group: what is stored under the event's identity.
    pub(crate) originals: HashMap<usize, Original>,
}

/// What it knows of a partition.
pub(crate) struct KnownPart {
    pub(crate) partition: Partition,
    pub(crate) last_offset: u64,
    pub(crate) topic_count: u64,
    /// What time it is, but not before the partition's last time.
    pub(crate) now: Timestamp,
    /// The offsets this very attempt has stored already, if it was committed before.
    pub(crate) replayed: Option<RangeInclusive<u64>>,
}

#[derive(Clone, Copy)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
    pub(crate) last_seq: u64,
}

/// The event, or what is left of it, that holds an identity.
pub(crate) struct Original {
    pub(crate) offset: u64,
    pub(crate) seq: Option<u64>,
    pub(crate) processed_at: Timestamp,
    pub(crate) kept: Kept,
}

pub(crate) enum Kept {
    /// The payload, if it is as long as the one it is to be compared with.
    Payload(Option<String>),
    /// The payload was purged. Of an identity that was imported alone there is no digest either, and any
    /// payload repeats it.
    Digest(Option<[u8; 16]>),
}

impl Kept {
    fn is(&self, payload: &str) -> bool {
        match self {
            Self::Payload(kept) => kept.as_deref() == Some(payload),
            Self::Digest(kept) => kept.is_none_or(|kept| kept == digest(payload)),
        }
    }
}

/// What is to be written, column by column, and what to tell.
pub(crate) struct Plan<'e> {
    /// Whether the attempt was committed before, and there is nothing to be written.
    pub(crate) replayed: bool,
    /// The partitions in which the attempt stores something, with the last offset of it.
    pub(crate) stored: Vec<(Partition, u64)>,
    /// In the order of the sorted events.
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) events: NewEvents<'e>,
    pub(crate) new_topics: Topics<'e>,
    pub(crate) old_topics: Topics<'e>,
    pub(crate) parts: Parts,
    repeats: Repeats,
}

/// The events that are new, in the order of their offsets.
#[derive(Default)]
pub(crate) struct NewEvents<'e> {
    pub(crate) partitions: Vec<i32>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) topic_ids: Vec<i64>,
    pub(crate) seqs: Vec<i64>,
    pub(crate) event_ids: Vec<&'e str>,
    pub(crate) sources: Vec<&'e str>,
    pub(crate) by_source: Vec<bool>,
    pub(crate) timestamps: Vec<&'e str>,
    pub(crate) payloads: Vec<&'e str>,
    pub(crate) sequences: Vec<Option<i64>>,
    pub(crate) content_types: Vec<Option<&'e str>>,
    pub(crate) attributes: Vec<Option<&'e str>>,
    pub(crate) processed_at: Vec<i64>,
}

/// Topics to be written: all of a new one, and of an old one what is added to it.
#[derive(Default)]
pub(crate) struct Topics<'e> {
    pub(crate) partitions: Vec<i32>,
    pub(crate) ids: Vec<i64>,
    pub(crate) names: Vec<&'e str>,
    pub(crate) slots: Vec<i32>,
    pub(crate) scopes: Vec<i32>,
    pub(crate) last_seqs: Vec<i64>,
    pub(crate) duplicates: Vec<i64>,
    pub(crate) conflicts: Vec<i64>,
}

/// What becomes of the partitions: how they end, and what is added to their counters.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) partitions: Vec<i32>,
    /// Above the last one where nothing is stored.
    pub(crate) first_offsets: Vec<i64>,
    pub(crate) last_offsets: Vec<i64>,
    pub(crate) processed_at: Vec<i64>,
    pub(crate) new_topics: Vec<i64>,
    pub(crate) stored: Vec<i64>,
    pub(crate) duplicates: Vec<i64>,
    pub(crate) conflicts: Vec<i64>,
}

/// Repeats, as they are counted.
#[derive(Default, Clone, Copy)]
struct Repeats {
    duplicates: i64,
    conflicts: i64,
}

impl Repeats {
    fn since(self, before: Self) -> Self {
        let Self { duplicates, conflicts } = before;
        Self { duplicates: self.duplicates - duplicates, conflicts: self.conflicts - conflicts }
    }
}

/// The first event of an identity inside the group.
struct First<'e> {
    receipt: Receipt,
    payload: &'e str,
}

impl<'e> Plan<'e> {
    pub(crate) fn new(known: &mut Known, group: &Group<'e>) -> Result<Self> {
        let replayed = known.parts.iter().any(|part| part.replayed.is_some());
        if replayed && known.parts.iter().any(|part| part.replayed.is_none()) {
            return Err(other_events());
        }
        let mut plan = Self {
            replayed,
            stored: Vec::new(),
            receipts: Vec::with_capacity(group.sorted.len()),
            events: NewEvents::default(),
            new_topics: Topics::default(),
            old_topics: Topics::default(),
            parts: Parts::default(),
            repeats: Repeats::default(),
        };
        let mut topics = group.topics.iter().peekable();
        for mut part in std::mem::take(&mut known.parts) {
            let (last_offset, topic_count, repeats) = (part.last_offset, part.topic_count, plan.repeats);
            while let Some(topic) = topics.next_if(|topic| topic.partition == part.partition) {
                plan.topic(known, &mut part, topic, &group.sorted)?;
            }
            let new_topics = part.topic_count - topic_count;
            plan.parts.push(&part, last_offset, new_topics, plan.repeats.since(repeats));
            let stored = part.replayed.unwrap_or(last_offset + 1..=part.last_offset);
            if !stored.is_empty() {
                plan.stored.push((part.partition, *stored.end()));
            }
        }
        Ok(plan)
    }

    /// Takes in the events of one topic.
    fn topic(
        &mut self,
        known: &mut Known,
        part: &mut KnownPart,
        topic: &GroupTopic<'e>,
        sorted: &[EventRef<'e>],
    ) -> Result<()> {
        let run = &sorted[topic.events.clone()];
        let old = known.topics.get(topic.name).copied();
        let mut row = old.unwrap_or_else(|| {
            part.topic_count += 1;
            TopicRow { id: signed(part.topic_count), scope: run[0].scope(), last_seq: 0 }
        });
        let before = self.repeats;
        let mut firsts: HashMap<(&str, &str), First<'e>> = HashMap::new();
        for (position, event) in topic.events.clone().zip(run) {
            let key = (event.event_id(), row.scope.key(event.source()));
            let receipt = match (firsts.get(&key), known.originals.remove(&position)) {
                (Some(first), _) => self.repeat(&first.receipt, first.payload == event.payload()),
                (None, Some(original)) => {
                    let same = original.kept.is(event.payload());
                    let (seq, processed_at) = (original.seq, original.processed_at);
                    let receipt = Receipt::new(Outcome::Stored, seq, processed_at);
                    if part.replayed.as_ref().is_some_and(|range| range.contains(&original.offset)) {
                        firsts.insert(key, First { receipt, payload: event.payload() });
                        receipt
                    } else {
                        self.repeat(&receipt, same)
                    }
                }
                (None, None) if part.replayed.is_some() => return Err(other_events()),
                (None, None) => {
                    row.last_seq += 1;
                    part.last_offset += 1;
                    let seq = Some(row.last_seq);
                    let receipt = Receipt::new(Outcome::Stored, seq, part.now);
                    firsts.insert(key, First { receipt, payload: event.payload() });
                    self.events.push(part, &row, event);
                    receipt
                }
            };
            self.receipts.push(receipt);
        }
        let topics = if old.is_some() { &mut self.old_topics } else { &mut self.new_topics };
        topics.push(topic, &row, self.repeats.since(before));
        Ok(())
    }

    fn repeat(&mut self, first: &Receipt, same: bool) -> Receipt {
        self.repeats.duplicates += 1;
        self.repeats.conflicts += i64::from(!same);
        let outcome = if same { Outcome::Duplicate } else { Outcome::Conflict };
        Receipt::new(outcome, first.seq, first.processed_at)
    }
}

/// The refusal of an attempt that was made before, and not with these events.
fn other_events() -> Failure {
    StoreError::invalid("attempt", "is that of an append that was committed with other events").into()
}

impl<'e> NewEvents<'e> {
    fn push(&mut self, part: &KnownPart, topic: &TopicRow, event: &EventRef<'e>) {
        self.partitions.push(column(part.partition));
        self.offsets.push(signed(part.last_offset));
        self.topic_ids.push(topic.id);
        self.seqs.push(signed(topic.last_seq));
        self.event_ids.push(event.event_id());
        self.sources.push(event.source());
        self.by_source.push(topic.scope == Scope::Source);
        self.timestamps.push(event.timestamp());
        self.payloads.push(event.payload());
        self.sequences.push(event.sequence().map(signed));
        self.content_types.push(event.content_type());
        self.attributes.push(event.attributes());
        self.processed_at.push(part.now.as_micros());
    }
}

impl<'e> Topics<'e> {
    fn push(&mut self, topic: &GroupTopic<'e>, row: &TopicRow, repeats: Repeats) {
        self.partitions.push(column(topic.partition));
        self.ids.push(row.id);
        self.names.push(topic.name);
        self.slots.push(i32::from(slot(topic.name)));
        self.scopes.push(scope_number(row.scope));
        self.last_seqs.push(signed(row.last_seq));
        self.duplicates.push(repeats.duplicates);
        self.conflicts.push(repeats.conflicts);
    }
}

impl Parts {
    /// A partition that ended at `before`.
    fn push(&mut self, part: &KnownPart, before: u64, new_topics: u64, repeats: Repeats) {
        self.partitions.push(column(part.partition));
        self.first_offsets.push(signed(before + 1));
        self.last_offsets.push(signed(part.last_offset));
        self.processed_at.push(part.now.as_micros());
        self.new_topics.push(signed(new_topics));
        self.stored.push(signed(part.last_offset - before));
        self.duplicates.push(repeats.duplicates);
        self.conflicts.push(repeats.conflicts);
    }
}

/// As the column `partition` has it.
pub(crate) fn column(partition: Partition) -> i32 {
    i32::from(partition.0)
}

/// As the column `scope` has it.
pub(crate) fn scope_number(scope: Scope) -> i32 {
    match scope {
        Scope::Topic => 0,
        Scope::Source => 1,
    }
}

/// What [`scope_number`] made a number of.
pub(crate) fn scope(number: i32) -> Result<Scope> {
    match number {
        0 => Ok(Scope::Topic),
        1 => Ok(Scope::Source),
        other => Err(Failure::corrupt(format!("a topic has the scope {other}"))),
    }
}
