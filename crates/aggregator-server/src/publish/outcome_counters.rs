//! Counts what became of the events that this process appended, for `GET /stats` and `GET /metrics`. The totals of the store are
//! those of all processes that ever used it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aggregator_core::histogram::{Histogram, LATENCY};
use aggregator_core::{Outcome, Receipt, Timestamp};

use crate::metrics::names::{AGES, SIZES};

/// Counts receipts by their outcome, and queued events that were not stored and whose publisher was not told.
#[derive(Debug, Default)]
pub(crate) struct OutcomeCounters {
    stored: AtomicU64,
    duplicates: AtomicU64,
    conflicts: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    pub(super) groups: GroupHistograms,
}

/// What is measured once for each group that is committed.
#[derive(Debug)]
pub(crate) struct GroupHistograms {
    /// How long the store took.
    pub(crate) durations: Histogram,
    /// Events.
    pub(crate) sizes: Histogram,
    /// How long after the first event with its identity each repeat came.
    pub(crate) duplicate_ages: Histogram,
}

impl Default for GroupHistograms {
    fn default() -> Self {
        Self {
            durations: Histogram::new(&LATENCY),
            sizes: Histogram::new(&SIZES),
            duplicate_ages: Histogram::new(&AGES),
        }
    }
}

impl GroupHistograms {
    pub(super) fn committed(&self, events: usize, took: Duration) {
        self.durations.observe_duration(took);
        self.sizes.observe(events as u64);
    }

    fn repeated(&self, receipts: &[Receipt], now: Timestamp) {
        let repeats = receipts.iter().filter(|receipt| receipt.outcome != Outcome::Stored);
        let age =
            |receipt: &Receipt| now.as_micros().saturating_sub(receipt.processed_at.as_micros()) / 1_000;
        // The clock of the store may be ahead.
        self.duplicate_ages.observe_all(repeats.map(|receipt| u64::try_from(age(receipt)).unwrap_or(0)));
    }
}

/// What [`OutcomeCounters`] says at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutcomeCounts {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
    /// Events that were acknowledged as queued, and that the store refused.
    pub(crate) refused: u64,
    /// Events that were acknowledged as queued and will not be stored: the refused ones, and those that a failure lost.
    pub(crate) lost: u64,
}

impl OutcomeCounters {
    /// Adds the receipts of a group. Returns how many events were stored.
    pub(super) fn add(&self, receipts: &[Receipt]) -> u64 {
        let of = |outcome| receipts.iter().filter(|receipt| receipt.outcome == outcome).count() as u64;
        let stored = of(Outcome::Stored);
        self.stored.fetch_add(stored, Ordering::Relaxed);
        if stored < receipts.len() as u64 {
            self.duplicates.fetch_add(of(Outcome::Duplicate), Ordering::Relaxed);
            self.conflicts.fetch_add(of(Outcome::Conflict), Ordering::Relaxed);
            self.groups.repeated(receipts, Timestamp::now());
        }
        stored
    }

    /// Counts queued events that the store refused.
    pub(super) fn add_refused(&self, events: usize) {
        self.refused.fetch_add(events as u64, Ordering::Relaxed);
        self.add_lost(events);
    }

    /// Counts queued events that will not be stored.
    pub(super) fn add_lost(&self, events: usize) {
        self.lost.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> OutcomeCounts {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutcomeCounts {
            stored: now(&self.stored),
            duplicates: now(&self.duplicates),
            conflicts: now(&self.conflicts),
            refused: now(&self.refused),
            lost: now(&self.lost),
        }
    }
}
