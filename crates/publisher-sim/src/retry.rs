//! The client's retries, until the run is interrupted.

use std::time::Duration;

use aggregator_client::backoff::Retries;
use aggregator_client::retry;
use thiserror::Error;

use crate::client::{Failure, RetryCause};
use crate::seed::SimRng;
use crate::stop::Stop;

/// Why nothing more is tried.
#[derive(Debug, Error)]
pub enum GaveUp {
    /// Trying again would end the same way.
    #[error("{0}")]
    Refused(String),
    /// The attempts or the time are used up.
    #[error("gave up after {attempts} attempts; the last one ended with: {cause}")]
    Exhausted {
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt failed.
        cause: RetryCause,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Stopped,
}

impl GaveUp {
    fn of(gave_up: retry::GaveUp<Failure>) -> Self {
        match gave_up {
            retry::GaveUp::Exhausted { attempts, last: Failure::Retryable { cause, .. } } => {
                Self::Exhausted { attempts, cause }
            }
            retry::GaveUp::Refused(last) | retry::GaveUp::Exhausted { last, .. } => {
                Self::Refused(last.to_string())
            }
        }
    }
}

/// Calls `attempt` with the time it may take, until it succeeds or `retries` says to give up. `on_retry` is told why it
/// is called again.
///
/// # Errors
/// When it gives up, or when `stop` says so first.
pub async fn with_retries<T, A>(
    retries: Retries<SimRng>,
    stop: &Stop,
    mut on_retry: impl FnMut(RetryCause),
    attempt: impl FnMut(Duration) -> A,
) -> Result<T, GaveUp>
where
    A: Future<Output = Result<T, Failure>>,
{
    let failed = |failure: &Failure| {
        if let Failure::Retryable { cause, .. } = failure {
            on_retry(*cause);
        }
    };
    tokio::select! {
        outcome = retries.run(failed, attempt) => outcome.map_err(GaveUp::of),
        () = stop.stopped() => Err(GaveUp::Stopped),
    }
}
