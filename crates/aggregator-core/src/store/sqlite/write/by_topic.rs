//! The events of an append, topic by topic.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::lookup_hint::LookupHint;
use crate::event::HintOwner;
use crate::store::sqlite::fault::TransactionError;
use crate::store::sqlite::index::Spread;
use crate::{EventRef, Fault, Scope};

/// Neighbours in the file are neighbours in a topic then, and a topic is resolved once.
pub(crate) struct ByTopic<'e> {
    /// In the order of their first events.
    pub(crate) topics: Vec<Part<'e>>,
    /// The indices of the events: topic by topic, and in their own order within each.
    pub(crate) order: Vec<usize>,
    /// The index of each event's topic.
    slots: Vec<usize>,
}

/// A topic and how many of the events are its.
pub(crate) struct Part<'e> {
    pub(crate) name: &'e str,
    /// What its first event asks for.
    pub(crate) scope: Scope,
    pub(crate) count: usize,
}

impl<'e> ByTopic<'e> {
    /// With what the owner of the hints noted about the events.
    pub(crate) fn of(events: &[EventRef<'e>], owner: HintOwner) -> Self {
        let mut topics: Vec<Part<'_>> = Vec::new();
        let mut slots = Vec::with_capacity(events.len());
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        let mut by_id: HashMap<i64, usize, BuildHasherDefault<Spread>> = HashMap::default();
        for event in events {
            let name = event.topic();
            let mut slot = || {
                *by_name.entry(name).or_insert_with(|| {
                    topics.push(Part { name, scope: event.scope(), count: 0 });
                    topics.len() - 1
                })
            };
            let slot = match LookupHint::of(event, owner) {
                // Through the name the first time: not all events of a topic need have a note.
                Some(hint) => *by_id.entry(hint.topic_id).or_insert_with(slot),
                None => slot(),
            };
            topics[slot].count += 1;
            slots.push(slot);
        }
        let mut next = Vec::with_capacity(topics.len());
        let mut end = 0;
        for topic in &topics {
            next.push(end);
            end += topic.count;
        }
        let mut order = vec![0; events.len()];
        for (index, &slot) in slots.iter().enumerate() {
            order[next[slot]] = index;
            next[slot] += 1;
        }
        Self { topics, order, slots }
    }

    /// Tells of events what was told of their topics.
    pub(crate) fn of_events(&self, failure: TransactionError) -> TransactionError {
        let TransactionError::Refused(faults) = failure else { return failure };
        let of_topic: HashMap<_, _> = faults.iter().map(|fault| (fault.index, &fault.error)).collect();
        let events = self.slots.iter().enumerate().filter_map(|(index, &slot)| {
            let error = of_topic.get(&Some(slot))?;
            Some(Fault { index: Some(index), error: (*error).clone() })
        });
        TransactionError::Refused(events.collect())
    }
}
