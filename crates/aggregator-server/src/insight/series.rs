//! What happened in each second, minute and hour.

use std::collections::BTreeMap;

use aggregator_core::histogram::{HistogramCounts, LATENCY};
use serde::{Deserialize, Serialize};

use super::lateness::Lateness;

const LATENCIES: usize = LATENCY.bounds.len() + 1;

/// Counts that only grow, or what was added to them in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) stored: u64,
    pub(super) duplicates: u64,
    pub(super) conflicts: u64,
    pub(super) rejected: u64,
    /// How late repeats came.
    pub(super) lateness: Lateness,
    /// How long requests to publish took.
    pub(super) latency: Latency,
}

/// Requests by how long they took, in the buckets of [`LATENCY`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Latency([u64; LATENCIES]);

/// How long a bucket of a series is, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Second,
    Minute,
    Hour,
}

impl Step {
    pub(super) const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    pub(super) fn seconds(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    /// Five minutes, a day, 31 days.
    pub(super) fn kept(self) -> usize {
        match self {
            Self::Second => 300,
            Self::Minute => 1_440,
            Self::Hour => 744,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

/// The buckets of each step, by the number of their step since 1970. One in which nothing happened is missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Series([BTreeMap<i64, Sample>; 3]);

impl Series {
    pub(super) fn buckets(&self, step: Step) -> &BTreeMap<i64, Sample> {
        &self.0[step as usize]
    }

    /// Adds what happened until now, in seconds since 1970.
    pub(super) fn happened(&mut self, now: i64, sample: &Sample) {
        if *sample != Sample::default() {
            Step::ALL.into_iter().for_each(|step| self.add(step, now.div_euclid(step.seconds()), sample));
        }
        self.forget(now);
    }

    /// Adds to a bucket.
    pub(super) fn add(&mut self, step: Step, bucket: i64, sample: &Sample) {
        self.0[step as usize].entry(bucket).or_default().add(sample);
    }

    /// Forgets what is too old.
    pub(super) fn forget(&mut self, now: i64) {
        for step in Step::ALL {
            let kept = i64::try_from(step.kept()).unwrap_or(i64::MAX);
            let oldest = now.div_euclid(step.seconds()) - kept + 1;
            let buckets = &mut self.0[step as usize];
            *buckets = buckets.split_off(&oldest);
            // A clock that was ahead must not fill the memory.
            while buckets.len() > step.kept() {
                buckets.pop_last();
            }
        }
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        Step::ALL.into_iter().for_each(|step| self.add_newest(other, step, i64::MIN));
    }

    /// Adds the buckets of a step from this one on.
    pub(super) fn add_newest(&mut self, other: &Self, step: Step, from: i64) {
        let buckets = other.buckets(step).range(from..);
        buckets.for_each(|(bucket, sample)| self.add(step, *bucket, sample));
    }
}

impl Sample {
    fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.rejected += other.rejected;
        self.lateness.add(&other.lateness);
        self.latency.0.iter_mut().zip(other.latency.0).for_each(|(own, others)| *own += others);
    }

    /// What was added since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut latency = self.latency;
        latency
            .0
            .iter_mut()
            .zip(before.latency.0)
            .for_each(|(now, before)| *now = now.saturating_sub(before));
        Self {
            stored: self.stored.saturating_sub(before.stored),
            duplicates: self.duplicates.saturating_sub(before.duplicates),
            conflicts: self.conflicts.saturating_sub(before.conflicts),
            rejected: self.rejected.saturating_sub(before.rejected),
            lateness: self.lateness.since(&before.lateness),
            latency,
        }
    }
}

impl Latency {
    pub(super) fn of(counts: &HistogramCounts) -> Self {
        let mut buckets = [0; LATENCIES];
        buckets.iter_mut().zip(counts.buckets()).for_each(|(bucket, (_, count))| *bucket = count);
        Self(buckets)
    }

    /// The time within which this share of the requests was answered, in seconds. It is estimated within a bucket, as
    /// Prometheus does it; `None` if there were none.
    #[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let rank = share * total as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in LATENCY.bounds.iter().zip(self.0) {
            let upper = *bound as f64 / f64::from(LATENCY.per_unit);
            if count > 0 && below + count as f64 >= rank {
                return Some(lower + (upper - lower) * (rank - below) / count as f64);
            }
            below += count as f64;
            lower = upper;
        }
        (total > 0).then_some(lower)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aggregator_core::histogram::Histogram;

    use super::*;

    fn sample(stored: u64) -> Sample {
        Sample { stored, ..Sample::default() }
    }

    #[test]
    fn each_series_is_bounded_and_has_the_newest() {
        let mut series = Series::default();
        let (start, hours) = (1_800_000_000, 40 * 24);
        for minute in 0..hours * 60 {
            series.happened(start + minute * 60, &sample(1));
        }
        let sums = Step::ALL.map(|step| {
            let buckets = series.buckets(step);
            assert!(buckets.len() <= step.kept());
            buckets.values().map(|sample| sample.stored).sum::<u64>()
        });
        assert_eq!(sums, [5, 1_440, 744 * 60]);
        // A clock that jumped ahead and came back.
        for year in 1..10_000 {
            series.add(Step::Second, start + year * 31_536_000, &sample(1));
            series.forget(start);
        }
        assert!(series.buckets(Step::Second).len() <= Step::Second.kept());
    }

    #[test]
    fn a_bucket_in_which_nothing_happened_is_missing() {
        let mut series = Series::default();
        series.happened(60, &sample(0));
        series.happened(120, &sample(7));
        series.happened(121, &sample(1));
        let minutes: Vec<_> = series.buckets(Step::Minute).iter().map(|(at, of)| (*at, of.stored)).collect();
        assert_eq!(minutes, [(2, 8)]);
    }

    #[test]
    fn a_quantile_is_estimated_within_its_bucket() {
        assert_eq!(Latency::default().quantile(0.99), None);
        let histogram = Histogram::new(&LATENCY);
        (0..100).for_each(|_| histogram.observe_duration(Duration::from_micros(700)));
        let of = |histogram: &Histogram| Latency::of(&histogram.counts()).quantile(0.5).unwrap();
        assert!((of(&histogram) - 0.000_75).abs() < 1e-9);
        let slow = Histogram::new(&LATENCY);
        slow.observe_duration(Duration::from_secs(60));
        assert_eq!(of(&slow), 10.0);
    }
}
