//! What the workers of this process have decided, for the statistics. The store's own totals are those of all
//! processes over it, and of all time.

use std::sync::atomic::{AtomicU64, Ordering};

use aggregator_core::{Outcome, Receipt};

/// Receipts by their outcome, and what nobody was left to be told of.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    stored: AtomicU64,
    duplicates: AtomicU64,
    conflicts: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
}

/// [`Decided`] as it is now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
    /// Events that were acknowledged as queued, and that the store refused.
    pub(crate) refused: u64,
    /// Events that were acknowledged as queued and will not be stored: those, and what a failure took.
    pub(crate) lost: u64,
}

impl Decided {
    /// Adds a group's receipts; how many of them say that their event was stored.
    pub(crate) fn add(&self, receipts: &[Receipt]) -> u64 {
        let of = |outcome| receipts.iter().filter(|receipt| receipt.outcome == outcome).count() as u64;
        let stored = of(Outcome::Stored);
        self.stored.fetch_add(stored, Ordering::Relaxed);
        if stored < receipts.len() as u64 {
            self.duplicates.fetch_add(of(Outcome::Duplicate), Ordering::Relaxed);
            self.conflicts.fetch_add(of(Outcome::Conflict), Ordering::Relaxed);
        }
        stored
    }

    /// Counts queued events that the store refused.
    pub(crate) fn refuse(&self, events: usize) {
        self.refused.fetch_add(events as u64, Ordering::Relaxed);
        self.lose(events);
    }

    /// Counts queued events that will not be stored.
    pub(crate) fn lose(&self, events: usize) {
        self.lost.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            stored: now(&self.stored),
            duplicates: now(&self.duplicates),
            conflicts: now(&self.conflicts),
            refused: now(&self.refused),
            lost: now(&self.lost),
        }
    }
}
