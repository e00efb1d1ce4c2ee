//! Events that are sent late: behind some of their successors of the same topic and source.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::RngExt as _;

use super::Met;
use crate::config::Ratio;
use crate::plan::Delivery;
use crate::seed::{Stream, Streams};
use crate::workload::{Pair, Workload};

/// Which events are late, and how late.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lateness {
    /// Share of the events.
    pub share: Ratio,
    /// An event waits for up to this many successors of its topic and source.
    pub by: u32,
}

/// Deliveries of which some come late. An event is held at its first delivery; its repeats are not, and one of them may
/// overtake it.
///
/// It holds at most [`Lateness::by`] events of each pair of topic and source.
pub struct Late<I> {
    inner: I,
    workload: Arc<Workload>,
    streams: Streams,
    lateness: Lateness,
    met: Met,
    held: BTreeMap<Pair, Vec<Held>>,
    ready: VecDeque<Delivery>,
}

struct Held {
    delivery: Delivery,
    /// How many successors it still waits for; never 0.
    successors: u32,
}

impl<I> Late<I> {
    /// Holds events of `inner` back, which has this many identities.
    pub fn new(
        inner: I,
        workload: Arc<Workload>,
        streams: Streams,
        lateness: Lateness,
        identities: u32,
    ) -> Self {
        let (held, ready) = (BTreeMap::new(), VecDeque::new());
        Self { inner, workload, streams, lateness, met: Met::new(identities), held, ready }
    }

    /// How many successors the event has to wait for; 0 if it is not late.
    fn successors(&self, index: u32) -> u32 {
        let mut rng = self.streams.rng(Stream::Lateness, index.into());
        match rng.random_bool(self.lateness.share.get()) {
            true => rng.random_range(1..=self.lateness.by.max(1)),
            false => 0,
        }
    }

    /// Makes the delivery ready, or holds it; and makes ready what waited for it.
    fn take(&mut self, delivery: Delivery) {
        if !self.met.is_first(delivery.index) {
            self.ready.push_back(delivery);
            return;
        }
        let successors = self.successors(delivery.index);
        let held = self.held.entry(self.workload.pair(delivery.index)).or_default();
        if successors == 0 {
            self.ready.push_back(delivery);
        }
        for held in &mut *held {
            held.successors -= 1;
        }
        self.ready.extend(held.extract_if(.., |held| held.successors == 0).map(|held| held.delivery));
        if successors > 0 {
            held.push(Held { delivery, successors });
        }
    }
}

impl<I: Iterator<Item = Delivery>> Iterator for Late<I> {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        while self.ready.is_empty() {
            match self.inner.next() {
                Some(delivery) => self.take(delivery),
                None => {
                    // These have no further successors.
                    let rest = std::mem::take(&mut self.held).into_values().flatten();
                    self.ready.extend(rest.map(|held| held.delivery));
                    break;
                }
            }
        }
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::IdScheme;
    use crate::plan::Plan;
    use crate::workload::tests::workload;

    fn late(plan: Plan, seed: u64, share: Ratio, by: u32) -> Vec<Delivery> {
        let streams = Streams::new(seed, 100);
        let workload = Arc::new(workload(seed, 2, IdScheme::Ulid, 100));
        let walk = plan.walk(&streams, 0);
        Late::new(walk, workload, streams, Lateness { share, by }, plan.unique()).collect()
    }

    #[test]
    fn what_is_late_waits_for_a_bounded_number_of_successors_and_nothing_is_lost() {
        proptest!(|(n in 1_u32..1500, percent in 0_u8..=100, by in 1_u32..20, seed: u64)| {
            let plan = Plan::new(n, Ratio::ZERO, Ratio::ZERO).unwrap();
            let sent = late(plan, seed, Ratio::percent(percent), by);
            let mut sorted: Vec<_> = sent.iter().map(|delivery| delivery.index).collect();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            let workload = workload(seed, 2, IdScheme::Ulid, 100);
            let mut by_pair: HashMap<_, Vec<u32>> = HashMap::new();
            for delivery in &sent {
                by_pair.entry(workload.pair(delivery.index)).or_default().push(delivery.index);
            }
            for sent in by_pair.values() {
                let mut ordered = sent.clone();
                ordered.sort_unstable();
                let rank: HashMap<_, _> = ordered.iter().zip(0_u32..).map(|(index, rank)| (*index, rank)).collect();
                for (place, index) in (0_u32..).zip(sent) {
                    prop_assert!(place <= rank[index] + by, "{} came {}th", index, place);
                }
            }
        });
    }

    #[test]
    fn a_share_of_the_events_is_late_and_the_same_ones_in_every_run() {
        let plan = Plan::new(10_000, Ratio::ZERO, Ratio::ZERO).unwrap();
        let sent = late(plan, 1, Ratio::percent(10), 5);
        let mut highest = 0;
        let overtaken = sent.iter().filter(|delivery| {
            highest = highest.max(delivery.index);
            delivery.index < highest
        });
        assert!(overtaken.count() > 900);
        assert_eq!(sent, late(plan, 1, Ratio::percent(10), 5));
        assert_ne!(sent, late(plan, 2, Ratio::percent(10), 5));
        assert_eq!(late(plan, 1, Ratio::ZERO, 5), plan.walk(&Streams::new(1, 100), 0).collect::<Vec<_>>());
    }
}
