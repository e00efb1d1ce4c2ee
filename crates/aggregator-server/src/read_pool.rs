//! Reads block, so they run on threads of their own: a bounded number at a time, a bounded number
//! waiting, each for a bounded time.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{Deadline, DedupStore, StoreError};
use tokio::time::{Instant, timeout_at};

use crate::Config;
use crate::fair::Flow;
use crate::fair::places::{NoPlace, Places};
use crate::health::Health;

const DID_NOT_END: &str = "the read did not end";

/// Why a read has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("too many reads are waiting (--read-queue)")]
    QueueFull,
    #[error("too many bytes of responses are waiting for their clients (--response-bytes)")]
    NoRoom,
    /// `what` did not happen in time.
    #[error("{what} within --read-timeout {}", humantime::format_duration(*.timeout))]
    Timeout { what: &'static str, timeout: Duration },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of this program.
    #[error("{0}")]
    Internal(&'static str),
}

/// Runs reads of the store.
pub(crate) struct ReadPool {
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    running: Places,
    timeout: Duration,
}

impl ReadPool {
    pub(crate) fn new(store: Arc<dyn DedupStore>, health: Arc<Health>, config: &Config) -> Self {
        Self {
            store,
            health,
            running: Places::new(config.readers, config.read_queue),
            timeout: config.read_timeout,
        }
    }

    /// Runs `read` when its turn comes. The wait and the read have one deadline together.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        flow: Flow,
        read: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let deadline = Deadline::after(self.timeout);
        let late = |what| ReadError::Timeout { what, timeout: self.timeout };
        let running = match timeout_at(deadline.instant().into(), self.running.take(flow)).await {
            Ok(Ok(running)) => running,
            Ok(Err(NoPlace::Full)) => return Err(ReadError::QueueFull),
            Ok(Err(NoPlace::Stopped)) => return Err(ReadError::Internal("the readers are closed")),
            Err(_) => return Err(late("none of the --readers was free")),
        };
        let (store, health) = (Arc::clone(&self.store), Arc::clone(&self.health));
        let result = tokio::task::spawn_blocking(move || {
            let result = deadline.scope(|| read(&*store));
            if let Err(error) = &result
                && error.is_fatal()
            {
                // If a reader finds the file corrupt, the dedup index cannot be trusted either.
                health.fail(error.to_string());
            }
            // The read gives its place back when it ends, even if nobody waits for it any more. It drops the store
            // before. So a caller that has all places knows that no read holds the store.
            drop(store);
            drop(running);
            result
        });
        // The store ends the read itself, unless it is stuck, for example in its disk.
        match timeout_at(deadline.instant().into(), result).await {
            Err(_) => Err(late(DID_NOT_END)),
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) if error.is_retryable() && deadline.has_passed() => Err(late(DID_NOT_END)),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(_)) => Err(ReadError::Internal("a read panicked")),
        }
    }

    /// How many reads wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.running.waiting()
    }

    /// See [`Places::stop`].
    pub(crate) async fn stop(&self, deadline: Instant) {
        self.running.stop(deadline).await;
    }
}
