//! Reads block, so they run on threads of their own: a bounded number at a time, a bounded number
//! waiting.

use std::sync::Arc;

use aggregator_core::{DedupStore, StoreError};
use tokio::sync::Semaphore;

use crate::Config;
use crate::health::Health;
use crate::problem::Problem;

pub(crate) struct Reads {
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    running: Arc<Semaphore>,
    /// Running and waiting ones together.
    admitted: Semaphore,
}

impl Reads {
    pub(crate) fn new(store: Arc<dyn DedupStore>, health: Arc<Health>, config: &Config) -> Self {
        let readers = config.readers as usize;
        Self {
            store,
            health,
            running: Arc::new(Semaphore::new(readers)),
            admitted: Semaphore::new(readers.saturating_add(config.read_queue).min(Semaphore::MAX_PERMITS)),
        }
    }

    /// Runs `read` once it is its turn.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let Ok(_admitted) = self.admitted.try_acquire() else {
            return Err(Problem::overloaded("too many reads are waiting (--read-queue)"));
        };
        let running = Arc::clone(&self.running).acquire_owned().await;
        let running = running.map_err(|_| Problem::internal("the readers are closed"))?;
        let store = Arc::clone(&self.store);
        let result = tokio::task::spawn_blocking(move || {
            // The place is given back when the read ends, even if nobody waits for it any more.
            let _running = running;
            read(&*store)
        });
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if error.is_fatal() {
                    // What is corrupt to a reader is corrupt to the dedup index, too.
                    self.health.fail(error.to_string());
                }
                Err(Problem::from_read(&error))
            }
            Err(_) => Err(Problem::internal("a read panicked")),
        }
    }
}
