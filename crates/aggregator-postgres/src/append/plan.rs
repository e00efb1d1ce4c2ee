//! Decides what becomes of the events of an append: which are stored, which are repeats, and what their receipts say.
//!
//! The input is what the database knows under the locks of the partitions. This module sends no SQL and waits for
//! nothing.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use aggregator_core::event::{equals_digest, equals_payload};
use aggregator_core::{EventRef, Outcome, Partition, Receipt, Scope, StoreError, Timestamp};

use super::new_rows::{EventRows, PartitionRows, Repeats, TopicRows};
use super::sorted_events::{SortedEvents, SortedTopic};
use crate::columns::signed;
use crate::fault::{Failure, Result};

/// What the database knew when the partitions were locked.
pub(crate) struct AppendSnapshot {
    /// The time when the partitions were locked.
    pub(crate) clock: Timestamp,
    /// One for each partition of the group.
    pub(crate) partitions: Vec<PartitionSnapshot>,
    pub(crate) topics: HashMap<String, TopicRow>,
    /// What is stored under an event's identity, by the event's position in the group. If the attempt was committed
    /// before: what was stored then.
    pub(crate) originals: HashMap<usize, Original>,
}

/// What the database knew about a partition.
pub(crate) struct PartitionSnapshot {
    pub(crate) partition: Partition,
    pub(crate) last_offset: u64,
    pub(crate) topic_count: u64,
    /// The time of new events: the clock, or the time of the partition's newest event if that is later.
    pub(crate) now: Timestamp,
    /// The offsets that this very attempt stored, if it was committed before.
    pub(crate) replayed: Option<RangeInclusive<u64>>,
}

#[derive(Clone, Copy)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
    pub(crate) last_seq: u64,
}

/// The stored event that holds an identity, or what a purge left of it.
pub(crate) struct Original {
    pub(crate) offset: u64,
    pub(crate) seq: Option<u64>,
    pub(crate) processed_at: Timestamp,
    pub(crate) kept: KeptPayload,
}

pub(crate) enum KeptPayload {
    /// The payload, if it can equal the one to compare it with.
    Payload(Option<String>),
    /// The payload was purged, and its digest is left. An identity that was imported without its event has no digest,
    /// and any payload counts as a repeat of it.
    Digest(Option<[u8; 16]>),
}

impl KeptPayload {
    fn is(&self, payload: &str) -> bool {
        match self {
            Self::Payload(kept) => kept.as_deref().is_some_and(|kept| equals_payload(kept, payload)),
            Self::Digest(kept) => kept.is_none_or(|kept| equals_digest(kept, payload)),
        }
    }
}

/// The decisions: the rows to write, column by column, and the receipts to return.
pub(crate) struct AppendPlan<'e> {
    /// Whether the attempt was committed before, so that there is nothing to write.
    pub(crate) replayed: bool,
    /// The partitions in which the attempt stores something, each with the last offset it stores.
    pub(crate) stored: Vec<(Partition, u64)>,
    /// In the order of the sorted events.
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) events: EventRows<'e>,
    pub(crate) new_topics: TopicRows<'e>,
    pub(crate) old_topics: TopicRows<'e>,
    pub(crate) partition_rows: PartitionRows,
    repeats: Repeats,
}

/// The first event with an identity inside the group.
struct FirstOccurrence<'e> {
    receipt: Receipt,
    payload: &'e str,
}

impl<'e> AppendPlan<'e> {
    pub(crate) fn new(snapshot: &mut AppendSnapshot, group: &SortedEvents<'e>) -> Result<Self> {
        let replayed = snapshot.partitions.iter().any(|partition| partition.replayed.is_some());
        if replayed && snapshot.partitions.iter().any(|partition| partition.replayed.is_none()) {
            return Err(other_events());
        }
        let mut plan = Self {
            replayed,
            stored: Vec::new(),
            receipts: Vec::with_capacity(group.sorted.len()),
            events: EventRows::default(),
            new_topics: TopicRows::default(),
            old_topics: TopicRows::default(),
            partition_rows: PartitionRows::default(),
            repeats: Repeats::default(),
        };
        let mut topics = group.topics.iter().peekable();
        for mut partition in std::mem::take(&mut snapshot.partitions) {
            let (last_offset, topic_count, repeats) =
                (partition.last_offset, partition.topic_count, plan.repeats);
            while let Some(topic) = topics.next_if(|topic| topic.partition == partition.partition) {
                plan.topic(snapshot, &mut partition, topic, &group.sorted)?;
            }
            let new_topics = partition.topic_count - topic_count;
            plan.partition_rows.push(&partition, last_offset, new_topics, plan.repeats.since(repeats));
            let stored = partition.replayed.unwrap_or(last_offset + 1..=partition.last_offset);
            if !stored.is_empty() {
                plan.stored.push((partition.partition, *stored.end()));
            }
        }
        Ok(plan)
    }

    /// Decides about the events of one topic.
    fn topic(
        &mut self,
        snapshot: &mut AppendSnapshot,
        partition: &mut PartitionSnapshot,
        topic: &SortedTopic<'e>,
        sorted: &[EventRef<'e>],
    ) -> Result<()> {
        let run = &sorted[topic.events.clone()];
        let old = snapshot.topics.get(topic.name).copied();
        let mut row = old.unwrap_or_else(|| {
            partition.topic_count += 1;
            TopicRow { id: signed(partition.topic_count), scope: run[0].scope(), last_seq: 0 }
        });
        let before = self.repeats;
        let mut firsts: HashMap<(&str, &str), FirstOccurrence<'e>> = HashMap::new();
        for (position, event) in topic.events.clone().zip(run) {
            let key = (event.event_id(), row.scope.key(event.source()));
            let receipt = match (firsts.get(&key), snapshot.originals.remove(&position)) {
                (Some(first), _) => {
                    self.repeat(&first.receipt, equals_payload(first.payload, event.payload()))
                }
                (None, Some(original)) => {
                    let same = original.kept.is(event.payload());
                    let (seq, processed_at) = (original.seq, original.processed_at);
                    let receipt = Receipt::new(Outcome::Stored, seq, processed_at);
                    if partition.replayed.as_ref().is_some_and(|range| range.contains(&original.offset)) {
                        firsts.insert(key, FirstOccurrence { receipt, payload: event.payload() });
                        receipt
                    } else {
                        self.repeat(&receipt, same)
                    }
                }
                (None, None) if partition.replayed.is_some() => return Err(other_events()),
                (None, None) => {
                    row.last_seq += 1;
                    partition.last_offset += 1;
                    let seq = Some(row.last_seq);
                    let receipt = Receipt::new(Outcome::Stored, seq, partition.now);
                    firsts.insert(key, FirstOccurrence { receipt, payload: event.payload() });
                    self.events.push(partition, &row, event);
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

/// The error for an attempt that was committed before with other events.
fn other_events() -> Failure {
    StoreError::invalid("attempt", "belongs to an append that was committed with other events").into()
}
