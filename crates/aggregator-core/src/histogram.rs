//! A histogram that many threads count in at once: fixed buckets of plain atomics. Counting takes some nanoseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts values in buckets. A value is a whole number of ticks, such as nanoseconds.
#[derive(Debug)]
pub struct Histogram {
    ticks: &'static Ticks,
    /// One for each bound, and one for what is above all of them.
    buckets: Box<[AtomicU64]>,
    /// Wraps around after 2^64 ticks: whoever watches it takes that for a restart.
    sum: AtomicU64,
}

/// The buckets of a [`Histogram`], and what its values are measured in.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticks {
    /// The largest value of each bucket, ascending.
    pub bounds: &'static [u64],
    /// So many ticks make one of the unit that is shown, a second for example.
    pub per_unit: u32,
}

/// From 100 µs to 10 s, in nanoseconds: for what a disk or a request takes.
pub const LATENCY: Ticks = Ticks {
    bounds: &[
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
        10_000_000_000,
    ],
    per_unit: 1_000_000_000,
};

impl Histogram {
    /// An empty one.
    pub fn new(ticks: &'static Ticks) -> Self {
        let buckets = (0..=ticks.bounds.len()).map(|_| AtomicU64::default()).collect();
        Self { ticks, buckets, sum: AtomicU64::default() }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        self.buckets[self.ticks.bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a time, where ticks are nanoseconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts all values of a group. It touches each bucket once, however many values there are.
    pub fn observe_all(&self, values: impl Iterator<Item = u64>) {
        let mut counts = vec![0; self.buckets.len()];
        let mut sum = 0_u64;
        for value in values {
            counts[self.ticks.bucket(value)] += 1;
            sum = sum.wrapping_add(value);
        }
        for (bucket, count) in self.buckets.iter().zip(counts).filter(|(_, count)| *count > 0) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counts(&self) -> HistogramCounts {
        HistogramCounts {
            ticks: self.ticks,
            sum: self.sum.load(Ordering::Relaxed),
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
        }
    }
}

impl Ticks {
    /// The index of the bucket that a value belongs to.
    pub fn bucket(&self, value: u64) -> usize {
        self.bounds.partition_point(|&bound| bound < value)
    }
}

/// A [`Histogram`] at one moment. Values that are counted meanwhile may be in it by half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramCounts {
    ticks: &'static Ticks,
    sum: u64,
    buckets: Vec<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "nobody needs the nanoseconds of a hundred days")]
impl HistogramCounts {
    /// Adds what another histogram with the same buckets has counted.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.ticks, other.ticks, "values of other buckets cannot be added");
        self.sum = self.sum.wrapping_add(other.sum);
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all values, in the unit that is shown.
    pub fn sum(&self) -> f64 {
        self.sum as f64 / f64::from(self.ticks.per_unit)
    }

    /// The upper bound of each bucket in the unit that is shown, ascending, with the number of values in this bucket alone.
    /// The last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.ticks.bounds.iter().map(|&bound| bound as f64 / f64::from(self.ticks.per_unit));
        bounds.chain([f64::INFINITY]).zip(self.buckets.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENS: Ticks = Ticks { bounds: &[10, 20], per_unit: 10 };

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&TENS);
        for value in [0, 10, 11, 20, 21] {
            histogram.observe(value);
        }
        let counts = histogram.counts();
        let buckets: Vec<_> = counts.buckets().collect();
        assert_eq!(buckets, [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((counts.count(), counts.sum()), (5, 6.2));
        let together = Histogram::new(&TENS);
        together.observe_all([0, 10, 11, 20, 21].into_iter());
        assert_eq!(together.counts(), counts);
    }

    #[test]
    fn a_duration_is_shown_in_seconds() {
        let histogram = Histogram::new(&LATENCY);
        histogram.observe_duration(Duration::from_millis(250));
        histogram.observe_duration(Duration::MAX);
        let counts = histogram.counts();
        let filled: Vec<_> = counts.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.25, 1), (f64::INFINITY, 1)]);
        assert!(LATENCY.bounds.is_sorted());
    }
}
