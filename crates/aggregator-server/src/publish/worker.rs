//! The worker threads. Each takes a turn from the queue, appends the jobs of the turn as one commit group, and sends
//! the receipts back.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::panicking;

use aggregator_core::DedupStore;

use crate::Config;
use crate::health::Health;
use crate::insight::Insight;
use crate::sync::thread::{self, JoinHandle};

use super::admission::Weight;
use super::commit_group::GroupCommitter;
use super::job::Job;
use super::outcome_counters::{GroupHistograms, OutcomeCounters, OutcomeCounts};
use super::queue::{Queue, TurnLimits};

/// All worker threads, and the queue before them.
pub(crate) struct Workers {
    queue: Arc<Queue>,
    count: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    counters: Arc<OutcomeCounters>,
}

/// All workers have ended: nobody will take a job any more.
#[derive(Debug)]
pub(crate) struct WorkersEnded;

impl Workers {
    /// Starts the threads: as many as configured, but no more than there are partitions, and no fewer than there are parts
    /// of the store that fail alone.
    pub(crate) fn start(
        store: &Arc<dyn DedupStore>,
        config: &Config,
        health: &Arc<Health>,
        insight: &Arc<Insight>,
    ) -> std::io::Result<Self> {
        let partitions = store.partitions().count();
        let shards = usize::from(store.info().shards);
        let count = config.workers.get().max(shards).min(usize::from(partitions));
        let limits = TurnLimits {
            across_partitions: store.across().is_some(),
            group: Weight { events: config.group_events.get(), bytes: config.group_bytes.0 },
            partitions_per_shard: partitions / store.info().shards,
            // Of one part, as many turns as there are partitions: each is in one turn at a time.
            turns_per_shard: if shards > 1 { count.div_ceil(shards) } else { usize::from(partitions) },
        };
        let mut workers = Self {
            queue: Arc::new(Queue::new(partitions, count, limits)),
            count,
            threads: Mutex::default(),
            counters: Arc::default(),
        };
        for number in 0..count {
            let worker = Worker {
                store: Arc::clone(store),
                health: Arc::clone(health),
                counters: Arc::clone(&workers.counters),
                insight: Arc::clone(insight),
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

    /// The outcomes of this process since its start.
    pub(crate) fn outcomes(&self) -> OutcomeCounts {
        self.counters.counts()
    }

    /// What is measured of the groups that this process has committed.
    pub(crate) fn groups(&self) -> &GroupHistograms {
        &self.counters.groups
    }

    /// Queues the jobs of a request, all or none.
    pub(crate) fn send(&self, jobs: Vec<Job>) -> Result<(), WorkersEnded> {
        self.queue.send(jobs).map_err(|_| WorkersEnded)
    }

    /// Lets the workers finish what is queued. Returns whether they finished before the deadline.
    pub(crate) async fn stop(&self, deadline: tokio::time::Instant) -> bool {
        let threads = self.dismiss();
        let joined = tokio::task::spawn_blocking(|| threads.into_iter().all(|thread| thread.join().is_ok()));
        matches!(tokio::time::timeout_at(deadline, joined).await, Ok(Ok(true)))
    }

    /// Tells the workers to finish what is queued and to end. Returns their threads.
    pub(super) fn dismiss(&self) -> Vec<JoinHandle<()>> {
        self.queue.stop();
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Workers {
    /// Ends the threads of an owner that did not call [`Workers::stop`].
    fn drop(&mut self) {
        self.queue.stop();
    }
}

struct Worker {
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    counters: Arc<OutcomeCounters>,
    insight: Arc<Insight>,
}

impl Worker {
    fn run(self, queue: &Queue) {
        let _registered = queue.enter();
        let mut ended = None;
        while let Some(mut turn) = queue.next(ended) {
            let jobs = std::mem::take(&mut turn.jobs);
            let Self { store, health, counters, insight } = &self;
            GroupCommitter::new(&**store, health, counters, insight, &mut turn.result).append(jobs);
            ended = Some(turn);
        }
    }
}

impl Drop for Worker {
    /// Nobody knows what a worker that panicked has left undone, even if other workers go on.
    fn drop(&mut self) {
        if panicking() {
            self.health.fail("a worker panicked".to_owned());
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::time::{Duration, Instant};

    use aggregator_core::MemoryStore;

    use super::*;
    use crate::health::State;

    #[test]
    fn a_worker_that_panics_anywhere_stops_acknowledgements() {
        let health = Arc::<Health>::default();
        let worker = Worker {
            store: Arc::new(MemoryStore::default()),
            health: Arc::clone(&health),
            counters: Arc::default(),
            insight: Arc::new(Insight::new(1)),
        };
        let thread = thread::spawn(|| {
            let _worker = worker;
            panic!("as planned");
        });
        assert!(thread.join().is_err());
        assert!(matches!(health.state(), State::Failed(_)));
    }

    #[test]
    fn the_threads_of_workers_that_nobody_stopped_end_too() {
        let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::default());
        let workers =
            Workers::start(&store, &Config::default(), &Arc::default(), &Arc::new(Insight::new(1))).unwrap();
        let threads = std::mem::take(&mut *workers.threads.lock().unwrap());
        drop(workers);
        let patience = Instant::now() + Duration::from_secs(20);
        while !threads.iter().all(JoinHandle::is_finished) {
            assert!(Instant::now() < patience, "they still wait for jobs");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
