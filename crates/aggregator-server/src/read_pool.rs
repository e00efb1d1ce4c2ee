//! Reads block, so they run on threads of their own: a bounded number at a time, a bounded number
//! waiting, each for a bounded time.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{Deadline, DedupStore, StoreError};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
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
    threads: Threads,
    timeout: Duration,
}

impl ReadPool {
    pub(crate) fn start(
        store: Arc<dyn DedupStore>,
        health: Arc<Health>,
        config: &Config,
    ) -> std::io::Result<Self> {
        Ok(Self {
            store,
            health,
            running: Places::new(config.readers, config.read_queue),
            threads: Threads::start(config.readers as usize)?,
            timeout: config.read_timeout,
        })
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
        let result = self.threads.run(move || {
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

/// The threads of reads. They give way to all others: what is published must not wait for what is read, however many read.
struct Threads(Option<Runtime>);

/// How much less of a processor they get than others do, where there are too few: a third.
const NICENESS: i32 = 5;

impl Threads {
    fn start(count: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(count)
            .thread_name("reader")
            .on_thread_start(|| {
                // On Linux this is about the thread alone. Without it, reads are served all the same.
                let _ = rustix::process::nice(NICENESS);
            })
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("the threads are there until the pool is dropped").spawn_blocking(read)
    }
}

impl Drop for Threads {
    /// Reads that are stuck hold up nobody.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
