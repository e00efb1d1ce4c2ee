//! The identities that are repeated most: counted as Misra and Gries do it (Finding repeated elements, 1982), so that a
//! fixed number of counters finds each identity with a large share of all repeats, whatever else is repeated.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use serde::{Deserialize, Serialize};

/// An identity is found if it has more than one in so many of all repeats.
const COUNTERS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct MostRepeated {
    counters: HashTable<Counter>,
    hasher: DefaultHashBuilder,
    /// What was taken from every counter.
    taken: u64,
}

/// An identity, and its count with what was taken from it since.
#[derive(Debug, Clone)]
struct Counter {
    topic: Box<str>,
    event_id: Box<str>,
    count: u64,
}

/// An identity that is repeated often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Repeated {
    pub(super) topic: Box<str>,
    pub(super) event_id: Box<str>,
    /// How often it was repeated, at least.
    pub(super) at_least: u64,
}

impl MostRepeated {
    pub(super) fn observe(&mut self, topic: &str, event_id: &str) {
        self.observe_many(topic, event_id, 1);
    }

    pub(super) fn observe_many(&mut self, topic: &str, event_id: &str, count: u64) {
        let hash = self.hasher.hash_one((topic, event_id));
        let is_it = |counter: &Counter| *counter.event_id == *event_id && *counter.topic == *topic;
        if let Some(counter) = self.counters.find_mut(hash, is_it) {
            counter.count += count;
            return;
        }
        if self.counters.len() == COUNTERS {
            // All lose as much, this one included. That costs what the repeats before have paid for.
            let least = self.counters.iter().map(|counter| counter.count - self.taken).min().unwrap_or(0);
            let taken = count.min(least);
            self.taken += taken;
            let gone = self.taken;
            self.counters.retain(|counter| counter.count > gone);
            if taken < count {
                self.observe_many(topic, event_id, count - taken);
            }
            return;
        }
        let hasher = &self.hasher;
        let counter = Counter { topic: topic.into(), event_id: event_id.into(), count: self.taken + count };
        self.counters
            .insert_unique(hash, counter, |counter| hasher.hash_one((&*counter.topic, &*counter.event_id)));
    }

    /// From the one that is repeated most.
    pub(super) fn all(&self) -> Vec<Repeated> {
        let of = |counter: &Counter| Repeated {
            topic: counter.topic.clone(),
            event_id: counter.event_id.clone(),
            at_least: counter.count - self.taken,
        };
        let mut all: Vec<_> = self.counters.iter().map(of).collect();
        all.sort_by(|a, b| b.at_least.cmp(&a.at_least).then_with(|| a.event_id.cmp(&b.event_id)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_with_a_large_share_is_found_among_any_number_of_others() {
        let (mut most, topic) = (MostRepeated::default(), "t");
        for n in 0..100_000 {
            most.observe(topic, &format!("rare-{n}"));
            if n % 50 == 0 {
                most.observe(topic, "often");
            }
        }
        let first = &most.all()[0];
        assert_eq!(&*first.event_id, "often");
        assert!((1_600..=2_000).contains(&first.at_least), "{first:?}");
        assert!(most.all().len() <= COUNTERS);
    }

    #[test]
    fn few_identities_are_counted_exactly() {
        let (mut most, topic) = (MostRepeated::default(), "t");
        (0..3).for_each(|_| most.observe(topic, "a"));
        most.observe_many(topic, "b", 5);
        let all: Vec<_> = most.all().iter().map(|of| (of.event_id.to_string(), of.at_least)).collect();
        assert_eq!(all, [("b".to_owned(), 5), ("a".to_owned(), 3)]);
    }
}
