//! What really left this publisher, of the numbers of each topic and source, and in which order.

use std::collections::BTreeMap;

use super::Met;
use crate::batch::Batch;
use crate::workload::{Pair, Workload};

/// Notes first deliveries in the order in which their requests are made.
///
/// With one connection a request is made once the one before is answered, so this is the order in which a server gets
/// them. Requests of several connections overtake each other on their way, and nothing here tells.
#[derive(Debug)]
pub struct SequenceTruth {
    met: Met,
    pairs: BTreeMap<Pair, PairTruth>,
}

/// What is known of one pair of topic and source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairTruth {
    /// How many numbers were sent.
    pub sent: u64,
    /// The highest number that was sent.
    pub highest: u64,
    /// How many were less than the highest one that was sent before.
    pub reordered: u64,
}

impl PairTruth {
    /// How many numbers up to the highest were never sent.
    #[must_use]
    pub fn never_sent(&self) -> u64 {
        self.highest - self.sent
    }
}

impl SequenceTruth {
    /// Nothing was sent of this many identities.
    #[must_use]
    pub fn new(identities: u32) -> Self {
        Self { met: Met::new(identities), pairs: BTreeMap::new() }
    }

    /// The batch is about to be sent for the first time. Events without a number are passed over.
    pub fn note(&mut self, batch: &Batch, workload: &Workload) {
        for (delivery, _) in batch.items() {
            let Some(number) = workload.sequence(delivery.index) else { continue };
            if !self.met.is_first(delivery.index) {
                continue;
            }
            let pair = self.pairs.entry(workload.pair(delivery.index)).or_default();
            pair.sent += 1;
            pair.reordered += u64::from(number < pair.highest);
            pair.highest = pair.highest.max(number);
        }
    }

    /// The pairs of which something was sent.
    pub fn pairs(&self) -> impl Iterator<Item = (Pair, PairTruth)> {
        self.pairs.iter().map(|(pair, truth)| (*pair, *truth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Ratio;
    use crate::ids::IdScheme;
    use crate::plan::Delivery;
    use crate::workload::tests::workload;

    #[test]
    fn only_first_deliveries_count_and_the_highest_number_before_decides() {
        // One topic has eight sources: enough events that one of these has five.
        let workload = workload(1, 1, IdScheme::Ulid, 100).numbered(60, Ratio::ZERO);
        let pair = workload.pair(0);
        let own: Vec<u32> = (0..60).filter(|index| workload.pair(*index) == pair).take(5).collect();
        assert_eq!(
            own.iter().map(|index| workload.sequence(*index)).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5].map(Some)
        );
        let mut truth = SequenceTruth::new(60);
        let mut send = |places: &[usize]| {
            let deliveries: Vec<_> =
                places.iter().map(|place| Delivery { index: own[*place], altered: false }).collect();
            truth.note(&Batch::encode(0, &deliveries, &workload), &workload);
            truth.pairs().collect::<Vec<_>>()
        };
        // 1, 4, 2, and repeats of 1 and 2.
        let after = send(&[0, 3, 1, 0, 1]);
        assert_eq!(after, [(pair, PairTruth { sent: 3, highest: 4, reordered: 1 })]);
        assert_eq!(after[0].1.never_sent(), 1);
        // 3 and 5: 3 fills the gap, late.
        let after = send(&[2, 4]);
        assert_eq!(after, [(pair, PairTruth { sent: 5, highest: 5, reordered: 2 })]);
        assert_eq!(after[0].1.never_sent(), 0);
    }

    #[test]
    fn events_without_numbers_say_nothing() {
        let workload = workload(1, 1, IdScheme::Ulid, 100);
        let mut truth = SequenceTruth::new(1);
        truth.note(&Batch::encode(0, &[Delivery { index: 0, altered: false }], &workload), &workload);
        assert_eq!(truth.pairs().count(), 0);
    }
}
