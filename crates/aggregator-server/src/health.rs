//! Whether the service may be used, and if not, why.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aggregator_core::DedupStore;
use tokio::sync::{Notify, oneshot};
use tracing::{error, warn};

use crate::sync::atomic::{AtomicBool, Ordering};

/// How often the store is looked after.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks after the store while nothing is published, until `stopped` says that it is not needed any more: a store whose
/// files are gone is not ready.
pub(crate) async fn look_after(
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let looked_at = Arc::clone(&store);
        match tokio::task::spawn_blocking(move || looked_at.check_health()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_fatal() => return health.fail(error.to_string()),
            Ok(Err(error)) => warn!(%error, "the store is not well"),
            Err(_) => return health.fail("looking at the store's health panicked".to_owned()),
        }
    }
}

/// Goes from ready to draining or failed, and never back.
#[derive(Debug, Default)]
pub(crate) struct Health {
    draining: AtomicBool,
    failure: OnceLock<String>,
    /// Wakes whoever waits for the failure.
    told: Notify,
}

/// What [`Health`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State<'h> {
    Ready,
    /// The process is about to end in order.
    Draining,
    /// Nothing may be acknowledged any more, for this reason.
    Failed(&'h str),
}

impl Health {
    pub(crate) fn state(&self) -> State<'_> {
        match self.failure.get() {
            Some(reason) => State::Failed(reason),
            None if self.draining.load(Ordering::Acquire) => State::Draining,
            None => State::Ready,
        }
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// From now on nothing is acknowledged. The first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        error!(reason, "failed: nothing more is acknowledged until a restart");
        self.failure.get_or_init(|| reason);
        self.told.notify_one();
    }

    /// Returns once it has failed. For one waiter.
    pub(crate) async fn failed(&self) -> String {
        loop {
            if let Some(reason) = self.failure.get() {
                return reason.clone();
            }
            self.told.notified().await;
        }
    }
}
