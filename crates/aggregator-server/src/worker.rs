//! The threads that append: each owns the queues of some partitions, takes all that waits, appends it
//! as one group, and hands the receipts back.

mod decided;
mod group;
#[cfg(all(test, shuttle))]
mod shuttle_tests;

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aggregator_core::{Batch, DedupStore, Partition, Receipt, StoreError};
use tokio::sync::oneshot;
use tracing::error;

use crate::Config;
use crate::admission::Reservation;
use crate::health::Health;
use crate::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Instant, Mutex};

use self::decided::Decided;

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
    fn answer(self, appended: Appended) {
        // The room is given back first: whoever has the reply may look at the queue.
        drop(self.reservation);
        if let Some(reply) = self.reply {
            // The publisher may be gone; its retry will be told of the duplicates.
            let _ = reply.send(appended);
        }
    }
}

enum Message {
    Job(Job),
    /// Finish what came before, then end.
    Stop,
}

pub(crate) struct Workers {
    queues: Vec<Sender<Message>>,
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
        let count = config.workers.get().min(usize::from(store.partitions().count()));
        let decided = Arc::new(Decided::default());
        let mut workers =
            Self { queues: Vec::new(), threads: Mutex::default(), decided: Arc::clone(&decided) };
        for number in 0..count {
            let (queue, jobs) = channel();
            let worker = Worker {
                store: Arc::clone(store),
                health: Arc::clone(health),
                decided: Arc::clone(&decided),
                jobs,
                group_events: config.group_events.get(),
                group_bytes: config.group_bytes.0,
                next: VecDeque::new(),
                kept: 0,
                rest_until: None,
                pause: FIRST_PAUSE,
            };
            let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(|| worker.run())?;
            workers.queues.push(queue);
            workers.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(workers)
    }

    pub(crate) fn count(&self) -> usize {
        self.queues.len()
    }

    /// What they have decided since the start.
    pub(crate) fn decided(&self) -> decided::Totals {
        self.decided.totals()
    }

    /// Queues a job. If its worker has ended, the job's reply is dropped, and that is the answer.
    pub(crate) fn send(&self, job: Job) {
        let queue = &self.queues[usize::from(job.partition.0) % self.queues.len()];
        if queue.send(Message::Job(job)).is_err() {
            error!("a job came after its worker had ended");
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
        for queue in &self.queues {
            // A worker that has ended already needs no word.
            let _ = queue.send(Message::Stop);
        }
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

struct Worker {
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    decided: Arc<Decided>,
    jobs: Receiver<Message>,
    group_events: usize,
    group_bytes: usize,
    /// Jobs that come next. Those that were acknowledged as queued and met a store that could not take
    /// them come back here until it can.
    next: VecDeque<Job>,
    /// How many of them, at the head, came back from the group at hand.
    kept: usize,
    /// Until when the store is left alone after such a failure.
    rest_until: Option<Instant>,
    /// How long it is left alone the next time.
    pause: Duration,
}

impl Worker {
    fn run(mut self) {
        let mut stopping = false;
        loop {
            let mut group = self.gather(&mut stopping);
            if group.is_empty() {
                if stopping {
                    return;
                }
                continue;
            }
            self.kept = 0;
            // Stable: what came first within a partition stays first.
            group.sort_by_key(|job| job.partition);
            while let Some(first) = group.first() {
                let partition = first.partition;
                let others = group.split_off(group.partition_point(|job| job.partition == partition));
                self.append(partition, std::mem::replace(&mut group, others));
            }
        }
    }

    /// All that waits, up to the limits of a group, but one job at least; what came back comes first. Blocks until there
    /// is something, or the stop: it is empty only if nothing is left, of what came back either.
    fn gather(&mut self, stopping: &mut bool) -> Vec<Job> {
        self.wait(stopping);
        let mut group = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while group.is_empty() || (events < self.group_events && bytes < self.group_bytes) {
            let job = match self.next.pop_front() {
                Some(job) => job,
                None => match self.jobs.try_recv() {
                    Ok(Message::Job(job)) => job,
                    Ok(Message::Stop) | Err(TryRecvError::Disconnected) => {
                        *stopping = true;
                        break;
                    }
                    Err(TryRecvError::Empty) => break,
                },
            };
            events += job.indices.len();
            bytes += job.bytes;
            group.push(job);
        }
        group
    }

    /// Until there is a job to begin with, and the store has had its rest.
    fn wait(&mut self, stopping: &mut bool) {
        while let Some(rest) = self.rest_until.map(|until| until.saturating_duration_since(Instant::now())) {
            if rest.is_zero() {
                self.rest_until = None;
                break;
            }
            match self.jobs.recv_timeout(rest) {
                Ok(Message::Job(job)) => self.next.push_back(job),
                Ok(Message::Stop) => *stopping = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(rest),
            }
        }
        if self.next.is_empty() && !*stopping {
            match self.jobs.recv() {
                Ok(Message::Job(job)) => self.next.push_back(job),
                Ok(Message::Stop) | Err(_) => *stopping = true,
            }
        }
    }
}
