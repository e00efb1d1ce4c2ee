//! Work on threads of its own: a bounded number of pieces at a time, and an end to wait for.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Flow;
use super::queue::FairQueue;

/// How many pieces of work may run at a time, and how many may wait. Each holds a [`Place`] until it has let go of what it
/// uses.
pub(crate) struct Places {
    shared: Arc<Shared>,
    all: u32,
}

#[derive(Debug)]
struct Shared {
    free: Arc<Semaphore>,
    waiting: Mutex<FairQueue<(), Place>>,
}

/// Held by a piece of work, and given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Always there until it is dropped.
    permit: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// As many wait as may.
    Full,
    /// [`Places::stop`] was called.
    Stopped,
}

impl Places {
    pub(crate) fn new(all: u32, may_wait: usize) -> Self {
        let waiting = Mutex::new(FairQueue::new(may_wait));
        Self { shared: Arc::new(Shared { free: Arc::new(Semaphore::new(all as usize)), waiting }), all }
    }

    /// Waits for a place.
    pub(crate) async fn take(&self, flow: Flow) -> Result<Place, NoPlace> {
        let granted = {
            let mut waiting = self.shared.lock();
            match waiting.is_empty().then(|| self.shared.free()).flatten() {
                Some(place) => return Ok(place),
                None if self.shared.free.is_closed() => return Err(NoPlace::Stopped),
                None => waiting.join(flow, ()).ok_or(NoPlace::Full)?,
            }
        };
        // Those before it may have given up.
        self.shared.grant();
        granted.await.map_err(|_| NoPlace::Stopped)
    }

    /// How many wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.lock().len()
    }

    /// Waits until all work under way has ended, even that which nobody waits for. No other starts from then on.
    pub(crate) async fn stop(&self, deadline: Instant) {
        self.shared.lock().clear();
        if let Ok(Ok(all)) = timeout_at(deadline, self.shared.free.acquire_many(self.all)).await {
            all.forget();
        }
        self.shared.free.close();
        self.shared.lock().clear();
    }
}

impl Shared {
    fn free(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), shared: Arc::clone(self) })
    }

    /// Hands free places to those who wait.
    fn grant(self: &Arc<Self>) {
        let mut waiting = self.lock();
        while !waiting.is_empty() {
            let Some(mut place) = self.free() else { break };
            // One that has given up in this moment leaves the place in the message, which gives it back when it is dropped.
            // That needs the lock.
            let next = waiting.next(|()| true);
            drop(waiting);
            if let Some(waiter) = next {
                let _ = waiter.grant.send(place);
            } else {
                drop(place.permit.take());
            }
            waiting = self.lock();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FairQueue<(), Place>> {
        // Nothing under this lock panics.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            drop(permit);
            self.shared.grant();
        }
    }
}
