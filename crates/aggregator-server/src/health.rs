//! Whether the service may be used, and if not, why.

use std::sync::OnceLock;

use tokio::sync::Notify;
use tracing::error;

use crate::sync::atomic::{AtomicBool, Ordering};

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
