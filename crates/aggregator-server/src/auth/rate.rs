//! How much a key may publish.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};

use crate::http::problem::Problem;

/// A key that has published nothing for so many seconds may publish as much as belongs to them at once.
pub(crate) const BURST_SECONDS: u32 = 10;

/// How much a key may publish; what is left out is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events_per_second: Option<NonZeroU32>,
    /// Of bodies, as they are when they are not compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_second: Option<NonZeroU32>,
}

impl RateLimits {
    /// Whether nothing is limited.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The buckets of one key, on this node.
pub(super) struct Buckets {
    events: Option<Bucket>,
    bytes: Option<Bucket>,
}

struct Bucket {
    limiter: DefaultDirectRateLimiter,
    per_second: NonZeroU32,
    burst: NonZeroU32,
    /// What it counts.
    what: &'static str,
}

impl Buckets {
    pub(super) fn new(limits: RateLimits) -> Self {
        let bucket = |per_second: Option<NonZeroU32>, what| per_second.map(|rate| Bucket::new(rate, what));
        Self {
            events: bucket(limits.events_per_second, "events"),
            bytes: bucket(limits.bytes_per_second, "bytes"),
        }
    }

    pub(super) fn take_events(&self, count: usize) -> Result<(), Problem> {
        self.events.as_ref().map_or(Ok(()), |bucket| bucket.take(count))
    }

    pub(super) fn take_bytes(&self, count: usize) -> Result<(), Problem> {
        self.bytes.as_ref().map_or(Ok(()), |bucket| bucket.take(count))
    }
}

impl Bucket {
    fn new(per_second: NonZeroU32, what: &'static str) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
        let limiter = RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst));
        Self { limiter, per_second, burst, what }
    }

    fn take(&self, count: usize) -> Result<(), Problem> {
        let (what, rate, burst) = (self.what, self.per_second, self.burst);
        let Some(count) = u32::try_from(count).ok().map(NonZeroU32::new) else {
            return Err(self.never(count));
        };
        // Nothing costs nothing.
        let Some(count) = count else { return Ok(()) };
        match self.limiter.check_n(count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                let detail = format!("the key may publish {rate} {what} a second, and up to {burst} at once");
                Err(Problem::rate_limited(detail, whole_seconds(wait)))
            }
            Err(_) => Err(self.never(count.get() as usize)),
        }
    }

    /// So many never fit.
    fn never(&self, count: usize) -> Problem {
        Problem::too_large(format!(
            "the request has {count} {what}, and the key may publish {rate} a second, up to {burst} at once: send them \
             in several",
            what = self.what,
            rate = self.per_second,
            burst = self.burst
        ))
    }
}

/// Rounded up, so that whoever waits so long finds room.
fn whole_seconds(wait: Duration) -> u32 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(events: u32, bytes: u32) -> Buckets {
        Buckets::new(RateLimits {
            events_per_second: NonZeroU32::new(events),
            bytes_per_second: NonZeroU32::new(bytes),
        })
    }

    #[test]
    fn a_burst_is_taken_and_then_no_more_than_the_rate() {
        let buckets = buckets(1, 100);
        buckets.take_events(4).unwrap();
        buckets.take_events(0).unwrap();
        buckets.take_events(6).unwrap();
        let refused = buckets.take_events(1).unwrap_err();
        assert!(refused.is_retryable() && refused.detail().contains("1 events a second"), "{refused:?}");
        // The other bucket is another one.
        buckets.take_bytes(1_000).unwrap();
        assert!(buckets.take_bytes(1).is_err());
    }

    #[test]
    fn what_never_fits_is_not_to_be_tried_again() {
        for count in [11, u32::MAX as usize, usize::MAX] {
            let refused = buckets(1, 0).take_events(count).unwrap_err();
            assert!(!refused.is_retryable() && refused.detail().contains("up to 10 at once"), "{refused:?}");
            buckets(0, 0).take_events(count).unwrap();
        }
        assert_eq!(buckets(u32::MAX, 0).take_events(u32::MAX as usize).ok(), Some(()));
    }

    #[test]
    fn a_wait_is_rounded_up() {
        let waits = [(0, 1), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (9_500, 10)];
        for (millis, seconds) in waits {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
