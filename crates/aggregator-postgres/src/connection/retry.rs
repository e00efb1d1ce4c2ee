//! Retries: which failures are tried again, and for how long.

use std::time::Duration;

use aggregator_core::{Deadline, StoreError};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::PostgresOptions;
use crate::connection::backoff::Backoff;
use crate::connection::pool::{Pool, PooledSession};
use crate::connection::session::Session;
use crate::fault::{Failure, Result, unavailable};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a read of a cluster that finds damage is tried again.
const DAMAGE_READ_AGAIN: u32 = 3;

/// Runs a transaction until its outcome is known or the deadline has passed. It must be safe to run `transaction` again
/// after it was committed. Before it is tried again, `may_go_on` is asked, which knows of servers that are down.
pub(crate) async fn write<T>(
    pool: &Pool,
    options: &PostgresOptions,
    doing: &str,
    may_go_on: impl Fn() -> std::result::Result<(), StoreError>,
    transaction: impl AsyncFn(&Session) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    let deadline = Instant::now() + options.deadline;
    let late = || unavailable(format!("{doing}: not done within {:?}", options.deadline));
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut was_lost = false;
    loop {
        let failure = match timeout_at(deadline, run_once(pool, &transaction)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failure)) => failure,
            Err(_) => return Err(late()),
        };
        was_lost |= failure.leaves_outcome_unknown();
        // Without a connection nothing was sent, so the caller can retry as well. But after an earlier connection was
        // lost, the outcome is still to be learned.
        let again = failure.leaves_outcome_unknown()
            || failure.is_collision()
            || (was_lost && matches!(failure, Failure::NoConnection(_)));
        let error = failure.into_store_error(doing);
        if !again || error.is_fatal() {
            return Err(error);
        }
        if let Err(hopeless) = may_go_on() {
            debug!(%error, doing, "not tried again");
            return Err(hopeless);
        }
        let pause = backoff.pause();
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        debug!(%error, doing, "trying again");
        tokio::time::sleep(pause).await;
    }
}

/// Reads until the caller's deadline, or for `read_timeout` without one. Tries once more after a lost connection or a
/// collision.
pub(crate) async fn read<T>(
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
        match timeout_at(deadline, run_once(pool, &read)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failure)) if tries > 0 && (failure.leaves_outcome_unknown() || failure.is_collision()) => {
            }
            Ok(Err(failure)) => return Err(failure.into_store_error(doing)),
            Err(_) if callers.is_some() => return Err(Deadline::missed(doing)),
            Err(_) => {
                return Err(unavailable(format!("{doing}: not done within {:?}", options.read_timeout)));
            }
        }
    }
}

/// [`read`] of partitions that are on several servers. A partition that is moved to another one between two statements
/// looks damaged: the old server still has it as it was. So damage is believed when it is found again and again.
pub(crate) async fn read_of_cluster<T>(
    pool: &Pool,
    options: &PostgresOptions,
    doing: &str,
    transaction: impl AsyncFn(&Session) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    for _ in 0..DAMAGE_READ_AGAIN {
        match read(pool, options, doing, &transaction).await {
            Err(error @ StoreError::Corrupt { .. }) => debug!(%error, doing, "reading again"),
            result => return result,
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
    read(pool, options, doing, transaction).await
}

/// Runs a verification, which has no deadline.
pub(crate) async fn verify<T>(
    pool: &Pool,
    read: impl AsyncFn(&Session) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    run_once(pool, &read).await.map_err(|failure| failure.into_store_error("verifying"))
}

async fn run_once<T>(pool: &Pool, call: &impl AsyncFn(&Session) -> Result<T>) -> Result<T> {
    let pooled = pool.acquire().await?;
    // Boxed, because every function above has room for the whole call on its stack, several times where nothing is
    // optimized. A call is a round trip or more, so an allocation does not show.
    match Box::pin(call(pooled.session())).await {
        Ok(done) => {
            pooled.release();
            Ok(done)
        }
        Err(failure) => {
            end_transaction(pooled, &failure).await;
            Err(failure)
        }
    }
}

/// Rolls back the transaction of a call that failed, and keeps the session if that succeeds.
async fn end_transaction(pooled: PooledSession<'_>, failure: &Failure) {
    if !failure.leaves_outcome_unknown()
        && !pooled.session().is_closed()
        && pooled.session().run("ROLLBACK").await.is_ok()
    {
        pooled.release();
    }
}
