//! The threads that append: each takes all that waits in some partitions, appends it as one group, and hands the
//! receipts back.

mod decided;
mod group;
mod queue;
#[cfg(all(test, shuttle))]
mod shuttle_tests;

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::panicking;

use aggregator_core::{Batch, DedupStore, Partition, Receipt, StoreError};
use tokio::sync::oneshot;
use tracing::error;

use crate::Config;
use crate::admission::{Reservation, Weight};
use crate::health::Health;
use crate::sync::thread::{self, JoinHandle};

use self::decided::Decided;
use self::queue::{Queue, Rules};

/// The receipts of a job's events, in the order of [`Job::indices`], or the error of its whole group.
pub(crate) type Appended = Result<Receipts, Arc<StoreError>>;

/// Some of the receipts of a group, which its jobs share: the worker copies none of them.
#[derive(Debug)]
pub(crate) struct Receipts {
    group: Arc<Vec<Receipt>>,
    own: Range<usize>,
}

impl Receipts {
    /// All receipts of a group.
    pub(crate) fn of_group(receipts: Vec<Receipt>) -> Self {
        Self { own: 0..receipts.len(), group: Arc::new(receipts) }
    }

    /// Takes the first `count` of them out.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
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

/// The events of one request that belong to one partition.
pub(crate) struct Job {
    pub(crate) partition: Partition,
    pub(crate) batch: Arc<Batch>,
    /// Which events of the batch.
    pub(crate) indices: Vec<u32>,
    pub(crate) bytes: usize,
    pub(crate) reservation: Reservation,
    /// Who waits for the commit; nobody, if the request was answered when it was queued.
    pub(crate) reply: Option<oneshot::Sender<Appended>>,
}

impl Job {
    fn weight(&self) -> Weight {
        Weight { events: self.indices.len(), bytes: self.bytes }
    }

    fn answer(self, appended: Appended) {
        // The room is given back first: whoever has the reply may look at the queue.
        drop(self.reservation);
        if let Some(reply) = self.reply {
            // The publisher may be gone; its retry will be told of the duplicates.
            let _ = reply.send(appended);
        }
    }
}

pub(crate) struct Workers {
    queue: Arc<Queue>,
    count: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    decided: Arc<Decided>,
}

impl Workers {
    /// Starts the threads: as many as configured, but no more than there are partitions.
    pub(crate) fn start(
        store: &Arc<dyn DedupStore>,
        config: &Config,
        health: &Arc<Health>,
    ) -> std::io::Result<Self> {
        let partitions = store.partitions().count();
        let count = config.workers.get().min(usize::from(partitions));
        let rules = Rules {
            across: store.across().is_some(),
            group: Weight { events: config.group_events.get(), bytes: config.group_bytes.0 },
        };
        let mut workers = Self {
            queue: Arc::new(Queue::new(partitions, count, rules)),
            count,
            threads: Mutex::default(),
            decided: Arc::default(),
        };
        for number in 0..count {
            let worker = Worker {
                store: Arc::clone(store),
                health: Arc::clone(health),
                decided: Arc::clone(&workers.decided),
                kept: Vec::new(),
                failed: false,
            };
            let queue = Arc::clone(&workers.queue);
            let name = format!("worker-{number}");
            match thread::Builder::new().name(name).spawn(move || worker.run(&queue)) {
                Ok(thread) => {
                    workers.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
                }
                Err(error) => {
                    workers.queue.stop();
                    return Err(error);
                }
            }
        }
        Ok(workers)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What they have decided since the start.
    pub(crate) fn decided(&self) -> decided::Totals {
        self.decided.totals()
    }

    /// Queues the jobs of a request. If all workers have ended, their replies are dropped, and that is the answer.
    pub(crate) fn send(&self, jobs: Vec<Job>) {
        if self.queue.send(jobs).is_err() {
            error!("jobs came after the workers had ended");
        }
    }

    /// Lets the workers finish what is queued; whether they did so before the deadline.
    pub(crate) async fn stop(&self, deadline: tokio::time::Instant) -> bool {
        let threads = self.dismiss();
        let joined = tokio::task::spawn_blocking(|| threads.into_iter().all(|thread| thread.join().is_ok()));
        matches!(tokio::time::timeout_at(deadline, joined).await, Ok(Ok(true)))
    }

    /// Tells the workers to finish what is queued, and who they are.
    fn dismiss(&self) -> Vec<JoinHandle<()>> {
        self.queue.stop();
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Workers {
    /// Whoever does not stop them has no use for them either.
    fn drop(&mut self) {
        self.queue.stop();
    }
}

struct Worker {
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    decided: Arc<Decided>,
    /// What was acknowledged as queued and met a store that could not take it in this turn: it is tried again.
    kept: Vec<Job>,
    /// Whether the store could not take something of this turn now.
    failed: bool,
}

impl Worker {
    fn run(mut self, queue: &Queue) {
        let _present = queue.enter();
        let mut before = None;
        while let Some(mut turn) = queue.next(before) {
            self.append(std::mem::take(&mut turn.jobs));
            turn.kept = std::mem::take(&mut self.kept);
            turn.failed = std::mem::take(&mut self.failed);
            before = Some(turn);
        }
    }
}

impl Drop for Worker {
    /// Nobody knows what a worker that panicked has left undone, even if others go on.
    fn drop(&mut self) {
        if panicking() {
            self.health.fail("a worker panicked".to_owned());
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use aggregator_core::MemoryStore;

    use super::*;
    use crate::health::State;

    #[test]
    fn a_worker_that_panics_anywhere_stops_acknowledgements() {
        let health = Arc::<Health>::default();
        let worker = Worker {
            store: Arc::new(MemoryStore::default()),
            health: Arc::clone(&health),
            decided: Arc::default(),
            kept: Vec::new(),
            failed: false,
        };
        let thread = thread::spawn(|| {
            let _worker = worker;
            panic!("as planned");
        });
        assert!(thread.join().is_err());
        assert!(matches!(health.state(), State::Failed(_)));
    }
}
