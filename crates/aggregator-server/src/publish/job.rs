//! A job: the events of one request that go to one partition, on their way to a worker and back.

use std::ops::{Deref, Range};
use std::sync::Arc;

use aggregator_core::{Batch, Partition, Receipt, StoreError};
use tokio::sync::oneshot;

use super::admission::{Reservation, Weight};
use crate::http::request_id::RequestId;
use crate::trace::RequestSpan;

/// The receipts of a job's events, in the order of [`Job::indices`], or the error of its whole group.
pub(crate) type AppendResult = Result<Receipts, Arc<StoreError>>;

/// The events of one request that go to one partition.
pub(crate) struct Job {
    pub(crate) partition: Partition,
    pub(crate) batch: Arc<Batch>,
    /// Which events of the batch.
    pub(crate) indices: Vec<u32>,
    pub(crate) bytes: usize,
    pub(crate) reservation: Reservation,
    /// Who waits for the commit; nobody, if the request was answered when it was queued.
    pub(crate) reply: Option<oneshot::Sender<AppendResult>>,
    pub(crate) origin: Origin,
}

/// The request that a job is part of, as logs and traces know it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// Only where nobody waits for the job: an answer has the id anyway.
    pub(crate) request_id: Option<RequestId>,
    /// Only if the request is sampled.
    pub(crate) span: Option<Arc<RequestSpan>>,
}

impl Job {
    pub(super) fn weight(&self) -> Weight {
        Weight { events: self.indices.len(), bytes: self.bytes }
    }

    pub(super) fn answer(self, result: AppendResult) {
        // The reservation ends first: whoever receives the reply may look at the queue.
        drop(self.reservation);
        if let Some(reply) = self.reply {
            // If the publisher is gone, nobody receives the reply. Its retry will find duplicates.
            let _ = reply.send(result);
        }
    }
}

/// Some of the receipts of a commit group. The jobs of the group share its receipts, so that no receipt is copied.
#[derive(Debug, Clone)]
pub(crate) struct Receipts {
    group: Arc<Vec<Receipt>>,
    own: Range<usize>,
}

impl Receipts {
    /// All receipts of a group.
    pub(super) fn of_group(receipts: Vec<Receipt>) -> Self {
        Self { own: 0..receipts.len(), group: Arc::new(receipts) }
    }

    /// Takes the first `count` of them out.
    pub(super) fn split_to(&mut self, count: usize) -> Self {
        let own = self.own.start..self.own.start + count;
        self.own.start = own.end;
        Self { group: Arc::clone(&self.group), own }
    }
}

impl Deref for Receipts {
    type Target = [Receipt];

    fn deref(&self) -> &[Receipt] {
        &self.group[self.own.clone()]
    }
}
