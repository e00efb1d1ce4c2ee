//! The hand-off from admission to queue to worker to reply, in thousands of schedules, and where there are
//! few enough in all of them. A wake-up that is lost is a deadlock, which shuttle reports.
//!
//! `SHUTTLE_RANDOM_SEED` asks for other schedules. One that fails is printed, for [`shuttle::replay`].
#![expect(clippy::unwrap_used, reason = "this is test code")]

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

use super::worker::{Appended, Job, Workers};
use crate::Config;
use crate::publish::admission::{Admission, Refused, Weight};

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
    // It says that it takes every ordering for the strictest one: what is explored here is the hand-off.
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
type Waiting = Vec<(Vec<String>, oneshot::Receiver<Appended>)>;

impl Service {
    /// With room for so many events.
    fn start(store: Arc<dyn DedupStore>, config: &Config, room: usize) -> Arc<Self> {
        let admission = Arc::new(Admission::new(room, usize::MAX));
        let workers = Workers::start(&store, config, &Arc::default()).unwrap();
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
            jobs.push(Job { partition, batch, indices, bytes: 0, reservation, reply });
        }
        self.workers.send(jobs);
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

#[test]
fn every_request_is_answered_with_its_own_receipts_and_has_given_its_room_back() {
    for across in [true, false] {
        answer_requests(across);
    }
}

fn answer_requests(across: bool) {
    let config = config(2);
    explore(move || {
        let (store, far) = two_partitions(across);
        let service = Service::start(Arc::new(store), &config, 8);
        let publisher = |name: &'static str| {
            let service = Arc::clone(&service);
            let body = move || {
                for n in 0..2 {
                    let ids = [format!("{name}{n}-1"), format!("{name}{n}-2"), format!("{name}{n}-3")];
                    let events = [("a", ids[0].as_str()), (far, &ids[1]), ("a", &ids[2])];
                    for (ids, reply) in service.publish(&events, true).unwrap() {
                        let receipts = block_on(reply).expect("a worker lives").expect("the store is well");
                        service.check(&ids, &receipts);
                    }
                    assert!(service.admission.used().events <= 3, "a reply came before the room was free");
                }
            };
            Box::new(body) as Box<dyn FnOnce() + Send>
        };
        in_threads(vec![publisher("x"), publisher("y")]);
        service.drain();
        assert_eq!(service.stored("*").len(), 12);
    });
}

#[test]
fn two_workers_store_what_was_queued_in_its_order_through_failures_and_a_stop() {
    for (across, failures) in [(true, 1), (true, 3), (false, 1), (false, 3)] {
        let config = config(4);
        explore(move || {
            let (inner, far) = two_partitions(across);
            let store = Arc::new(FaultyStore::new(Arc::new(inner)));
            (1..=failures).for_each(|nth| store.fail_nth(nth, Failure::Unavailable));
            let service = Service::start(store, &config, 8);
            let queues = {
                let service = Arc::clone(&service);
                move || {
                    for (a, b) in [("1", "2"), ("3", "4"), ("5", "6")] {
                        service.publish(&[("a", a), (far, b)], false).unwrap();
                    }
                }
            };
            let waits = {
                let service = Arc::clone(&service);
                move || service.publish_until_stored(&[(far, "x")])
            };
            in_threads(vec![Box::new(queues), Box::new(waits)]);
            service.drain();
            for (topic, ids) in [("a", ["1", "3", "5"]), (far, ["2", "4", "6"])] {
                let mut stored: Vec<_> =
                    service.stored(topic).into_iter().map(|event| event.event_id).collect();
                stored.retain(|id| id != "x");
                assert_eq!(stored, ids);
            }
        });
    }
}

#[test]
fn what_was_queued_is_stored_in_its_order_once_the_store_recovers() {
    use Failure::{LostReply, NoSpace, Unavailable};
    let config = config(4);
    let plans: [&[(u64, Failure)]; 6] = [
        &[(1, Unavailable), (2, NoSpace)],
        &[(2, Unavailable)],
        &[(2, Unavailable), (3, Unavailable)],
        &[(2, Unavailable), (4, LostReply)],
        &[(1, LostReply), (3, Unavailable)],
        &[(3, Unavailable), (4, Unavailable), (5, Unavailable)],
    ];
    for plan in plans {
        let config = config.clone();
        explore(move || {
            // The topic there is stays the only one: other events are refused.
            let inner = Arc::new(MemoryStore::default().with_max_topics(1));
            inner.append_one(&Event::new("t", "0").unwrap()).unwrap();
            let store = Arc::new(FaultyStore::new(inner));
            plan.iter().for_each(|&(nth, failure)| store.fail_nth(nth, failure));
            let service = Service::start(store, &config, 8);
            let queues = {
                let service = Arc::clone(&service);
                move || {
                    service.publish(&[("t", "1")], false).unwrap();
                    service.publish(&[("t", "2"), ("refused", "2")], false).unwrap();
                    service.publish(&[("t", "3")], false).unwrap();
                    service.publish_until_stored(&[("t", "4")]);
                }
            };
            let waits = {
                let service = Arc::clone(&service);
                move || {
                    service.publish_until_stored(&[("refused", "x"), ("t", "x")]);
                    service.publish_until_stored(&[("t", "x")]);
                }
            };
            in_threads(vec![Box::new(queues), Box::new(waits)]);
            service.drain();
            let stored = service.stored("t");
            let mut ids: Vec<_> = stored.iter().map(|event| event.event_id.as_str()).collect();
            ids.retain(|id| *id != "x");
            assert_eq!((ids, stored.len()), (vec!["0", "1", "2", "3", "4"], 6));
        });
    }
}

/// Two publishers and a stop at any time, with or without a failure of the store.
fn stop_races_with_publishers(config: &Config, failures: u64) {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    (1..=failures).for_each(|nth| store.fail_nth(nth, Failure::Unavailable));
    let service = Service::start(store, config, 8);
    let stopping = Arc::new(AtomicBool::new(false));
    let publisher = |id: &'static str, wait: bool| {
        let (service, stopping) = (Arc::clone(&service), Arc::clone(&stopping));
        move || {
            let mut waiting = service.publish(&[("t", id)], wait).unwrap();
            let came_before = !stopping.load(Ordering::SeqCst);
            if wait {
                let reply = block_on(waiting.remove(0).1);
                assert!(reply.is_ok() || !came_before, "the stop overtook a request");
                matches!(reply, Ok(Ok(_)))
            } else {
                came_before
            }
        }
    };
    let threads = [spawn(publisher("waited", true)), spawn(publisher("queued", false))];
    stopping.store(true, Ordering::SeqCst);
    service.stop();
    let told = threads.map(|thread| thread.join().unwrap());
    service.assert_empty();
    let stored = service.stored("t");
    for (id, told) in ["waited", "queued"].into_iter().zip(told) {
        let count = stored.iter().filter(|event| event.event_id == id).count();
        assert!(count == 1 || (!told && count == 0), "{id} is stored {count} times");
    }
}

#[test]
fn a_stop_that_races_with_publishers_ends_and_loses_nothing_that_came_before() {
    let config = config(2);
    for failures in 0..=2 {
        let config = config.clone();
        explore(move || stop_races_with_publishers(&config, failures));
    }
}

#[test]
fn no_more_is_admitted_than_there_is_room_for_and_room_is_held_until_the_commit() {
    let config = config(2);
    explore(move || {
        let service = Service::start(Arc::new(MemoryStore::default()), &config, 3);
        let (admission, last) = (Arc::clone(&service.admission), AtomicU64::new(0));
        // A store survives callbacks that panic, so they only note what is wrong.
        let early = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&early);
        let _listener = service.store.on_commit(Box::new(move |_, offset| {
            let committed = offset - last.swap(offset, Ordering::SeqCst);
            noted.fetch_or((admission.used().events as u64) < committed, Ordering::SeqCst);
        }));
        let full = Arc::new(AtomicU64::new(0));
        let publisher = |ids: &'static [&'static str]| {
            let (service, full) = (Arc::clone(&service), Arc::clone(&full));
            let body = move || {
                let events: Vec<_> = ids.iter().map(|id| ("t", *id)).collect();
                match service.publish(&events, true) {
                    Ok(mut waiting) => {
                        let (ids, reply) = waiting.remove(0);
                        service.check(&ids, &block_on(reply).unwrap().unwrap());
                    }
                    Err(refused) => {
                        assert_eq!(refused, Refused::Full);
                        full.fetch_add(1, Ordering::SeqCst);
                    }
                }
            };
            Box::new(body) as Box<dyn FnOnce() + Send>
        };
        in_threads(vec![publisher(&["1", "2"]), publisher(&["3"]), publisher(&["4", "5"])]);
        service.drain();
        assert!(!early.load(Ordering::SeqCst), "room was given back before the commit");
        assert_eq!(service.admission.refused(), full.load(Ordering::SeqCst));
    });
}

/// One request, and a stop that comes after it.
fn stop_follows_a_request(config: &Config, failures: u64, wait: bool) {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    (1..=failures).for_each(|nth| store.fail_nth(nth, Failure::Unavailable));
    let service = Service::start(store, config, 1);
    let mut waiting = service.publish(&[("t", "1")], wait).unwrap();
    service.drain();
    let told = wait.then(|| block_on(waiting.remove(0).1).expect("it came before the stop").is_ok());
    // What is waited for is tried once, what was queued until it is stored.
    assert_eq!(told, wait.then_some(failures == 0));
    assert_eq!(service.stored("t").len(), usize::from(told != Some(false)));
}

/// A stop and a request at once.
fn stop_meets_a_request(config: &Config) {
    let service = Service::start(Arc::new(MemoryStore::default()), config, 1);
    let reservation = service.admission.reserve(&[Weight { events: 1, bytes: 0 }]).unwrap().remove(0);
    let (reply, mut receiver) = oneshot::channel();
    let (batch, indices) = (Arc::new(batch(&[("t", "1")])), vec![0]);
    let job = Job { partition: Partition(0), batch, indices, bytes: 0, reservation, reply: Some(reply) };
    let publisher = {
        let service = Arc::clone(&service);
        spawn(move || service.workers.send(vec![job]))
    };
    service.stop();
    publisher.join().unwrap();
    // It is either answered or dropped by now, and nobody waits in vain.
    let told = receiver.try_recv();
    assert_ne!(told.as_ref().err(), Some(&oneshot::error::TryRecvError::Empty));
    assert_eq!(service.stored("t").len(), usize::from(matches!(told, Ok(Ok(_)))));
    service.assert_empty();
}

#[test]
fn every_schedule_of_one_request_and_a_stop_ends() {
    let config = config(2);
    explore_all(move || stop_follows_a_request(&config, 0, true));
}

/// There are too many schedules for all of them.
#[test]
fn a_request_that_is_queued_or_fails_or_meets_a_stop_ends_too() {
    for (failures, wait) in [(0, false), (1, true), (1, false)] {
        let config = config(2);
        explore(move || stop_follows_a_request(&config, failures, wait));
    }
    let config = config(2);
    explore(move || stop_meets_a_request(&config));
}
