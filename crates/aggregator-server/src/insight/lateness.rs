//! How late repeats come, and what a system that remembers for a while only would have let through.

use serde::{Deserialize, Serialize};

use crate::metrics::names::AGES;

const BUCKETS: usize = AGES.bounds.len() + 1;

/// The windows of systems that forget: for how long each remembers an event, in milliseconds. They are among [`AGES`].
const WINDOWS: [u64; 5] = [120_000, 300_000, 3_600_000, 86_400_000, 604_800_000];

/// Repeats by how long after the stored event each came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Lateness([u64; BUCKETS]);

/// How many repeats a window would have let through: they came later than it lasts.
#[derive(Debug, Serialize)]
pub(super) struct LetThrough {
    window_seconds: u64,
    repeats: u64,
}

/// How many repeats came within a time, and later than within the one before.
#[derive(Debug, Serialize)]
pub(super) struct Bucket {
    /// `null` for all that came later than the last one.
    within_seconds: Option<u64>,
    repeats: u64,
}

impl Lateness {
    /// Counts a repeat that came so many milliseconds late.
    pub(super) fn observe(&mut self, millis: u64) {
        self.0[AGES.bucket(millis)] += 1;
    }

    /// What a histogram over [`AGES`] has counted.
    pub(super) fn of_buckets(counts: impl Iterator<Item = u64>) -> Self {
        let mut buckets = [0; BUCKETS];
        buckets.iter_mut().zip(counts).for_each(|(bucket, count)| *bucket = count);
        Self(buckets)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, others)| *own += others);
    }

    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        since.0.iter_mut().zip(before.0).for_each(|(own, before)| *own = own.saturating_sub(before));
        since
    }

    pub(super) fn let_through(&self) -> Vec<LetThrough> {
        let of = |millis: u64| {
            let later = AGES.bucket(millis) + 1;
            LetThrough { window_seconds: millis / 1_000, repeats: self.0[later..].iter().sum() }
        };
        WINDOWS.into_iter().map(of).collect()
    }

    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let bounds = AGES.bounds.iter().map(|bound| Some(bound / 1_000)).chain([None]);
        bounds.zip(self.0).map(|(within_seconds, repeats)| Bucket { within_seconds, repeats }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeat that comes exactly when a window ends is still recognised by it.
    #[test]
    fn a_window_lets_through_what_comes_later_than_it_lasts() {
        let mut lateness = Lateness::default();
        for millis in [0, 120_000, 120_001, 3_600_000, 3_600_001, 604_800_001] {
            lateness.observe(millis);
        }
        let let_through: Vec<_> =
            lateness.let_through().into_iter().map(|of| (of.window_seconds, of.repeats)).collect();
        assert_eq!(let_through, [(120, 4), (300, 3), (3_600, 2), (86_400, 1), (604_800, 1)]);
    }

    /// Otherwise their figures would not be exact.
    #[test]
    fn every_window_is_a_bound() {
        assert!(WINDOWS.iter().all(|window| AGES.bounds.contains(window)));
    }
}
