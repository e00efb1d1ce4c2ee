//! The ground truth of the publisher's own numbers: what a server that watches `sequence` should have noticed.

use serde::Serialize;

use crate::sequences::truth::SequenceTruth;
use crate::workload::Workload;

/// The numbers of all topics and sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SequencesReport {
    /// Whether `reordered` is what arrived: one connection sends in order. Requests of several overtake each other, and then
    /// it is the order in which they left.
    pub order_is_exact: bool,
    /// Numbers that were sent.
    pub numbered: u64,
    /// Numbers below the highest one of their topic and source that were never sent.
    pub never_sent: u64,
    /// Numbers whose first delivery came after that of a higher one of their topic and source.
    pub reordered: u64,
    /// The same for each of them.
    pub by_source: Vec<SourceReport>,
}

/// The numbers of one source in one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as above")]
pub struct SourceReport {
    pub topic: String,
    pub source: String,
    /// The highest number that was sent.
    pub highest: u64,
    pub numbered: u64,
    pub never_sent: u64,
    pub reordered: u64,
}

impl SequencesReport {
    /// What was sent of the events of `workload` over this many connections; `None` if they have no numbers.
    #[must_use]
    pub fn new(truth: &SequenceTruth, workload: &Workload, connections: u32) -> Option<Self> {
        workload.sequence(0)?;
        let by_source: Vec<_> = truth
            .pairs()
            .map(|(pair, truth)| SourceReport {
                topic: workload.topics()[pair.topic].clone(),
                source: workload.source(pair.source).to_owned(),
                highest: truth.highest,
                numbered: truth.sent,
                never_sent: truth.never_sent(),
                reordered: truth.reordered,
            })
            .collect();
        let total = |of: fn(&SourceReport) -> u64| by_source.iter().map(of).sum();
        Some(Self {
            order_is_exact: connections == 1,
            numbered: total(|source| source.numbered),
            never_sent: total(|source| source.never_sent),
            reordered: total(|source| source.reordered),
            by_source,
        })
    }
}
