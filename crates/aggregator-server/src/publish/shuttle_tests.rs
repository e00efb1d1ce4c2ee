//! The hand-off from admission to queue to worker to reply, in thousands of schedules, and in all schedules where there
//! are few. A lost wake-up is a deadlock, which shuttle reports.
//!
//! `SHUTTLE_RANDOM_SEED` chooses other schedules. A schedule that fails is printed, for [`shuttle::replay`].
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod delivery;
mod stop;

use std::collections::HashMap;
use std::sync::Arc;

use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_core::{
    Batch, BatchBuilder, DedupStore, DedupStoreExt, Event, MemoryStore, Partition, Partitions, Query,
    Receipt, Scope, StoreError, StoredEvent, Timestamp, TopicSelector, event,
};
use bytes::Bytes;
use shuttle::future::block_on;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::thread::{spawn, yield_now};
use tokio::sync::oneshot;

use crate::Config;
use crate::insight::Insight;

use super::admission::{Admission, Refused, Weight};
use super::job::{AppendResult, Job, Origin};
use super::worker::Workers;

/// How many schedules of a case are explored in each of the two ways that draw them.
const SCHEDULES: usize = 1_500;
/// In how many places a schedule of the second way turns to another thread.
const TURNS: usize = 3;

fn explore(case: impl Fn() + Send + Sync + Clone + 'static) {
    run(RandomScheduler::new_from_seed(1, SCHEDULES), case.clone());
    run(PctScheduler::new_from_seed(1, TURNS, SCHEDULES), case);
}

fn explore_all(case: impl Fn() + Send + Sync + 'static) {
    run(DfsScheduler::new(None, false), case);
}

fn run(scheduler: impl Scheduler + 'static, case: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = 256 << 10;
    // It warns that it explores atomics with the strictest ordering only. These tests are about the hand-off.
    config.silence_warnings = true;
    shuttle::Runner::new(scheduler, config).run(case);
}

/// What publishers see of the service.
struct Service {
    store: Arc<dyn DedupStore>,
    admission: Arc<Admission>,
    workers: Workers,
}

/// Whom a request waits for, with the ids of the events it is about.
type Waiting = Vec<(Vec<String>, oneshot::Receiver<AppendResult>)>;

impl Service {
    /// With room for so many events.
    fn start(store: Arc<dyn DedupStore>, config: &Config, room: usize) -> Arc<Self> {
        let admission = Arc::new(Admission::new(room, usize::MAX));
        let workers = Workers::start(&store, config, &Arc::default(), &Arc::new(Insight::new(1))).unwrap();
        Arc::new(Self { store, admission, workers })
    }

    /// Hands a request over as `POST /publish` does.
    fn publish(&self, events: &[(&str, &str)], wait: bool) -> Result<Waiting, Refused> {
        let batch = Arc::new(batch(events));
        let mut parts: Vec<(Partition, Vec<u32>)> = Vec::new();
        for (index, (topic, _)) in (0..).zip(events) {
            let partition = self.store.partitions().of(topic);
            match parts.iter_mut().find(|part| part.0 == partition) {
                Some(part) => part.1.push(index),
                None => parts.push((partition, vec![index])),
            }
        }
        let weights: Vec<_> = parts.iter().map(|part| Weight { events: part.1.len(), bytes: 0 }).collect();
        let reservations = self.admission.reserve(&weights)?;
        let used = self.admission.used();
        assert!(used.events <= self.admission.capacity().events, "more was admitted than there is room for");
        let (mut waiting, mut jobs) = (Vec::new(), Vec::new());
        for ((partition, indices), reservation) in parts.into_iter().zip(reservations) {
            let (reply, receiver) = oneshot::channel();
            let ids = indices.iter().map(|&index| events[index as usize].1.to_owned()).collect();
            waiting.push((ids, receiver));
            let reply = wait.then_some(reply);
            let batch = Arc::clone(&batch);
            let origin = Origin::default();
            jobs.push(Job { partition, batch, indices, bytes: 0, reservation, reply, origin });
        }
        // After a stop the jobs are dropped, and with them the replies.
        let _ = self.workers.send(jobs);
        Ok(waiting)
    }

    /// As a publisher does: again, until it is stored or refused.
    fn publish_until_stored(&self, events: &[(&str, &str)]) {
        loop {
            let (_, reply) = self.publish(events, true).unwrap().remove(0);
            match block_on(reply).expect("a worker lives") {
                Err(error) if error.is_retryable() => yield_now(),
                Err(error) => {
                    assert!(matches!(*error, StoreError::Invalid(_)), "{error}");
                    return;
                }
                Ok(_) => return,
            }
        }
    }

    /// Stops the workers, which ends.
    fn stop(&self) {
        for thread in self.workers.dismiss() {
            thread.join().unwrap();
        }
    }

    /// Stops the workers after the last request, which leaves nothing reserved.
    fn drain(&self) {
        self.stop();
        self.assert_empty();
    }

    fn assert_empty(&self) {
        assert_eq!(self.admission.used(), Weight::default(), "room was not given back");
    }

    /// Everything that is stored of a topic, in order.
    fn stored(&self, topic: &str) -> Vec<StoredEvent> {
        let query = Query::of(topic.parse::<TopicSelector>().unwrap());
        self.store.read(&query).unwrap().events
    }

    /// The receipts are those of these ids, and of nobody else's.
    fn check(&self, ids: &[String], receipts: &[Receipt]) {
        let seqs: HashMap<_, _> =
            self.stored("*").into_iter().map(|event| (event.event_id, event.seq)).collect();
        let told: Vec<_> = receipts.iter().map(|receipt| receipt.seq.unwrap()).collect();
        assert_eq!(ids.iter().map(|id| seqs[id]).collect::<Vec<_>>(), told, "{ids:?}");
    }
}

fn batch(events: &[(&str, &str)]) -> Batch {
    let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::from_micros(0)).unwrap();
    for &(topic, event_id) in events {
        let raw = event::RawEvent {
            topic,
            event_id,
            timestamp: None,
            source: None,
            payload: None,
            sequence: None,
            scope: Scope::Topic,
        };
        builder.push(&raw).unwrap();
    }
    builder.finish()
}

fn config(group_events: usize) -> Config {
    Config { group_events: group_events.try_into().unwrap(), ..Config::default() }
}

fn in_threads(bodies: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = bodies.into_iter().map(spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A store of two partitions, and so with two workers, that has a commit for both or one for each; and a topic that is
/// not in the partition of the topic `a`.
fn two_partitions(across: bool) -> (MemoryStore, &'static str) {
    let partitions = Partitions::new(2).unwrap();
    let far = ["b", "c", "d", "e"].into_iter().find(|topic| partitions.of(topic) != partitions.of("a"));
    let store = MemoryStore::new(partitions);
    let store = if across { store } else { store.with_a_commit_per_partition() };
    (store, far.expect("not all of them hash alike"))
}
