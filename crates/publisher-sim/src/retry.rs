//! Trying until it works, or until there is no point in trying.

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::backoff::Retries;
use crate::client::{Failure, RetryCause};
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

/// Calls `attempt` with the time it may take, until it succeeds or `retries` says to give up.
///
/// # Errors
/// When it gives up, or when `stop` says so first.
pub async fn persist<T, A>(
    mut retries: Retries,
    stop: &Stop,
    mut on_retry: impl FnMut(RetryCause),
    mut attempt: impl FnMut(Duration) -> A,
) -> Result<T, GaveUp>
where
    A: Future<Output = Result<T, Failure>>,
{
    let began = Instant::now();
    let trying = async {
        loop {
            let (cause, retry_after) = match attempt(retries.time_left(began.elapsed())).await {
                Ok(value) => return Ok(value),
                Err(Failure::Final(detail)) => return Err(GaveUp::Refused(detail)),
                Err(Failure::Retryable { cause, retry_after }) => (cause, retry_after),
            };
            let Some(wait) = retries.next_wait(began.elapsed(), retry_after) else {
                return Err(GaveUp::Exhausted { attempts: retries.failed(), cause });
            };
            on_retry(cause);
            tokio::time::sleep(wait).await;
        }
    };
    tokio::select! {
        outcome = trying => outcome,
        () = stop.stopped() => Err(GaveUp::Stopped),
    }
}
