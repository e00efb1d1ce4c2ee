//! What is done again, and for how long.

use std::time::Duration;

use aggregator_core::{Deadline, StoreError};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::PostgresOptions;
use crate::backoff::Backoff;
use crate::fault::{Failure, Result, unavailable};
use crate::pool::{Lease, Pool};
use crate::session::Session;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Runs a transaction until it is known what became of it, or the deadline is over. `transaction` has to be one
/// that can be run again after it was committed.
pub(crate) async fn writing<T>(
    pool: &Pool,
    options: &PostgresOptions,
    doing: &str,
    transaction: impl AsyncFn(&Session) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    let deadline = Instant::now() + options.deadline;
    let late = || unavailable(format!("{doing}: not done within {:?}", options.deadline));
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut was_lost = false;
    loop {
        let failure = match timeout_at(deadline, once(pool, &transaction)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failure)) => failure,
            Err(_) => return Err(late()),
        };
        was_lost |= failure.is_lost();
        // Without a connection nothing was sent: the caller may as well wait. But if an earlier one was lost, its
        // outcome is still to be learned.
        let again = failure.is_lost()
            || failure.is_collision()
            || (was_lost && matches!(failure, Failure::NoConnection(_)));
        let error = failure.told(doing);
        if !again || error.is_fatal() {
            return Err(error);
        }
        let pause = backoff.pause();
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        debug!(%error, doing, "tried again");
        tokio::time::sleep(pause).await;
    }
}

/// Reads until the deadline of the caller; once more if the connection turned out to be gone.
pub(crate) async fn reading<T>(
    pool: &Pool,
    options: &PostgresOptions,
    doing: &str,
    read: impl AsyncFn(&Session) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    Deadline::check(doing)?;
    let callers = Deadline::current();
    let deadline = match callers {
        Some(deadline) => deadline.instant().into(),
        None => Instant::now() + options.read_timeout,
    };
    let mut tries = 2;
    loop {
        tries -= 1;
        match timeout_at(deadline, once(pool, &read)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failure)) if tries > 0 && (failure.is_lost() || failure.is_collision()) => {}
            Ok(Err(failure)) => return Err(failure.told(doing)),
            Err(_) if callers.is_some() => return Err(Deadline::missed(doing)),
            Err(_) => {
                return Err(unavailable(format!("{doing}: not done within {:?}", options.read_timeout)));
            }
        }
    }
}

/// Reads everything, however long it takes.
pub(crate) async fn verifying<T>(
    pool: &Pool,
    read: impl AsyncFn(&Session) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    once(pool, &read).await.map_err(|failure| failure.told("verifying"))
}

async fn once<T>(pool: &Pool, call: &impl AsyncFn(&Session) -> Result<T>) -> Result<T> {
    let lease = pool.lease().await?;
    match call(lease.session()).await {
        Ok(done) => {
            lease.release();
            Ok(done)
        }
        Err(failure) => {
            leave(lease, &failure).await;
            Err(failure)
        }
    }
}

/// Keeps the session of a call that failed, if its transaction can be ended.
async fn leave(lease: Lease<'_>, failure: &Failure) {
    if !failure.is_lost() && !lease.session().is_closed() && lease.session().run("ROLLBACK").await.is_ok() {
        lease.release();
    }
}
