//! What the publishers were told: the log that the store is held against.

use std::sync::{Condvar, Mutex, MutexGuard};

use aggregator_core::Timestamp;
use publisher_sim::batch::Batch;
use publisher_sim::findings::Findings;
use publisher_sim::workload::Workload;
use serde::Deserialize;

use crate::PATIENCE;

/// Shared by all publishers of a proof.
#[derive(Default)]
pub(crate) struct Journal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the number of the identity.
    receipts: Vec<Option<Noted>>,
    counts: Counts,
    /// Receipts that cannot all be true, and requests that were refused for good.
    broken: Findings,
}

/// What the receipts of one identity say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) seq: u64,
    pub(crate) processed_at: Timestamp,
    /// Whether the altered payload is the one that is kept.
    pub(crate) altered: bool,
}

/// How much was acknowledged, and how often something had to be sent again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) events: u64,
    pub(crate) stored: u64,
    pub(crate) conflicts: u64,
    pub(crate) retried: u64,
}

#[derive(Deserialize)]
struct Reply<'a> {
    durability: &'a str,
    #[serde(borrow)]
    results: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    topic: &'a str,
    event_id: &'a str,
    outcome: &'a str,
    seq: u64,
    processed_at: &'a str,
}

impl Journal {
    /// Notes the receipts of an acknowledged request.
    pub(crate) fn note(&self, batch: &Batch, workload: &Workload, reply: &[u8]) {
        let reply: Reply<'_> = serde_json::from_slice(reply).unwrap();
        assert_eq!((reply.durability, reply.results.len()), ("fsync", batch.len()));
        let mut state = self.lock();
        for ((delivery, event_id), item) in batch.items().zip(&reply.results) {
            assert_eq!(item.event_id.as_bytes(), event_id, "a receipt about another event");
            assert_eq!(item.topic, workload.topics()[workload.head(delivery.index).topic]);
            let altered = match item.outcome {
                "stored" | "duplicate" => delivery.altered,
                "conflict" => !delivery.altered,
                other => panic!("an outcome of {other}"),
            };
            let noted = Noted { seq: item.seq, processed_at: item.processed_at.parse().unwrap(), altered };
            state.note(delivery.index, noted, item.outcome);
        }
        state.counts.requests += 1;
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn retried(&self) {
        self.lock().counts.retried += 1;
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.lock().broken.add(|| format!("refused for good: {reason}"));
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Waits until so many more requests are acknowledged.
    pub(crate) fn wait_for(&self, requests: u64) {
        let state = self.lock();
        let until = state.counts.requests + requests;
        let waiting = |state: &mut State| state.counts.requests < until;
        let (state, waited) = self.changed.wait_timeout_while(state, PATIENCE, waiting).unwrap();
        assert!(!waited.timed_out(), "no requests are acknowledged any more: {:?}", state.counts);
    }

    /// By the number of the identity.
    pub(crate) fn receipts(&self) -> Vec<Option<Noted>> {
        self.lock().receipts.clone()
    }

    pub(crate) fn broken(&self) -> Findings {
        self.lock().broken.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn note(&mut self, index: u32, noted: Noted, outcome: &str) {
        let index = index as usize;
        if self.receipts.len() <= index {
            self.receipts.resize(index + 1, None);
        }
        self.counts.events += 1;
        self.counts.stored += u64::from(outcome == "stored");
        self.counts.conflicts += u64::from(outcome == "conflict");
        match self.receipts[index] {
            None => self.receipts[index] = Some(noted),
            Some(before) if before != noted => {
                self.broken.add(|| format!("event {index} has two receipts: {before:?} and {noted:?}"));
            }
            Some(_) => {}
        }
    }
}
