//! The events of one append, sorted into the order in which they are stored.

use std::ops::Range;

use aggregator_core::{EventRef, Partition, Partitions, Receipt};

/// The events of an append in the order of their offsets: by partition, then by topic, and then as they were given.
pub(crate) struct SortedEvents<'e> {
    pub(crate) sorted: Vec<EventRef<'e>>,
    /// The index of each sorted event among the events as given.
    order: Vec<usize>,
    /// In ascending order.
    pub(crate) partitions: Vec<Partition>,
    /// In the order of the events.
    pub(crate) topics: Vec<SortedTopic<'e>>,
}

/// The events of one topic in a [`SortedEvents`].
pub(crate) struct SortedTopic<'e> {
    pub(crate) name: &'e str,
    pub(crate) partition: Partition,
    pub(crate) events: Range<usize>,
}

impl<'e> SortedEvents<'e> {
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
            topics.push(SortedTopic {
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

    /// Puts the receipts of the sorted events into the order in which the events were given.
    pub(crate) fn as_given(&self, sorted: &[Receipt]) -> Vec<Receipt> {
        let mut receipts = vec![None; self.order.len()];
        for (&index, receipt) in self.order.iter().zip(sorted) {
            receipts[index] = Some(*receipt);
        }
        receipts.into_iter().map(|receipt| receipt.expect("every event is in the order once")).collect()
    }
}
