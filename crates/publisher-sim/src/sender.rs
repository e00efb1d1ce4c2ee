//! Sends the plan over several connections.
//!
//! Every connection takes the next batch from the shared plan, encodes it, injects its faults and sends
//! it until it is acknowledged or refused for good.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aggregator_client::Backoff;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::client::{Client, Failure, RetryCause};
use crate::config::Ratio;
use crate::faults::{BURST_COPIES, Faults};
use crate::plan::{Delivery, Plan};
use crate::progress::Progress;
use crate::receipt::{Receipt, receipts};
use crate::retry::{GaveUp, with_retries};
use crate::seed::{Stream, Streams};
use crate::sequences::late::Late;
use crate::stop::Stop;
use crate::tally::Tally;
use crate::workload::Workload;

/// What sending needs to know.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The server.
    pub client: Client,
    /// The events.
    pub workload: Arc<Workload>,
    /// Which events are delivered, and how often.
    pub plan: Plan,
    /// Where faults, order and waits are drawn from.
    pub streams: Streams,
    /// What goes wrong on this side.
    pub faults: Faults,
    /// How failures are retried.
    pub backoff: Backoff,
    /// Connections at the same time.
    pub connections: u32,
    /// Deliveries per request.
    pub batch: u32,
    /// Deliveries per second; 0 is no limit.
    pub rate: u32,
    /// When to stop early.
    pub stop: Stop,
    /// Where progress is shown.
    pub progress: Progress,
}

/// The result of sending.
#[derive(Debug)]
pub struct Sent {
    /// The counts and the receipts.
    pub tally: Tally,
    /// From the first request to the last reply.
    pub elapsed: Duration,
}

impl Sending {
    /// Sends all of the plan, or until told to stop.
    pub async fn run(self) -> Sent {
        self.progress.phase("sending", self.plan.deliveries.into());
        let connections = self.connections;
        let sender = Arc::new(Sender {
            batches: Mutex::new(Batches { deliveries: self.deliveries(), number: 0, taken: 0 }),
            tally: Mutex::new(Tally::new(self.plan.unique())),
            began: Instant::now(),
            sending: self,
        });
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(sender.clone().work());
        }
        workers.join_all().await;
        let elapsed = sender.began.elapsed();
        let tally = std::mem::replace(&mut *sender.tally(), Tally::new(0));
        Sent { tally, elapsed }
    }

    /// The plan, with what is reordered and late on purpose.
    fn deliveries(&self) -> Box<dyn Iterator<Item = Delivery> + Send> {
        let walk = self.plan.walk(&self.streams, self.faults.reorder);
        let late = self.faults.late;
        if late.share == Ratio::ZERO {
            return Box::new(walk);
        }
        Box::new(Late::new(walk, self.workload.clone(), self.streams.clone(), late, self.plan.unique()))
    }
}

struct Sender {
    sending: Sending,
    batches: Mutex<Batches>,
    tally: Mutex<Tally>,
    began: Instant,
}

/// The rest of the plan, cut into batches as they are asked for.
struct Batches {
    deliveries: Box<dyn Iterator<Item = Delivery> + Send>,
    number: u64,
    taken: u64,
}

struct Assignment {
    number: u64,
    deliveries: Vec<Delivery>,
    /// How many deliveries of the plan come before.
    before: u64,
}

impl Batches {
    fn next(&mut self, size: u32) -> Option<Assignment> {
        let deliveries: Vec<_> = self.deliveries.by_ref().take(size as usize).collect();
        if deliveries.is_empty() {
            return None;
        }
        let assignment = Assignment { number: self.number, before: self.taken, deliveries };
        self.number += 1;
        self.taken += assignment.deliveries.len() as u64;
        Some(assignment)
    }
}

impl Sender {
    async fn work(self: Arc<Self>) {
        while !self.sending.stop.is_stopped() {
            let Some(assignment) = self.next_assignment() else { return };
            let faults = self.sending.faults.for_batch(&self.sending.streams, assignment.number);
            let start = self.due(assignment.before).max(Instant::now()) + faults.delay;
            tokio::select! {
                () = tokio::time::sleep_until(start) => {}
                () = self.sending.stop.stopped() => return,
            }
            let batch = Batch::encode(assignment.number, &assignment.deliveries, &self.sending.workload);
            self.note(&batch, faults.delay);
            let batch = Arc::new(batch);
            let mut copies = JoinSet::new();
            for copy in 1..faults.copies {
                self.tally().burst_deliveries += batch.len() as u64;
                copies.spawn(self.clone().deliver(batch.clone(), copy, false));
            }
            self.clone().deliver(batch.clone(), 0, faults.drop_reply).await;
            copies.join_all().await;
            self.sending.progress.advance(batch.len() as u64);
        }
    }

    /// The batch is about to be sent, after this delay.
    fn note(&self, batch: &Batch, delay: Duration) {
        let mut tally = self.tally();
        tally.delayed += delay;
        tally.sequences.note(batch, &self.sending.workload);
    }

    fn next_assignment(&self) -> Option<Assignment> {
        self.batches.lock().expect("no code panics while it holds the plan").next(self.sending.batch)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no code panics while it holds the tally")
    }

    /// When the delivery after `before` others is due: by the plan, not by when the last one was done, so
    /// that a slow reply does not lower the rate.
    fn due(&self, before: u64) -> Instant {
        match self.sending.rate {
            0 => self.began,
            rate => self.began + Duration::from_secs_f64(before as f64 / f64::from(rate)),
        }
    }

    async fn deliver(self: Arc<Self>, batch: Arc<Batch>, copy: u32, drop_reply: bool) {
        let mut delivered = self.until_acknowledged(&batch, copy).await;
        if drop_reply && delivered.is_ok() {
            self.tally().retry(RetryCause::DroppedReply);
            delivered = self.until_acknowledged(&batch, copy).await;
        }
        match delivered {
            Ok(receipts) => self.tally().settle(&batch, &receipts),
            Err(GaveUp::Stopped) => {}
            Err(reason) => self.tally().fail(batch.len() as u64, reason.to_string()),
        }
    }

    async fn until_acknowledged(&self, batch: &Batch, copy: u32) -> Result<Vec<Receipt>, GaveUp> {
        let sending = &self.sending;
        let place = batch.number * u64::from(BURST_COPIES) + u64::from(copy);
        let retries = sending.backoff.start(sending.streams.rng(Stream::Backoff, place));
        let on_retry = |cause| self.tally().retry(cause);
        with_retries(retries, &sending.stop, on_retry, |limit| self.attempt(batch, limit)).await
    }

    async fn attempt(&self, batch: &Batch, limit: Duration) -> Result<Vec<Receipt>, Failure> {
        self.tally().request(batch.len() as u64);
        let sent = Instant::now();
        let reply = self.sending.client.publish(batch.body(), limit).await?;
        let latency = sent.elapsed();
        let receipts = receipts(&reply, batch, &self.sending.workload).map_err(Failure::Final)?;
        self.tally().latency(latency);
        Ok(receipts)
    }
}
