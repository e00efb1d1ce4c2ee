//! Work on threads of its own: a bounded number of pieces at a time, and an end to wait for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// How many pieces of work may run at a time. Each holds a [`Place`] until it has let go of what it uses.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    all: u32,
}

/// Held by a piece of work, and given back when it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Places {
    pub(crate) fn new(all: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for a place; `None` once [`Self::stop`] was called.
    pub(crate) async fn take(&self) -> Option<Place> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Waits until all work under way has ended, even that which nobody waits for. No other starts from then on.
    pub(crate) async fn stop(&self, deadline: Instant) {
        if let Ok(Ok(all)) = timeout_at(deadline, self.free.acquire_many(self.all)).await {
            all.forget();
        }
        self.free.close();
    }
}
