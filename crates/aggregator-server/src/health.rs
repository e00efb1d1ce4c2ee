//! Whether the service may be used, and why not.
//!
//! It goes from ready to draining or failed, and never back. While it is ready, the store is asked once a second whether
//! it has room for events, and which of its parts do not answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aggregator_core::{DedupStore, Outage, StoreError};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::sync::atomic::{AtomicBool, Ordering};

/// How often the store is checked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks the store again and again, also while nothing is appended. Ends when the sender of `stopped` is dropped.
pub(crate) async fn monitor(
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    mut stopped: watch::Receiver<()>,
) {
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(INTERVAL) => check(&store, &health).await,
        }
    }
}

/// Checks the store once.
pub(crate) async fn check(store: &Arc<dyn DedupStore>, health: &Health) {
    let checked = Arc::clone(store);
    match tokio::task::spawn_blocking(move || checked.check_health()).await {
        Ok(Ok(())) => health.set_room(),
        Ok(Err(error @ StoreError::NoSpace { .. })) => health.set_full(&error),
        Ok(Err(error)) if error.is_fatal() => health.fail(error.to_string()),
        Ok(Err(error)) => warn!(%error, "the store is not well"),
        Err(_) => health.fail("the check of the store's health panicked".to_owned()),
    }
    health.tell_outages(store.outages());
}

/// The partitions of an outage, as the log shows them.
fn numbers(outage: &Outage) -> String {
    outage.partitions.iter().map(|partition| partition.0.to_string()).collect::<Vec<_>>().join(", ")
}

/// The state of the service, shared by all its parts.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Why there is no room for events; `None` while there is.
    no_space: Mutex<Option<Arc<str>>>,
    /// The parts of the store that did not answer at the last check. The log has told of them.
    told_outages: Mutex<Vec<Outage>>,
    draining: AtomicBool,
    failure: OnceLock<String>,
    /// Wakes the waiter of [`Health::failed`].
    told: Notify,
}

/// [`Health`] at one moment.
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

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why no events are taken for now; `None` while they are.
    pub(crate) fn no_space(&self) -> Option<Arc<str>> {
        self.no_space.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_full(&self, error: &StoreError) {
        let before = self.set_no_space(Some(error.to_string().into()));
        if before.is_none() {
            warn!(%error, "no events are taken until there is room");
        }
    }

    fn set_room(&self) {
        if self.set_no_space(None).is_some() {
            info!("there is room for events again");
        }
    }

    fn set_no_space(&self, reason: Option<Arc<str>>) -> Option<Arc<str>> {
        std::mem::replace(&mut *self.no_space.lock().unwrap_or_else(PoisonError::into_inner), reason)
    }

    /// Logs which parts of the store have gone since the last check, and which ones are back.
    fn tell_outages(&self, outages: Vec<Outage>) {
        let mut told = self.told_outages.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in = |all: &[Outage], one: &Outage| all.iter().any(|other| other.partitions == one.partitions);
        for outage in outages.iter().filter(|outage| !is_in(&told, outage)) {
            let (partitions, reason) = (numbers(outage), &outage.reason);
            warn!(partitions, reason, "a part of the store does not answer, the others go on");
        }
        for outage in told.iter().filter(|outage| !is_in(&outages, outage)) {
            info!(partitions = numbers(outage), "a part of the store is back");
        }
        *told = outages;
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// From now on nothing is acknowledged. Only the first reason is kept and logged.
    pub(crate) fn fail(&self, reason: String) {
        self.failure.get_or_init(|| {
            error!(reason, "failed: nothing more is acknowledged until a restart");
            reason
        });
        self.told.notify_one();
    }

    /// Returns once the service has failed. For one waiter.
    pub(crate) async fn failed(&self) -> String {
        loop {
            if let Some(reason) = self.failure.get() {
                return reason.clone();
            }
            self.told.notified().await;
        }
    }
}
