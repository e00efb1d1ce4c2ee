//! Tries until it works, or until there is no point in trying.
//!
//! A [`Client`](crate::Client) does this for all of its calls. It is public for callers with their own function for
//! one attempt, for example to count attempts or to inject faults into them.

use std::time::Duration;

use rand::Rng;
use thiserror::Error;
use tokio::time::Instant;

use crate::backoff::Retries;

/// What a failed attempt says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would fail in the same way.
    Never,
    /// It may work.
    Allowed {
        /// How long the server asked the client to wait, if it did.
        after: Option<Duration>,
    },
}

/// An error of one attempt that knows whether another one may work.
pub trait AttemptError {
    /// Whether another attempt may work, and how soon.
    fn retry(&self) -> Retry;
}

/// Why nothing more is tried.
#[derive(Debug, Error)]
pub enum GaveUp<E> {
    /// Trying again would end in the same way.
    #[error("{0}")]
    Refused(E),
    /// The attempts are used up, or the next one would come after the deadline.
    #[error("gave up after {attempts} attempts; the last one ended with: {last}")]
    Exhausted {
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt failed.
        last: E,
    },
}

impl<R: Rng> Retries<R> {
    /// Calls `attempt` with the time it may take, until it succeeds or the policy says to give up. `on_retry` is told
    /// of every failure that is followed by another attempt.
    ///
    /// Dropping the future ends it at once. Then nobody knows what the attempt under way did on the server.
    ///
    /// # Errors
    /// When it gives up.
    pub async fn run<T, E, A>(
        mut self,
        mut on_retry: impl FnMut(&E),
        mut attempt: impl FnMut(Duration) -> A,
    ) -> Result<T, GaveUp<E>>
    where
        E: AttemptError,
        A: Future<Output = Result<T, E>>,
    {
        let began = Instant::now();
        loop {
            let error = match attempt(self.time_left(began.elapsed())).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Retry::Allowed { after } = error.retry() else {
                return Err(GaveUp::Refused(error));
            };
            let Some(wait) = self.next_wait(began.elapsed(), after) else {
                return Err(GaveUp::Exhausted { attempts: self.failed(), last: error });
            };
            on_retry(&error);
            tokio::time::sleep(wait).await;
            // A timer may be late by a millisecond. An attempt without any time would only hide this error.
            if self.time_left(began.elapsed()).is_zero() {
                return Err(GaveUp::Exhausted { attempts: self.failed(), last: error });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;

    struct ComeBackIn(Duration);

    impl AttemptError for ComeBackIn {
        fn retry(&self) -> Retry {
            Retry::Allowed { after: Some(self.0) }
        }
    }

    /// It would end with a timeout of nothing, which hides why the server could not answer.
    #[tokio::test]
    async fn no_attempt_is_made_without_any_time() {
        let deadline = Duration::from_millis(60);
        for _ in 0..5 {
            let mut had = Vec::new();
            let attempt = |left: Duration| {
                had.push(left);
                async { Err::<(), _>(ComeBackIn(deadline - Duration::from_millis(1))) }
            };
            let backoff = Backoff::new(Duration::from_millis(1), deadline, 9, deadline).unwrap();
            let gave_up = backoff.start(rand::rng()).run(|_| {}, attempt).await;
            assert!(matches!(gave_up, Err(GaveUp::Exhausted { .. })));
            assert!(had.iter().all(|left| !left.is_zero()), "{had:?}");
        }
    }
}
