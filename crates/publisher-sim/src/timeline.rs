//! What happened when, in a number of moments that does not grow with the run.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// How many moments there are at most. When they are full, each two become one that is twice as long.
const MOMENTS: u32 = 120;

/// How long the moments of a short run are.
const SHORTEST: Duration = Duration::from_millis(20);

/// Two digits of a latency are more than a plot shows.
const LATENCY_DIGITS: u8 = 2;

/// The course of a run.
#[derive(Debug, Clone)]
pub struct Timeline {
    began: Instant,
    width: Duration,
    moments: Vec<Moment>,
}

/// What happened in one of its moments.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Events in requests, those that were sent again included.
    pub sent: u64,
    /// Events acknowledged as stored.
    pub stored: u64,
    /// Events acknowledged as duplicates.
    pub duplicates: u64,
    /// Events acknowledged as conflicts.
    pub conflicts: u64,
    /// Events that were refused or given up.
    pub failed: u64,
    /// Requests that had to be sent again.
    pub retries: u64,
    /// Latencies of acknowledged requests, in microseconds.
    pub latency_us: Histogram<u32>,
}

impl Moment {
    fn new() -> Self {
        Self {
            sent: 0,
            stored: 0,
            duplicates: 0,
            conflicts: 0,
            failed: 0,
            retries: 0,
            latency_us: Histogram::new(LATENCY_DIGITS).expect("2 digits are within 0 to 5"),
        }
    }

    /// Counts a latency.
    pub fn latency(&mut self, latency_us: u64) {
        // It grows as it has to; what it could not keep would be missing in a plot, and nowhere else.
        let _ = self.latency_us.record(latency_us.max(1));
    }

    fn add(&mut self, other: &Self) {
        let Self { sent, stored, duplicates, conflicts, failed, retries, latency_us } = other;
        self.sent += sent;
        self.stored += stored;
        self.duplicates += duplicates;
        self.conflicts += conflicts;
        self.failed += failed;
        self.retries += retries;
        let _ = self.latency_us.add(latency_us);
    }
}

impl Timeline {
    /// A run begins.
    #[must_use]
    pub fn new(began: Instant) -> Self {
        Self { began, width: SHORTEST, moments: Vec::new() }
    }

    /// The present moment.
    pub fn now(&mut self) -> &mut Moment {
        self.at(Instant::now())
    }

    fn at(&mut self, now: Instant) -> &mut Moment {
        let elapsed = now.saturating_duration_since(self.began);
        while elapsed >= self.width.saturating_mul(MOMENTS) {
            self.halve();
        }
        let place = elapsed.as_nanos() / self.width.as_nanos();
        let place = usize::try_from(place).expect("it is less than the number of moments");
        // Nothing may have happened for a while.
        while self.moments.len() <= place {
            self.moments.push(Moment::new());
        }
        &mut self.moments[place]
    }

    fn halve(&mut self) {
        self.width = self.width.saturating_mul(2);
        let mut halved = Vec::with_capacity(MOMENTS as usize);
        let mut moments = std::mem::take(&mut self.moments).into_iter();
        while let Some(mut moment) = moments.next() {
            if let Some(next) = moments.next() {
                moment.add(&next);
            }
            halved.push(moment);
        }
        self.moments = halved;
    }

    /// The moments of a run that took this long, each with its middle and its length in seconds. The last one is shorter than
    /// the others, or longer: a very short one would show little but chance, and belongs to the one before.
    #[must_use]
    pub fn moments(&self, elapsed: Duration) -> Vec<(f64, f64, Moment)> {
        let mut timeline = self.clone();
        timeline.at(self.began + elapsed);
        let Self { width, mut moments, .. } = timeline;
        let width = width.as_secs_f64();
        let full = moments.iter().skip(1).map(|_| width).sum::<f64>();
        let mut last_length = elapsed.as_secs_f64() - full;
        if moments.len() > 1 && last_length < width / 2.0 {
            let last = moments.pop();
            if let Some((before, last)) = moments.last_mut().zip(last) {
                before.add(&last);
            }
            last_length += width;
        }
        let last = moments.len() - 1;
        let mut start = 0.0;
        let placed = moments.into_iter().enumerate().map(|(place, moment)| {
            let length = if place == last { last_length } else { width };
            start += length;
            (start - length / 2.0, length, moment)
        });
        placed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_run_of_any_length_has_few_moments_and_loses_nothing() {
        let began = Instant::now();
        let mut timeline = Timeline::new(began);
        let mut at = Duration::ZERO;
        for number in 0..20_000_u32 {
            let moment = timeline.at(began + at);
            moment.sent += 3;
            moment.latency(1_000);
            assert!(timeline.moments.len() <= MOMENTS as usize);
            at += SECOND * (number / 100);
        }
        let moments = timeline.moments(at);
        assert!((MOMENTS as usize / 2..=MOMENTS as usize).contains(&moments.len()), "{}", moments.len());
        assert_eq!(moments.iter().map(|(.., moment)| moment.sent).sum::<u64>(), 60_000);
        assert_eq!(moments.iter().map(|(.., moment)| moment.latency_us.len()).sum::<u64>(), 20_000);
    }

    #[test]
    fn moments_lie_beside_each_other_until_the_end() {
        let began = Instant::now();
        for elapsed_ms in [1, 15, 25, 50, 100, 119, 121, 2_399, 2_401, 100_000] {
            let mut timeline = Timeline::new(began);
            for ms in (0..=elapsed_ms).step_by(5).chain([elapsed_ms]) {
                timeline.at(began + Duration::from_millis(ms)).sent += 1;
            }
            let moments = timeline.moments(Duration::from_millis(elapsed_ms));
            let mut end = 0.0;
            for (middle, length, _) in &moments {
                assert!((middle - length / 2.0 - end).abs() < 1e-9, "{elapsed_ms}: {moments:?}");
                end = middle + length / 2.0;
            }
            let seconds = Duration::from_millis(elapsed_ms).as_secs_f64();
            assert!((end - seconds).abs() < 1e-9, "{elapsed_ms}: {end}");
        }
    }

    #[test]
    fn a_moment_in_which_nothing_happened_is_there_as_well() {
        let began = Instant::now();
        let mut timeline = Timeline::new(began);
        timeline.at(began).stored = 1;
        timeline.at(began + SECOND).stored = 1;
        let stored: Vec<_> = timeline.moments(SECOND).iter().map(|(.., moment)| moment.stored).collect();
        assert_eq!((stored.len(), stored[0], stored[25], stored.iter().sum::<u64>()), (50, 1, 0, 2));
    }
}
