//! How long to wait before trying again, and when to give up.
//!
//! Exponential backoff with full jitter: before attempt *n + 1* the wait is uniform in
//! `0 ..= min(cap, base × 2^(n-1))`. Full jitter spreads a crowd of publishers that failed together over
//! the whole interval instead of letting them come back together.

use std::num::NonZeroU32;
use std::time::Duration;

use rand::{Rng, RngExt};
use thiserror::Error;

/// A retry policy that makes sense: it cannot be built otherwise.
///
/// The default is at most 20 attempts within 60 s, with waits of at most 50 ms at first and 5 s later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    max_attempts: NonZeroU32,
    deadline: Duration,
}

/// Why a policy makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// Without a base every wait is zero, and a retry storm is all that is left.
    #[error("the retry base must be more than 0")]
    ZeroBase,
    /// The cap would cut the very first wait.
    #[error("the retry cap ({cap:?}) must not be below the base ({base:?})")]
    CapBelowBase {
        /// The cap asked for.
        cap: Duration,
        /// The base asked for.
        base: Duration,
    },
    /// Nothing would be sent at all.
    #[error("at least one attempt is needed")]
    NoAttempts,
    /// There would be no time for a single attempt.
    #[error("the retry deadline must be more than 0")]
    ZeroDeadline,
}

impl Backoff {
    /// A policy of at most `max_attempts` attempts within `deadline`, the first one included.
    ///
    /// # Errors
    /// For values that make no sense together.
    pub fn new(
        base: Duration,
        cap: Duration,
        max_attempts: u32,
        deadline: Duration,
    ) -> Result<Self, BackoffError> {
        if base.is_zero() {
            return Err(BackoffError::ZeroBase);
        }
        if cap < base {
            return Err(BackoffError::CapBelowBase { cap, base });
        }
        if deadline.is_zero() {
            return Err(BackoffError::ZeroDeadline);
        }
        let max_attempts = NonZeroU32::new(max_attempts).ok_or(BackoffError::NoAttempts)?;
        Ok(Self { base, cap, max_attempts, deadline })
    }

    /// A policy without retries: one attempt, which may take up to `deadline`.
    ///
    /// # Errors
    /// For a deadline of 0.
    pub fn once(deadline: Duration) -> Result<Self, BackoffError> {
        let any = Duration::from_secs(1);
        Self::new(any, any, 1, deadline)
    }

    /// Starts counting the attempts of one request. Its waits are drawn from `rng`, a generator of rand 0.10.
    #[must_use]
    pub fn start<R: Rng>(self, rng: R) -> Retries<R> {
        Retries { policy: self, failed: 0, rng }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(5),
            max_attempts: NonZeroU32::new(20).expect("20 is not 0"),
            deadline: Duration::from_secs(60),
        }
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Retries<R> {
    policy: Backoff,
    failed: u32,
    rng: R,
}

impl<R: Rng> Retries<R> {
    /// How much of the deadline is left.
    #[must_use]
    pub fn time_left(&self, elapsed: Duration) -> Duration {
        self.policy.deadline.saturating_sub(elapsed)
    }

    /// How many attempts failed so far.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Notes a failed attempt, `elapsed` after the first one began, and returns the wait before the next.
    ///
    /// A server's `retry_after` wins over the policy's own wait, and gets a little jitter on top, so that clients that
    /// were sent away together do not return together. `None` means give up: the attempts are used up, or the next
    /// one would come after the deadline.
    pub fn next_wait(&mut self, elapsed: Duration, retry_after: Option<Duration>) -> Option<Duration> {
        self.failed = self.failed.saturating_add(1);
        let left = self.time_left(elapsed);
        if self.failed >= self.policy.max_attempts.get() || left.is_zero() {
            return None;
        }
        match retry_after {
            // An earlier attempt would disobey the server, and one at that time would break the deadline.
            Some(asked) if asked >= left => None,
            Some(asked) => Some(asked + self.jitter(self.policy.base.min(left - asked))),
            None => {
                let doubled = self.policy.base.saturating_mul(2_u32.saturating_pow(self.failed - 1));
                let wait = self.jitter(doubled.min(self.policy.cap));
                // Not cut to the time that is left. Else the last attempts would come ever faster, and the very last
                // one would end with a timeout of next to nothing, which hides the real failure.
                (wait < left).then_some(wait)
            }
        }
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(0..=nanos))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus as TestRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policies() -> impl Strategy<Value = Backoff> {
        (1_u64..10_000, 0_u64..100_000, 1_u32..40, 1_u64..1_000_000).prop_map(
            |(base, above, attempts, deadline)| {
                let ms = Duration::from_millis;
                Backoff::new(ms(base), ms(base + above), attempts, ms(deadline)).unwrap()
            },
        )
    }

    #[test]
    fn nonsense_is_refused() {
        let zero = Duration::ZERO;
        assert_eq!(Backoff::new(zero, SECOND, 3, SECOND), Err(BackoffError::ZeroBase));
        assert_eq!(
            Backoff::new(2 * SECOND, SECOND, 3, SECOND),
            Err(BackoffError::CapBelowBase { cap: SECOND, base: 2 * SECOND })
        );
        assert_eq!(Backoff::new(SECOND, SECOND, 0, SECOND), Err(BackoffError::NoAttempts));
        assert_eq!(Backoff::new(SECOND, SECOND, 3, zero), Err(BackoffError::ZeroDeadline));
        assert_eq!(Backoff::once(zero), Err(BackoffError::ZeroDeadline));
    }

    #[test]
    fn the_default_could_have_been_built() {
        let Backoff { base, cap, max_attempts, deadline } = Backoff::default();
        assert_eq!(Backoff::new(base, cap, max_attempts.get(), deadline), Ok(Backoff::default()));
    }

    #[test]
    fn waits_stay_under_the_doubling_bound_the_cap_and_the_deadline() {
        proptest!(|(policy in policies(), seed: u64)| {
            let mut retries = policy.start(TestRng::seed_from_u64(seed));
            let mut elapsed = Duration::ZERO;
            let mut waits = 0_u32;
            while let Some(wait) = retries.next_wait(elapsed, None) {
                let bound = policy.base.saturating_mul(2_u32.saturating_pow(waits)).min(policy.cap);
                prop_assert!(wait <= bound);
                elapsed += wait;
                prop_assert!(elapsed <= policy.deadline);
                waits += 1;
            }
            prop_assert!(waits < policy.max_attempts.get());
        });
    }

    #[test]
    fn retry_after_is_obeyed_but_never_beyond_the_deadline() {
        proptest!(|(policy in policies(), seed: u64, after_ms in 0_u64..2_000_000, elapsed_ms in 0_u64..1_000_000)| {
            let (after, elapsed) = (Duration::from_millis(after_ms), Duration::from_millis(elapsed_ms));
            match policy.start(TestRng::seed_from_u64(seed)).next_wait(elapsed, Some(after)) {
                Some(wait) => {
                    prop_assert!(wait >= after);
                    prop_assert!(elapsed + wait <= policy.deadline);
                }
                None => prop_assert!(policy.max_attempts.get() == 1 || elapsed + after >= policy.deadline),
            }
        });
    }

    #[test]
    fn those_who_are_told_the_same_retry_after_do_not_return_together() {
        let policy = Backoff::new(SECOND, SECOND, 2, 100 * SECOND).unwrap();
        let waits = |after: Duration| {
            (0..1000).map(move |seed| {
                policy.start(TestRng::seed_from_u64(seed)).next_wait(Duration::ZERO, Some(after)).unwrap()
                    - after
            })
        };
        assert!(waits(3 * SECOND).all(|above| above <= SECOND));
        assert!(waits(3 * SECOND).any(|above| above < SECOND / 20));
        assert!(waits(3 * SECOND).any(|above| above > SECOND * 19 / 20));
        // And within what is left of the deadline.
        assert!(waits(99 * SECOND + SECOND / 2).all(|above| above <= SECOND / 2));
        assert!(waits(99 * SECOND + SECOND / 2).any(|above| above > SECOND * 9 / 20));
    }

    #[test]
    fn the_last_attempts_do_not_hurry_to_come_before_the_deadline() {
        let policy = Backoff::new(SECOND, SECOND, 100, 10 * SECOND).unwrap();
        let almost = 10 * SECOND - Duration::from_millis(10);
        let waits = |seed| policy.start(TestRng::seed_from_u64(seed)).next_wait(almost, None);
        let hurried = (0..1000).filter(|seed| waits(*seed).is_some()).count();
        assert!(hurried < 40, "a hundredth of the waits is that short, not {hurried} of 1000");
    }

    #[test]
    fn jitter_is_full() {
        let policy = Backoff::new(SECOND, SECOND, 2, 100 * SECOND).unwrap();
        let waits: Vec<_> = (0..1000)
            .map(|seed| policy.start(TestRng::seed_from_u64(seed)).next_wait(Duration::ZERO, None).unwrap())
            .collect();
        assert!(waits.iter().any(|wait| *wait < SECOND / 20));
        assert!(waits.iter().any(|wait| *wait > SECOND * 19 / 20));
    }
}
