//! The events of an append, sorted by topic.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::lookup_hint::LookupHint;
use crate::event::HintOwner;
use crate::store::sqlite::fault::TransactionError;
use crate::store::sqlite::index::FibonacciHasher;
use crate::{EventRef, Fault, Scope};

/// The events of an append, sorted by topic: so the events of a topic become neighbours in the file, and each topic is
/// resolved once.
pub(crate) struct ByTopic<'e> {
    /// The topics, in the order of their first events.
    pub(crate) topics: Vec<TopicBatch<'e>>,
    /// The indices of the events, topic by topic, and in their given order within a topic.
    pub(crate) order: Vec<usize>,
    /// For each event, the index of its topic in `topics`.
    topic_of: Vec<usize>,
}

/// A topic, and how many of the events belong to it.
pub(crate) struct TopicBatch<'e> {
    pub(crate) name: &'e str,
    /// The scope that the topic's first event asks for.
    pub(crate) scope: Scope,
    pub(crate) count: usize,
}

impl<'e> ByTopic<'e> {
    /// Sorts the events. Uses the lookup hints that `owner` made.
    pub(crate) fn of(events: &[EventRef<'e>], owner: HintOwner) -> Self {
        let mut topics: Vec<TopicBatch<'_>> = Vec::new();
        let mut topic_of = Vec::with_capacity(events.len());
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        let mut by_id: HashMap<i64, usize, BuildHasherDefault<FibonacciHasher>> = HashMap::default();
        for event in events {
            let name = event.topic();
            let mut topic = || {
                *by_name.entry(name).or_insert_with(|| {
                    topics.push(TopicBatch { name, scope: event.scope(), count: 0 });
                    topics.len() - 1
                })
            };
            let topic = match LookupHint::of(event, owner) {
                // The first event goes through the name, because other events of the topic may have no hint.
                Some(hint) => *by_id.entry(hint.topic_id).or_insert_with(topic),
                None => topic(),
            };
            topics[topic].count += 1;
            topic_of.push(topic);
        }
        let mut next = Vec::with_capacity(topics.len());
        let mut end = 0;
        for topic in &topics {
            next.push(end);
            end += topic.count;
        }
        let mut order = vec![0; events.len()];
        for (index, &topic) in topic_of.iter().enumerate() {
            order[next[topic]] = index;
            next[topic] += 1;
        }
        Self { topics, order, topic_of }
    }

    /// Turns refusals of topics into refusals of the events of these topics.
    pub(crate) fn of_events(&self, failure: TransactionError) -> TransactionError {
        let TransactionError::Refused(faults) = failure else { return failure };
        let of_topic: HashMap<_, _> = faults.iter().map(|fault| (fault.index, &fault.error)).collect();
        let events = self.topic_of.iter().enumerate().filter_map(|(index, &topic)| {
            let error = of_topic.get(&Some(topic))?;
            Some(Fault { index: Some(index), error: (*error).clone() })
        });
        TransactionError::Refused(events.collect())
    }
}
