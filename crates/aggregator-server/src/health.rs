//! Whether the service may be used, and why not.
//!
//! It goes from ready to draining or failed, and never back. While it is ready, the store is asked once a second whether
//! it has room for events, and which of its parts do not answer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aggregator_core::{DedupStore, Outage, Partition, StoreError};
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
    health.tell_outages(&store.outages());
}

/// Partitions as the log shows them.
fn numbers<'p>(partitions: impl IntoIterator<Item = &'p Partition>) -> String {
    partitions.into_iter().map(|partition| partition.0.to_string()).collect::<Vec<_>>().join(", ")
}

/// What has changed since the log was told of these partitions: what is out besides, by its reason, and what is back. A
/// partition that was out alone, and is out now with all of its shard, is no news.
fn changes<'o>(
    told: &BTreeSet<Partition>,
    outages: &'o [Outage],
) -> (Vec<(Vec<Partition>, &'o str)>, Vec<Partition>) {
    let gone = outages.iter().map(|outage| {
        let partitions = outage.partitions.iter().copied().filter(|partition| !told.contains(partition));
        (partitions.collect::<Vec<_>>(), &*outage.reason)
    });
    let is_out = |partition: &Partition| outages.iter().any(|outage| outage.partitions.contains(partition));
    let back = told.iter().copied().filter(|partition| !is_out(partition)).collect();
    (gone.filter(|(partitions, _)| !partitions.is_empty()).collect(), back)
}

/// The state of the service, shared by all its parts.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Why there is no room for events; `None` while there is.
    no_space: Mutex<Option<Arc<str>>>,
    /// The partitions that were out at the last check. The log has told of them.
    told_outages: Mutex<BTreeSet<Partition>>,
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
    fn tell_outages(&self, outages: &[Outage]) {
        let mut told = self.told_outages.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, back) = changes(&told, outages);
        for (partitions, reason) in gone {
            let partitions = numbers(&partitions);
            warn!(partitions, reason, "a part of the store does not answer, the others go on");
        }
        if !back.is_empty() {
            info!(partitions = numbers(&back), "a part of the store is back");
        }
        *told = outages.iter().flat_map(|outage| outage.partitions.iter().copied()).collect();
    }

    /// Whether the log has told that this partition is out, and not yet that it is back.
    pub(crate) fn has_told_outage(&self, partition: Partition) -> bool {
        self.told_outages.lock().unwrap_or_else(PoisonError::into_inner).contains(&partition)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_that_goes_or_comes_back_is_told_once() {
        let some = |partitions: &[u16]| partitions.iter().copied().map(Partition).collect::<Vec<_>>();
        let told = |partitions: &[u16]| some(partitions).into_iter().collect::<BTreeSet<_>>();
        let one = [Outage::new(some(&[2]), "locked")];
        assert_eq!(changes(&told(&[]), &one), (vec![(some(&[2]), "locked")], some(&[])));
        assert_eq!(changes(&told(&[2]), &one), (vec![], some(&[])), "the log has it");
        let whole = [Outage::new(some(&[2, 3]), "gone"), Outage::new(some(&[4]), "full")];
        assert_eq!(changes(&told(&[2, 4]), &whole), (vec![(some(&[3]), "gone")], some(&[])));
        assert_eq!(changes(&told(&[2, 3, 5]), &one), (vec![], some(&[3, 5])));
    }
}
