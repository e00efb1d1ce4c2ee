#![expect(clippy::unwrap_used, reason = "this is test code")]

use std::sync::Arc;

use aggregator_core::event::RawEvent;
use aggregator_core::store::faulty::{Failure, FaultyStore, Naming};
use aggregator_core::{BatchBuilder, MemoryStore, Partition, Query, Scope, Timestamp, TopicSelector};
use bytes::Bytes;
use tokio::sync::oneshot::{self, Receiver};

use super::*;
use crate::http::request_id::RequestId;
use crate::insight::Insight;
use crate::publish::admission::{Admission, Weight};
use crate::publish::job::{AppendResult, Origin};

/// A request with events of one topic; with somebody who waits for it, or queued.
fn job(ids: &[u32], waits: bool) -> (Job, Receiver<AppendResult>) {
    let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::from_micros(0)).unwrap();
    for id in ids {
        let raw = RawEvent {
            topic: "t",
            event_id: &id.to_string(),
            timestamp: None,
            source: None,
            payload: None,
            sequence: None,
            scope: Scope::Topic,
        };
        builder.push(&raw).unwrap();
    }
    let admission = Arc::new(Admission::new(1, 1));
    let (reply, receiver) = oneshot::channel();
    let job = Job {
        partition: Partition(0),
        batch: Arc::new(builder.finish()),
        indices: (0..).take(ids.len()).collect(),
        bytes: 0,
        reservation: admission.reserve(&[Weight::default()]).unwrap().remove(0),
        reply: waits.then_some(reply),
        origin: Origin::default(),
    };
    (job, receiver)
}

/// A worker with its store, and the turn that it has.
struct Lab {
    store: FaultyStore,
    health: Health,
    counters: OutcomeCounters,
    insight: Insight,
    result: TurnResult,
}

impl Lab {
    /// With a store that refuses the events of these ids.
    fn new(refused: impl IntoIterator<Item = u32>, naming: Naming) -> Self {
        let store = FaultyStore::new(Arc::new(MemoryStore::default()));
        store.refuse(refused.into_iter().map(|id| id.to_string()), naming);
        Self {
            store,
            health: Health::default(),
            counters: OutcomeCounters::default(),
            insight: Insight::new(1),
            result: TurnResult::default(),
        }
    }

    fn group(&mut self) -> GroupCommitter<'_> {
        let Self { store, health, counters, insight, result } = self;
        GroupCommitter::new(store, health, counters, insight, result)
    }
}

fn stored(store: &dyn DedupStore) -> Vec<u32> {
    let mut query = Query { limit: Query::MAX_LIMIT, ..Query::of("t".parse::<TopicSelector>().unwrap()) };
    let mut ids = Vec::new();
    loop {
        let page = store.read(&query).unwrap();
        ids.extend(page.events.iter().map(|event| event.event_id.parse::<u32>().unwrap()));
        if page.caught_up {
            return ids;
        }
        query.after = Some(page.next);
    }
}

/// Many more faults than there would be frames on the stack of a thread.
const MANY: u32 = 3_000;

/// On a thread with little room for calls inside of calls.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap();
    thread.join().unwrap();
}

#[test]
fn each_request_of_a_group_has_its_own_fate_however_many_are_refused() {
    for naming in [Naming::First, Naming::Nobody] {
        on_a_small_stack(move || {
            let mut lab = Lab::new((0..MANY).filter(|id| id % 3 > 0), naming);
            let (jobs, replies): (Vec<_>, Vec<_>) = (0..MANY).map(|id| job(&[id], true)).unzip();
            lab.group().append(jobs);
            for (id, mut reply) in (0..MANY).zip(replies) {
                let told = reply.try_recv().unwrap();
                assert_eq!(told.is_ok(), id % 3 == 0, "{id}");
                if let Err(error) = told {
                    assert!(matches!(*error, StoreError::Invalid(_)), "{error}");
                }
            }
            assert!(stored(&lab.store).into_iter().eq((0..MANY).step_by(3)));
            // The group, at most four times a part of it, and each request by itself.
            assert!(lab.store.appends() <= u64::from(MANY) + 5, "{}", lab.store.appends());
            assert!(lab.store.events() <= 6 * MANY as usize, "{}", lab.store.events());
        });
    }
}

#[test]
fn a_queued_request_loses_what_is_refused_and_nothing_else_however_much_it_is() {
    for naming in [Naming::First, Naming::Nobody] {
        on_a_small_stack(move || {
            let mut lab = Lab::new((0..MANY).filter(|id| id % 3 > 0), naming);
            let ids: Vec<_> = (0..MANY).collect();
            lab.group().append(vec![job(&ids, false).0]);
            assert!(stored(&lab.store).into_iter().eq((0..MANY).step_by(3)));
            let totals = lab.counters.counts();
            assert_eq!((totals.stored, totals.refused, totals.lost), (1_000, 2_000, 2_000));
            assert!(lab.store.events() <= 6 * MANY as usize, "{}", lab.store.events());
        });
    }
}

#[test]
fn what_was_queued_stays_in_its_order_when_parts_of_its_group_are_refused() {
    for naming in [Naming::First, Naming::Nobody] {
        let mut lab = Lab::new((0..300).step_by(7), naming);
        let jobs = (0..100).map(|n| job(&[3 * n, 3 * n + 1, 3 * n + 2], n % 10 == 9));
        let (jobs, replies): (Vec<_>, Vec<_>) = jobs.unzip();
        lab.group().append(jobs);
        drop(replies);
        let queued: Vec<_> = stored(&lab.store).into_iter().filter(|id| id / 3 % 10 != 9).collect();
        assert!(queued.is_sorted(), "{queued:?}");
        assert_eq!(queued, (0..300).filter(|id| id / 3 % 10 != 9 && id % 7 != 0).collect::<Vec<_>>());
    }
}

#[test]
fn a_passing_failure_amid_refusals_keeps_what_was_queued_and_not_yet_stored() {
    let mut lab = Lab::new([1, 3], Naming::Nobody);
    // The whole, then each event by itself: the fourth try is that of event 2.
    lab.store.fail_nth(4, Failure::Unavailable);
    lab.group().append(vec![job(&[0, 1, 2, 3, 4], false).0]);
    let kept = std::mem::take(&mut lab.result.kept);
    assert_eq!(kept.iter().map(|job| job.indices.clone()).collect::<Vec<_>>(), [[2, 3, 4]]);
    assert!(lab.result.failed);
    lab.group().append(kept);
    assert_eq!(stored(&lab.store), [0, 2, 4]);
    assert_eq!(lab.counters.counts().refused, 2);
}

/// No store may do that.
#[test]
fn a_fault_of_an_event_that_was_not_there_ends_too() {
    let faults = [Fault { index: Some(7), error: aggregator_core::InvalidField::new("payload", "none") }];
    let mut lab = Lab::new([], Naming::First);
    let (jobs, _replies): (Vec<_>, Vec<_>) = (0..3).map(|id| job(&[id], id == 1)).unzip();
    assert_eq!(split(jobs, &faults, 1).len(), 3, "it may be anybody's");
    let (waits, mut reply) = job(&[0], true);
    lab.group().fail_jobs(vec![waits], StoreError::Invalid(faults.into()));
    let StoreError::Invalid(told) = &*reply.try_recv().unwrap().unwrap_err() else { panic!("it is") };
    assert_eq!(told[0].index, None);
    assert_eq!(lab.store.appends(), 0);
}

#[test]
fn each_request_of_a_group_is_told_of_its_own_events() {
    let mut lab = Lab::new([], Naming::First);
    let (jobs, replies): (Vec<_>, Vec<_>) =
        [&[0, 1][..], &[2], &[3, 4, 5]].into_iter().map(|ids| job(ids, true)).unzip();
    lab.group().append(jobs);
    let told: Vec<Vec<_>> = replies
        .into_iter()
        .map(|mut reply| reply.try_recv().unwrap().unwrap().iter().map(|receipt| receipt.seq).collect())
        .collect();
    assert_eq!(told, [vec![Some(1), Some(2)], vec![Some(3)], vec![Some(4), Some(5), Some(6)]]);
}

#[test]
fn the_request_that_a_fault_names_is_tried_alone() {
    let requests = [&[0, 1][..], &[2], &[3, 4, 5]];
    for (index, named) in [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2)] {
        let error = aggregator_core::InvalidField::new("payload", "none");
        let jobs = requests.map(|ids| job(ids, true).0).into();
        let pieces = split(jobs, &[Fault { index: Some(index), error }], 1);
        let events: Vec<Vec<_>> =
            pieces.iter().map(|piece| piece.jobs.iter().map(|job| job.indices.len()).collect()).collect();
        assert_eq!((events.len(), events[0].len()), (2, 2), "{index}: {events:?}");
        assert_eq!(events[1], [requests[named].len()], "{index}");
    }
}

/// Its publisher counts on the order.
#[test]
fn nothing_overtakes_what_was_kept_of_its_partition() {
    let mut lab = Lab::new([1], Naming::Nobody);
    // The whole, then each request by itself: the second try is that of the queued one.
    lab.store.fail_nth(2, Failure::Unavailable);
    let jobs = [job(&[0], false), job(&[1], true), job(&[2], true)];
    let (jobs, mut replies): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
    lab.group().append(jobs);
    let error = replies[2].try_recv().unwrap().unwrap_err();
    assert!(matches!(*error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(stored(&lab.store), [0; 0]);
    assert_eq!(lab.result.kept.len(), 1);
}

#[test]
fn a_failure_before_anything_was_refused_is_not_logged_as_a_refusal() {
    let mut lab = Lab::new([1], Naming::Nobody);
    // The whole, then each event by itself.
    lab.store.fail_nth(2, Failure::Unavailable);
    let lines = crate::log::logged(|| lab.group().append(vec![job(&[0, 1], false).0]));
    assert!(!lines.iter().any(|line| line.contains("are refused")), "{lines:?}");
}

#[test]
fn the_log_names_the_request_whose_queued_events_are_refused_or_lost() {
    let request_id = RequestId::generate();
    let queued = || {
        let (mut job, _) = job(&[0, 1], false);
        job.origin.request_id = Some(request_id.clone());
        vec![job]
    };
    let named = format!("request_id={request_id}");
    for naming in [Naming::First, Naming::Nobody] {
        let mut lab = Lab::new([1], naming);
        let lines = crate::log::logged(|| lab.group().append(queued()));
        assert!(lines.iter().any(|line| line.contains("are refused") && line.contains(&named)), "{lines:?}");
    }
    let mut lab = Lab::new([], Naming::First);
    lab.store.fail_nth(1, Failure::Corrupt);
    let lines = crate::log::logged(|| lab.group().append(queued()));
    assert!(lines.iter().any(|line| line.contains("are lost") && line.contains(&named)), "{lines:?}");
}

#[test]
fn the_message_of_a_panic_is_told_whatever_it_is_made_of() {
    let told = |panic: fn()| panic_message(&*catch_unwind(panic).unwrap_err()).to_owned();
    assert_eq!(told(|| panic!("as it is")), "as it is");
    assert_eq!(told(|| panic!("made of {}", "parts".to_owned())), "made of parts");
    assert_eq!(told(|| std::panic::panic_any(1)), "without a message");
}
