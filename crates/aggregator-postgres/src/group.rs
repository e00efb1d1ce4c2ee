//! What becomes of a group of events, given what the database knew of them: no SQL, no waiting.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use aggregator_core::event::{digest, slot};
use aggregator_core::{EventRef, Outcome, Receipt, Scope, StoreError, Timestamp};

use crate::fault::{Failure, Result, signed};

/// What the database knows, as of the partition's lock.
pub(crate) struct Known {
    pub(crate) last_offset: u64,
    pub(crate) topic_count: u64,
    /// What time it is.
    pub(crate) clock: Timestamp,
    /// The same, but not before the partition's last time.
    pub(crate) now: Timestamp,
    pub(crate) topics: HashMap<String, TopicRow>,
    /// By position in the group: what is stored under the event's identity.
    pub(crate) originals: HashMap<usize, Original>,
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

/// The group's events in the order they are given offsets in: topic by topic, stable.
pub(crate) fn in_order<'e>(events: &[EventRef<'e>]) -> (Vec<usize>, Vec<EventRef<'e>>) {
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_by_key(|&index| events[index].topic());
    let sorted = order.iter().map(|&index| events[index]).collect();
    (order, sorted)
}

/// The names of the group's topics, each once.
pub(crate) fn topic_names<'e>(sorted: &[EventRef<'e>]) -> Vec<&'e str> {
    let mut names: Vec<_> = sorted.iter().map(EventRef::topic).collect();
    names.dedup();
    names
}

/// What is to be written, column by column, and what to tell.
#[derive(Default)]
pub(crate) struct Plan<'e> {
    /// In the order of the sorted events.
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) events: NewEvents<'e>,
    pub(crate) new_topics: Topics<'e>,
    pub(crate) old_topics: Topics<'e>,
    pub(crate) duplicates: i64,
    pub(crate) conflicts: i64,
}

/// The events that are new, in the order of their offsets.
#[derive(Default)]
pub(crate) struct NewEvents<'e> {
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
}

/// Topics to be written: all of a new one, and of an old one what is added to it.
#[derive(Default)]
pub(crate) struct Topics<'e> {
    pub(crate) ids: Vec<i64>,
    pub(crate) names: Vec<&'e str>,
    pub(crate) slots: Vec<i32>,
    pub(crate) scopes: Vec<i32>,
    pub(crate) last_seqs: Vec<i64>,
    pub(crate) duplicates: Vec<i64>,
    pub(crate) conflicts: Vec<i64>,
}

impl NewEvents<'_> {
    pub(crate) fn count(&self) -> usize {
        self.seqs.len()
    }
}

/// The first event of an identity inside the group.
struct First<'e> {
    receipt: Receipt,
    payload: &'e str,
}

impl<'e> Plan<'e> {
    pub(crate) fn new(known: &mut Known, sorted: &[EventRef<'e>]) -> Result<Self> {
        let mut plan = Self::default();
        let mut position = 0;
        for run in sorted.chunk_by(|a, b| a.topic() == b.topic()) {
            plan.topic(known, position, run)?;
            position += run.len();
        }
        Ok(plan)
    }

    /// Takes in the events of one topic.
    fn topic(&mut self, known: &mut Known, first_position: usize, run: &[EventRef<'e>]) -> Result<()> {
        let name = run[0].topic();
        let old = known.topics.get(name).copied();
        let mut topic = old.unwrap_or_else(|| {
            known.topic_count += 1;
            TopicRow { id: signed(known.topic_count), scope: run[0].scope(), last_seq: 0 }
        });
        let before = (self.duplicates, self.conflicts);
        let mut firsts: HashMap<(&str, &str), First<'e>> = HashMap::new();
        for (position, event) in (first_position..).zip(run) {
            let key = (event.event_id(), topic.scope.key(event.source()));
            let receipt = match (firsts.get(&key), known.originals.remove(&position)) {
                (Some(first), _) => self.repeat(&first.receipt, first.payload == event.payload()),
                (None, Some(original)) => {
                    let same = original.kept.is(event.payload());
                    let (seq, processed_at) = (original.seq, original.processed_at);
                    let receipt = Receipt { outcome: Outcome::Stored, seq, processed_at };
                    if known.replayed.as_ref().is_some_and(|range| range.contains(&original.offset)) {
                        firsts.insert(key, First { receipt, payload: event.payload() });
                        receipt
                    } else {
                        self.repeat(&receipt, same)
                    }
                }
                (None, None) if known.replayed.is_some() => {
                    let reason = "is that of an append that was committed with other events";
                    return Err(StoreError::invalid("attempt", reason).into());
                }
                (None, None) => {
                    topic.last_seq += 1;
                    let seq = Some(topic.last_seq);
                    let receipt = Receipt { outcome: Outcome::Stored, seq, processed_at: known.now };
                    firsts.insert(key, First { receipt, payload: event.payload() });
                    self.events.push(&topic, event);
                    receipt
                }
            };
            self.receipts.push(receipt);
        }
        let counts = (signed(topic.last_seq), self.duplicates - before.0, self.conflicts - before.1);
        let topics = if old.is_some() { &mut self.old_topics } else { &mut self.new_topics };
        topics.push(name, &topic, counts);
        Ok(())
    }

    fn repeat(&mut self, first: &Receipt, same: bool) -> Receipt {
        self.duplicates += 1;
        self.conflicts += i64::from(!same);
        let outcome = if same { Outcome::Duplicate } else { Outcome::Conflict };
        Receipt { outcome, ..*first }
    }

    /// The receipts in the places of the events as they were given.
    pub(crate) fn receipts(&self, order: &[usize]) -> Vec<Receipt> {
        let mut receipts = vec![None; order.len()];
        for (&index, receipt) in order.iter().zip(&self.receipts) {
            receipts[index] = Some(*receipt);
        }
        receipts.into_iter().map(|receipt| receipt.expect("every event is in the order once")).collect()
    }
}

impl<'e> NewEvents<'e> {
    fn push(&mut self, topic: &TopicRow, event: &EventRef<'e>) {
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
    }
}

impl<'e> Topics<'e> {
    fn push(&mut self, name: &'e str, topic: &TopicRow, (last_seq, duplicates, conflicts): (i64, i64, i64)) {
        self.ids.push(topic.id);
        self.names.push(name);
        self.slots.push(i32::from(slot(name)));
        self.scopes.push(scope_number(topic.scope));
        self.last_seqs.push(last_seq);
        self.duplicates.push(duplicates);
        self.conflicts.push(conflicts);
    }
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
