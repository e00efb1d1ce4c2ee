//! Which events are delivered, how often and in which order: the exact counts of a run.
//!
//! Of `events` deliveries exactly `round(events × dup)` repeat an identity that was delivered before,
//! and exactly `round(repeats × conflicts)` of those carry another payload. The plan is drawn while it
//! is walked (selection sampling: each place is chosen with probability *needed / places left*, which is
//! exact at the end and uniform), so its length costs no memory.

use rand::RngExt;
use rand::seq::SliceRandom;
use thiserror::Error;

use crate::config::Ratio;
use crate::seed::{SimRng, Stream, Streams};

/// Every other repeat stays among this many newest identities, as a publisher's own retry does; the rest
/// come from any time, as a replay does.
const RECENT: u32 = 100;

/// One event on its way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The number of the event in the workload.
    pub index: u32,
    /// Whether it carries the other payload.
    pub altered: bool,
}

/// How many deliveries of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All deliveries.
    pub deliveries: u32,
    /// Deliveries of an identity that was delivered before.
    pub repeats: u32,
    /// Repeats that carry another payload.
    pub altered: u32,
}

/// The counts are impossible: no delivery would be left to be the original.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("--dup leaves no original: {repeats} of {deliveries} deliveries cannot all repeat an earlier one")]
pub struct NoOriginal {
    deliveries: u32,
    repeats: u32,
}

impl Plan {
    /// `deliveries` deliveries, the share `dup` of them repeats, the share `conflicts` of those altered.
    ///
    /// # Errors
    /// When no delivery would be left to be the original.
    pub fn new(deliveries: u32, dup: Ratio, conflicts: Ratio) -> Result<Self, NoOriginal> {
        let repeats = dup.of(deliveries);
        if repeats >= deliveries {
            return Err(NoOriginal { deliveries, repeats });
        }
        Ok(Self { deliveries, repeats, altered: conflicts.of(repeats) })
    }

    /// How many identities the run has.
    #[must_use]
    pub fn unique(&self) -> u32 {
        self.deliveries - self.repeats
    }

    /// The deliveries in order; shuffled within windows of `window` deliveries if that is more than one.
    pub fn walk(&self, streams: &Streams, window: u32) -> impl Iterator<Item = Delivery> + Send + use<> {
        let in_order = InOrder {
            rng: streams.rng(Stream::Plan, 0),
            left: self.deliveries,
            repeats_left: self.repeats,
            altered_left: self.altered,
            introduced: 0,
        };
        Shuffled {
            inner: in_order,
            window: window.max(1) as usize,
            rng: streams.rng(Stream::Order, 0),
            ready: Vec::new(),
        }
    }
}

struct InOrder {
    rng: SimRng,
    left: u32,
    repeats_left: u32,
    altered_left: u32,
    /// Identities delivered so far; they are numbered in the order of their first delivery.
    introduced: u32,
}

impl InOrder {
    fn earlier_index(&mut self) -> u32 {
        if self.rng.random() {
            self.introduced - 1 - self.rng.random_range(0..self.introduced.min(RECENT))
        } else {
            self.rng.random_range(0..self.introduced)
        }
    }
}

impl Iterator for InOrder {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        if self.left == 0 {
            return None;
        }
        let repeat = self.introduced > 0 && self.rng.random_range(0..self.left) < self.repeats_left;
        self.left -= 1;
        if !repeat {
            self.introduced += 1;
            return Some(Delivery { index: self.introduced - 1, altered: false });
        }
        let altered = self.rng.random_range(0..self.repeats_left) < self.altered_left;
        self.repeats_left -= 1;
        self.altered_left -= u32::from(altered);
        Some(Delivery { index: self.earlier_index(), altered })
    }
}

struct Shuffled<I> {
    inner: I,
    window: usize,
    rng: SimRng,
    /// The rest of the current window, last delivery first.
    ready: Vec<Delivery>,
}

impl<I: Iterator<Item = Delivery>> Iterator for Shuffled<I> {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        if self.window == 1 {
            return self.inner.next();
        }
        if self.ready.is_empty() {
            self.ready.extend(self.inner.by_ref().take(self.window));
            self.ready.shuffle(&mut self.rng);
        }
        self.ready.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ratio(value: f64) -> Ratio {
        value.to_string().parse().unwrap()
    }

    fn walk(plan: Plan, seed: u64, window: u32) -> Vec<Delivery> {
        plan.walk(&Streams::new(seed, 100), window).collect()
    }

    #[test]
    fn counts_are_exact_for_every_size_share_and_seed() {
        proptest!(|(n in 1_u32..3000, dup in 0.0..1.0_f64, conflicts in 0.0..=1.0_f64, seed: u64)| {
            let repeats = (f64::from(n) * dup).round();
            let Ok(plan) = Plan::new(n, ratio(dup), ratio(conflicts)) else {
                prop_assert_eq!(repeats, f64::from(n));
                return Ok(());
            };
            let mut seen = HashSet::new();
            let (mut repeated, mut altered) = (0_u32, 0_u32);
            let walked = walk(plan, seed, 0);
            for delivery in &walked {
                if seen.insert(delivery.index) {
                    prop_assert!(!delivery.altered, "an original is never altered");
                } else {
                    repeated += 1;
                    altered += u32::from(delivery.altered);
                }
            }
            prop_assert_eq!(walked.len(), n as usize);
            prop_assert_eq!(f64::from(repeated), repeats);
            prop_assert_eq!(f64::from(altered), (repeats * conflicts).round());
            prop_assert_eq!(seen.len(), plan.unique() as usize);
            prop_assert!(seen.iter().all(|index| *index < plan.unique()), "indices are dense");
        });
    }

    #[test]
    fn reordering_moves_deliveries_within_their_window_and_loses_none() {
        proptest!(|(n in 1_u32..2000, window in 2_u32..300, seed: u64)| {
            let plan = Plan::new(n, ratio(0.3), ratio(0.1)).unwrap();
            let (ordered, shuffled) = (walk(plan, seed, 0), walk(plan, seed, window));
            prop_assert_eq!(ordered.len(), shuffled.len());
            for (a, b) in ordered.chunks(window as usize).zip(shuffled.chunks(window as usize)) {
                let key = |d: &Delivery| (d.index, d.altered);
                let (mut a, mut b) = (a.to_vec(), b.to_vec());
                a.sort_by_key(key);
                b.sort_by_key(key);
                prop_assert_eq!(a, b);
            }
        });
    }

    #[test]
    fn the_documented_example_is_exact() {
        let plan = Plan::new(5000, ratio(0.2), ratio(0.0)).unwrap();
        assert_eq!((plan.unique(), plan.repeats, plan.altered), (4000, 1000, 0));
        assert_eq!(walk(plan, 1, 0), walk(plan, 1, 0));
        assert_ne!(walk(plan, 1, 0), walk(plan, 2, 0));
        assert_ne!(walk(plan, 1, 0), walk(plan, 1, 50));
    }

    #[test]
    fn a_plan_without_an_original_is_refused() {
        assert!(Plan::new(1, ratio(1.0), ratio(0.0)).is_err());
        assert!(Plan::new(10, ratio(0.96), ratio(0.0)).is_err());
        assert!(Plan::new(1, ratio(0.4), ratio(0.0)).is_ok());
    }
}
