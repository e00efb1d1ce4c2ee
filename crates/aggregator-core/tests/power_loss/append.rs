//! Appends a batch, and tells the ledger of it.

use aggregator_core::{AttemptId, DedupStore, Event, EventRef, StoreError};

use crate::ledger::{Ledger, Violation};
use crate::records::Failure;

/// Why the steps ended early.
pub(crate) enum Stop {
    Failed(StoreError),
    Broken(Violation),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Failed(error) => Self::Failed(error),
            Failure::Broken(violation) => Self::Broken(violation),
        }
    }
}

/// A commit for each partition.
pub(crate) fn append(
    store: &dyn DedupStore,
    events: &[Event],
    views: &[EventRef<'_>],
    ledger: &mut Ledger,
) -> Result<(), Stop> {
    for partition in store.partitions().iter() {
        let is_here = |event: &EventRef<'_>| store.partitions().of(event.topic()) == partition;
        let here = || events.iter().zip(views).filter(|(_, view)| is_here(view));
        let views: Vec<_> = here().map(|(_, view)| *view).collect();
        if views.is_empty() {
            continue;
        }
        let events: Vec<_> = here().map(|(event, _)| event.clone()).collect();
        let receipts = store.append(partition, AttemptId::new(), &views);
        let receipts = receipts.inspect_err(|_| ledger.doubt(&events))?;
        ledger.note(&events, &receipts).map_err(Stop::Broken)?;
    }
    Ok(())
}
