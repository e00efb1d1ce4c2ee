//! The counts of a run while it goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::batch::Batch;
use crate::client::RetryCause;
use crate::findings::Findings;
use crate::ledger::Ledger;
use crate::receipt::{Outcome, Receipt};
use crate::sequences::truth::SequenceTruth;
use crate::timeline::Timeline;

/// How many different refusals have a line of their own; the rest share one line.
const MAX_REFUSALS: usize = 8;

/// Latencies are kept from 1 µs to the longest request timeout, with this many significant digits.
const MAX_LATENCY_US: u64 = (u32::MAX as u64) * 1000;
const LATENCY_DIGITS: u8 = 3;

/// What happened so far.
#[derive(Debug)]
pub struct Tally {
    /// What happened when.
    pub timeline: Timeline,
    /// Requests sent, retries and copies included.
    pub requests: u64,
    /// Deliveries that bursts added to the plan.
    pub burst_deliveries: u64,
    /// How long batches were held back on purpose, all together.
    pub delayed: Duration,
    /// Deliveries acknowledged as stored.
    pub stored: u64,
    /// Deliveries acknowledged as duplicates.
    pub duplicates: u64,
    /// Deliveries acknowledged as conflicts.
    pub conflicts: u64,
    /// Deliveries the server refused one by one.
    pub rejected: u64,
    /// Deliveries whose request was refused, or failed for good.
    pub failed: u64,
    /// Why requests were sent again.
    pub retries: BTreeMap<RetryCause, u64>,
    /// Why requests failed for good, with the deliveries they held.
    pub refusals: BTreeMap<String, u64>,
    /// Receipts that cannot all be true.
    pub contradictions: Findings,
    /// Microseconds from sending a request to the end of its reply, for acknowledged requests.
    pub latency_us: Histogram<u64>,
    /// The receipts per identity.
    pub ledger: Ledger,
    /// What was sent of the publisher's own numbers.
    pub sequences: SequenceTruth,
}

impl Tally {
    /// A tally for a run with this many identities.
    #[must_use]
    pub fn new(identities: u32) -> Self {
        Self {
            timeline: Timeline::new(Instant::now()),
            requests: 0,
            burst_deliveries: 0,
            delayed: Duration::ZERO,
            stored: 0,
            duplicates: 0,
            conflicts: 0,
            rejected: 0,
            failed: 0,
            retries: BTreeMap::new(),
            refusals: BTreeMap::new(),
            contradictions: Findings::default(),
            latency_us: Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS)
                .expect("the bounds are constants in order, and 3 digits are within 0 to 5"),
            ledger: Ledger::new(identities),
            sequences: SequenceTruth::new(identities),
        }
    }

    /// Deliveries whose fate is known, for better or worse.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.stored + self.duplicates + self.conflicts + self.rejected + self.failed
    }

    /// Counts a request that is about to be sent.
    pub fn request(&mut self, deliveries: u64) {
        self.requests += 1;
        self.timeline.now().sent += deliveries;
    }

    /// Counts an acknowledged batch.
    pub fn settle(&mut self, batch: &Batch, receipts: &[Receipt]) {
        let moment = self.timeline.now();
        for ((delivery, event_id), receipt) in batch.items().zip(receipts) {
            let (total, now) = match receipt.outcome {
                Outcome::Stored => (&mut self.stored, &mut moment.stored),
                Outcome::Duplicate => (&mut self.duplicates, &mut moment.duplicates),
                Outcome::Conflict => (&mut self.conflicts, &mut moment.conflicts),
                Outcome::Rejected => (&mut self.rejected, &mut moment.failed),
            };
            *total += 1;
            *now += 1;
            if let Err(contradiction) = self.ledger.note(delivery.index, delivery.altered, *receipt) {
                let event_id = String::from_utf8_lossy(event_id);
                self.contradictions.add(|| format!("{event_id} {contradiction}"));
            }
        }
    }

    /// Counts a batch that failed for good.
    pub fn fail(&mut self, deliveries: u64, reason: String) {
        self.failed += deliveries;
        self.timeline.now().failed += deliveries;
        let known = self.refusals.contains_key(&reason) || self.refusals.len() < MAX_REFUSALS;
        let reason = if known { reason } else { "other reasons".to_owned() };
        *self.refusals.entry(reason).or_default() += deliveries;
    }

    /// Counts a retry.
    pub fn retry(&mut self, cause: RetryCause) {
        *self.retries.entry(cause).or_default() += 1;
        self.timeline.now().retries += 1;
    }

    /// Counts the latency of an acknowledged request.
    pub fn latency(&mut self, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(MAX_LATENCY_US);
        self.latency_us.saturating_record(latency_us);
        self.timeline.now().latency(latency_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_keep_their_size_from_microseconds_to_hours() {
        let mut tally = Tally::new(0);
        for latency in [Duration::from_micros(30), Duration::from_millis(7), Duration::from_secs(7200)] {
            tally.latency(latency);
        }
        for (quantile, expected_us) in [(0.3, 30), (0.6, 7_000), (1.0, 7_200_000_000)] {
            let kept_us = tally.latency_us.value_at_quantile(quantile);
            assert!(kept_us.abs_diff(expected_us) <= expected_us / 1000, "{kept_us} for {expected_us}");
        }
    }

    #[test]
    fn refusals_without_end_share_a_line() {
        let mut tally = Tally::new(0);
        for number in 0..100 {
            tally.fail(2, format!("reason {number}"));
        }
        assert_eq!((tally.failed, tally.refusals.len()), (200, MAX_REFUSALS + 1));
        assert_eq!(tally.refusals.values().sum::<u64>(), 200);
    }
}
