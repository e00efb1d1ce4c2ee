//! The publisher's own numbers (`sequence` of an event): what is numbered, lost and late on purpose, and what really was.
//!
//! A pair of topic and source has its numbers for itself, dense from 1 in the order of its events. What is lost
//! (`--drop`) has a number and nothing else: no event, no identity, and no place in the plan. So all that follows from the
//! plan stays exact, and a store without it lacks nothing. What is late ([`late`]) is sent behind some of its successors.
//! [`truth`] counts what really left, and in which order.

pub mod late;
pub mod truth;

use std::collections::HashMap;

use rand::RngExt as _;

use crate::config::Ratio;
use crate::seed::{Stream, Streams};

/// The largest share of the numbers that can be lost: beyond it, most numbers would be gaps.
pub const MAX_DROP: f64 = 0.9;

/// The numbers of the first events of a run, by the pair of topic and source that each belongs to.
///
/// The first event of a pair always has number 1, and every lost number lies below one that is sent: a reader can notice
/// all of them.
#[must_use]
pub fn number<P: Eq + std::hash::Hash>(
    pairs: impl Iterator<Item = P>,
    streams: &Streams,
    drop: Ratio,
) -> Vec<u32> {
    let mut last: HashMap<P, u32> = HashMap::new();
    let numbered = pairs.zip(0_u64..).map(|(pair, index)| {
        let last = last.entry(pair).or_default();
        let lost = if *last == 0 { 0 } else { lost_before(streams, index, drop) };
        // 90 % of the numbers of a billion events do not fill 32 bits, as there are eight sources.
        *last = last.saturating_add(lost + 1);
        *last
    });
    numbered.collect()
}

/// How many numbers are lost just before the event.
fn lost_before(streams: &Streams, index: u64, drop: Ratio) -> u32 {
    let mut rng = streams.rng(Stream::Losses, index);
    let share = drop.get().min(MAX_DROP);
    let mut lost = 0;
    while share > 0.0 && rng.random_bool(share) {
        lost += 1;
    }
    lost
}

/// Which identities were met before: a bit for each.
#[derive(Debug)]
struct Met(Vec<u64>);

impl Met {
    fn new(identities: u32) -> Self {
        Self(vec![0; (identities as usize).div_ceil(64)])
    }

    /// Whether the identity is met for the first time.
    fn is_first(&mut self, index: u32) -> bool {
        let (word, bit) = (&mut self.0[index as usize / 64], 1 << (index % 64));
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(pairs: &[u32], drop: Ratio, seed: u64) -> Vec<u32> {
        number(pairs.iter(), &Streams::new(seed, 100), drop)
    }

    #[test]
    fn each_pair_has_its_own_numbers_dense_from_1() {
        assert_eq!(numbers(&[7, 7, 3, 7, 3], Ratio::ZERO, 1), [1, 2, 1, 3, 2]);
    }

    #[test]
    fn lost_numbers_are_about_their_share_and_the_same_ones_in_every_run() {
        let pairs: Vec<_> = (0..40_000).map(|index| index % 4).collect();
        let numbers_of = |drop| numbers(&pairs, Ratio::percent(drop), 9);
        for (percent, share) in [(10, 0.1), (50, 0.5), (90, 0.9)] {
            let sent = numbers_of(percent);
            let last: u32 = sent[pairs.len() - 4..].iter().sum();
            let lost = 1.0 - pairs.len() as f64 / f64::from(last);
            assert!((lost - share).abs() < 0.02, "{lost} for {share}");
            assert_eq!(sent, numbers_of(percent));
        }
        assert_ne!(numbers_of(10), numbers(&pairs, Ratio::percent(10), 8));
    }

    #[test]
    fn the_first_number_of_a_pair_is_never_lost() {
        let pairs: Vec<_> = (0..200).collect();
        assert!(numbers(&pairs, Ratio::percent(90), 3).iter().all(|number| *number == 1));
    }

    #[test]
    fn a_longer_run_numbers_its_first_events_as_a_shorter_one() {
        let pairs: Vec<_> = (0..500).map(|index| index % 3).collect();
        let drop = Ratio::percent(30);
        assert_eq!(numbers(&pairs, drop, 2)[..200], numbers(&pairs[..200], drop, 2));
    }

    #[test]
    fn an_identity_is_met_for_the_first_time_once() {
        let mut met = Met::new(130);
        for index in [0, 63, 64, 129] {
            assert!(met.is_first(index) && !met.is_first(index), "{index}");
        }
    }
}
