//! The threads that append: each owns the queues of some partitions, takes all that waits, appends it
//! as one group, and hands the receipts back.

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aggregator_core::{AttemptId, Batch, DedupStore, Fault, Outcome, Partition, Receipt, StoreError};
use tokio::sync::oneshot;
use tracing::{debug, error, warn};

use crate::Config;
use crate::admission::Reservation;
use crate::health::{self, Health};

/// The receipts of a job's events, in the order of [`Job::indices`], or the error of its whole group.
pub(crate) type Appended = Result<Vec<Receipt>, Arc<StoreError>>;

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
}

impl Workers {
    /// Starts the threads: as many as configured, but no more than there are partitions.
    pub(crate) fn start(
        store: &Arc<dyn DedupStore>,
        config: &Config,
        health: &Arc<Health>,
    ) -> std::io::Result<Self> {
        let count = config.workers.get().min(usize::from(store.partitions().count()));
        let mut workers = Self { queues: Vec::new(), threads: Mutex::default() };
        for number in 0..count {
            let (queue, jobs) = channel();
            let worker = Worker {
                store: Arc::clone(store),
                health: Arc::clone(health),
                jobs,
                group_events: config.group_events.get(),
                group_bytes: config.group_bytes.0,
                next: VecDeque::new(),
                rest_until: None,
                pause: FIRST_PAUSE,
            };
            let thread =
                std::thread::Builder::new().name(format!("worker-{number}")).spawn(|| worker.run())?;
            workers.queues.push(queue);
            workers.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(workers)
    }

    pub(crate) fn count(&self) -> usize {
        self.queues.len()
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
        for queue in &self.queues {
            // A worker that has ended already needs no word.
            let _ = queue.send(Message::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(|| threads.into_iter().all(|thread| thread.join().is_ok()));
        matches!(tokio::time::timeout_at(deadline, joined).await, Ok(Ok(true)))
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

struct Worker {
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    jobs: Receiver<Message>,
    group_events: usize,
    group_bytes: usize,
    /// Jobs that come next. Those that were acknowledged as queued and met a store that could not take
    /// them come back here until it can.
    next: VecDeque<Job>,
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
                if stopping && self.next.is_empty() {
                    return;
                }
                continue;
            }
            // Stable: what came first within a partition stays first.
            group.sort_by_key(|job| job.partition);
            while let Some(first) = group.first() {
                let partition = first.partition;
                let others = group.split_off(group.partition_point(|job| job.partition == partition));
                self.append(partition, std::mem::replace(&mut group, others));
            }
        }
    }

    /// All that waits, up to the limits of a group; what came back comes first. Blocks until there is
    /// something, or the stop.
    fn gather(&mut self, stopping: &mut bool) -> Vec<Job> {
        self.wait(stopping);
        let mut group = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while events < self.group_events && bytes < self.group_bytes {
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
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(rest),
            }
        }
        if self.next.is_empty() && !*stopping {
            match self.jobs.recv() {
                Ok(Message::Job(job)) => self.next.push_back(job),
                Ok(Message::Stop) | Err(_) => *stopping = true,
            }
        }
    }

    fn append(&mut self, partition: Partition, jobs: Vec<Job>) {
        if let health::State::Failed(reason) = self.health.state() {
            let reason = reason.to_owned();
            return self.refuse(jobs, StoreError::Poisoned { reason });
        }
        // The jobs stay out of the store's reach: whatever happens there, they are answered.
        let result = catch_unwind(AssertUnwindSafe(|| append_group(&*self.store, partition, &jobs)));
        let result = result.unwrap_or_else(|panic| {
            Err(StoreError::Poisoned { reason: format!("a worker panicked: {}", panic_message(&*panic)) })
        });
        match result {
            Ok(receipts) => self.deliver(jobs, receipts),
            Err(StoreError::Invalid(faults)) if jobs.len() > 1 => self.append_apart(partition, jobs, &faults),
            Err(StoreError::Invalid(faults)) if jobs[0].reply.is_none() => {
                jobs.into_iter().for_each(|job| self.append_rest(partition, job, &faults));
            }
            Err(error) => self.refuse(jobs, error),
        }
    }

    /// One request's fault must not be its neighbours': those without one stay together, each of the
    /// others is tried by itself.
    fn append_apart(&mut self, partition: Partition, jobs: Vec<Job>, faults: &[Fault]) {
        let bad: HashSet<usize> = faults.iter().filter_map(|fault| fault.index).collect();
        let mut end = 0;
        let (faulty, sound): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| {
            let events = end..end + job.indices.len();
            end = events.end;
            // A fault that names no event may be anybody's.
            bad.is_empty() || events.into_iter().any(|event| bad.contains(&event))
        });
        if !sound.is_empty() {
            self.append(partition, sound);
        }
        for job in faulty {
            self.append(partition, vec![job]);
        }
    }

    /// A request that was answered when it was queued cannot be asked to mend itself: it loses the
    /// events the store refuses, and no others.
    fn append_rest(&mut self, partition: Partition, mut job: Job, faults: &[Fault]) {
        let bad: HashSet<usize> = faults.iter().filter_map(|fault| fault.index).collect();
        let before = job.indices.len();
        let mut at = 0..;
        job.indices.retain(|_| at.next().is_some_and(|at| !bad.contains(&at)));
        let lost = if bad.is_empty() { before } else { before - job.indices.len() };
        error!(events = lost, fault = %faults[0], "events that were acknowledged as queued are refused");
        if !bad.is_empty() && !job.indices.is_empty() {
            self.append(partition, vec![job]);
        }
    }

    fn deliver(&mut self, jobs: Vec<Job>, receipts: Vec<Receipt>) {
        self.pause = FIRST_PAUSE;
        let stored = receipts.iter().filter(|receipt| receipt.outcome == Outcome::Stored).count();
        debug!(requests = jobs.len(), events = receipts.len(), stored, "committed");
        let mut receipts = receipts.into_iter();
        for job in jobs {
            let own = receipts.by_ref().take(job.indices.len()).collect();
            job.answer(Ok(own));
        }
    }

    /// Tells whoever waits; what nobody waits for is kept if the store may take it later.
    fn refuse(&mut self, jobs: Vec<Job>, error: StoreError) {
        if matches!(self.health.state(), health::State::Failed(_)) {
            // Said already.
        } else if error.is_fatal() {
            self.health.fail(error.to_string());
        } else {
            warn!(error = %error, requests = jobs.len(), "a group was not stored");
        }
        let retryable = error.is_retryable();
        let error = match (error, jobs.as_slice()) {
            // From the events of the job to those of its request.
            (StoreError::Invalid(mut faults), [job]) => {
                for fault in &mut faults {
                    fault.index = fault.index.map(|index| job.indices[index] as usize);
                }
                Arc::new(StoreError::Invalid(faults))
            }
            (error, _) => Arc::new(error),
        };
        let mut kept = VecDeque::new();
        for job in jobs {
            if job.reply.is_some() {
                job.answer(Err(Arc::clone(&error)));
            } else if retryable {
                kept.push_back(job);
            } else {
                error!(events = job.indices.len(), %error, "events that were acknowledged as queued are lost");
            }
        }
        if !kept.is_empty() {
            // Before whatever came after them: the order stays.
            kept.append(&mut self.next);
            self.next = kept;
            self.rest_until = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn append_group(
    store: &dyn DedupStore,
    partition: Partition,
    jobs: &[Job],
) -> Result<Vec<Receipt>, StoreError> {
    let views: Vec<_> = jobs.iter().map(|job| job.batch.view()).collect();
    let events = jobs.iter().zip(&views);
    let events = events.flat_map(|(job, view)| job.indices.iter().map(|&index| view.event(index as usize)));
    store.append(partition, AttemptId::new(), &events.collect::<Vec<_>>())
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}
