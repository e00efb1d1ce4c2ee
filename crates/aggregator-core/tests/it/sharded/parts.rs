//! Each partition of a shard fails alone, unless all of the shard does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_core::{
    Deadline, DedupStore, DedupStoreExt as _, Outage, Partition, Query, RecordWrite, Sharded, Topic,
    TopicSelector,
};

use super::{await_stored, await_that, count, event, fails, faulty, partitions_of, stored, topics_of};

const FIRST: Partition = Partition(0);
const SECOND: Partition = Partition(1);

/// Two shards, and a topic of each partition of shard 1.
struct Parts {
    ill: Arc<FaultyStore>,
    store: Sharded,
    first: String,
    second: String,
}

impl Parts {
    fn new() -> Self {
        let (shards, store) = faulty(2);
        let [first, second] = topics_of(&store, 1);
        Self { ill: Arc::clone(&shards[1]), store, first, second }
    }

    fn fail_both(&self, failure: Option<Failure>) {
        [FIRST, SECOND].iter().for_each(|partition| self.ill.fail_partition(*partition, failure));
    }

    /// Of a reader who has no time left.
    fn read_in_vain(&self) {
        let of_first = Query::topic(Topic::new(&*self.first).unwrap());
        Deadline::after(Duration::ZERO).scope(|| self.store.read(&of_first)).unwrap_err();
    }

    /// The partitions that are out, by their numbers in the whole.
    fn out(&self) -> Vec<Partition> {
        self.store.outages().into_iter().flat_map(|outage| outage.partitions).collect()
    }
}

#[test]
fn a_partition_that_fails_takes_no_other_one_of_its_shard_with_it() {
    for failure in [Failure::Unavailable, Failure::NoSpace] {
        let parts = Parts::new();
        let Parts { ill, store, first, second } = &parts;
        ill.fail_partition(SECOND, Some(failure));
        for id in 0..20 {
            fails(store, second, id);
            stored(store, first, id);
            store.check_health().unwrap();
        }
        assert_eq!((count(store, first), count(store, second)), (20, 0));
        let [Outage { partitions, reason, .. }] = &store.outages()[..] else { panic!("one is out") };
        assert_eq!(*partitions, partitions_of(1)[1..]);
        assert!(reason.contains("shard 1 (place 1)") && reason.contains("as planned"), "{reason}");
        ill.fail_partition(SECOND, None);
        await_stored(store, second, 0);
        assert_eq!(parts.out(), []);
    }
}

#[test]
fn records_are_written_while_a_partition_beside_them_fails() {
    let (shards, store) = faulty(2);
    shards[0].fail_partition(FIRST, Some(Failure::Unavailable));
    fails(&store, &topics_of(&store, 0)[0], 1);
    let _ = store.records().unwrap().write(&[RecordWrite::create("kind", "name", "value")]).unwrap();
    assert!(store.records().unwrap().get("kind", "name").unwrap().is_some());
}

/// As of a cluster that lacks a server. It knows which partitions that server has, and refuses these alone.
#[test]
fn a_shard_of_which_a_part_is_lost_goes_on_with_the_rest() {
    let parts = Parts::new();
    let Parts { ill, store, first, second } = &parts;
    ill.lose(vec![SECOND]);
    let of_second = Query::topic(Topic::new(&**second).unwrap());
    for id in 0..5 {
        assert!(fails(store, second, id).contains("lost as planned"));
        for query in [&of_second, &of_second, &Query::of(TopicSelector::All)] {
            assert!(store.read(query).unwrap_err().is_retryable());
        }
        stored(store, first, id);
        assert_eq!(count(store, first), usize::try_from(id).unwrap() + 1);
        store.check_health().unwrap();
        assert_eq!(
            (parts.out(), store.stats().unwrap().unavailable),
            (vec![Partition(3)], vec![Partition(3)])
        );
    }
    // It says itself when they are back, and nobody else has to find out.
    ill.lose(Vec::new());
    stored(store, second, 0);
    assert_eq!(parts.out(), []);
}

#[test]
fn a_shard_whose_reads_are_slow_takes_events() {
    let parts = Parts::new();
    let Parts { ill, store, first, .. } = &parts;
    ill.set_late(true);
    parts.read_in_vain();
    store.check_health().unwrap();
    stored(store, first, 1);
    assert_eq!(parts.out(), [], "one slow answer says little of reads, too");
}

#[test]
fn a_shard_whose_appends_fail_stays_out_however_well_it_is_read() {
    let parts = Parts::new();
    let Parts { ill, store, first, second } = &parts;
    parts.fail_both(Some(Failure::Unavailable));
    let began = Instant::now();
    fails(store, first, 1);
    fails(store, second, 1);
    while ill.appends() < 7 {
        assert_eq!(parts.out(), partitions_of(1));
        store.check_health().unwrap();
        assert_eq!(count(store, first), 0, "it can be read");
        fails(store, first, 1);
        fails(store, second, 1);
    }
    // One of them was tried three times by then.
    assert!(began.elapsed() >= Duration::from_millis(250 + 500 + 1_000), "the pauses grow");
    parts.fail_both(None);
    await_stored(store, first, 1);
    assert_eq!(parts.out(), partitions_of(1)[1..], "of the other one, nobody knows");
    await_stored(store, second, 1);
    assert_eq!(parts.out(), []);
}

#[test]
fn a_shard_that_does_not_answer_is_refused_whole_after_a_check() {
    let parts = Parts::new();
    let Parts { ill, store, first, second } = &parts;
    ill.set_gone(true);
    parts.fail_both(Some(Failure::Unavailable));
    fails(store, first, 1);
    assert_eq!(parts.out(), partitions_of(1)[..1]);
    store.check_health().unwrap();
    assert_eq!(parts.out(), partitions_of(1));
    fails(store, second, 1);
    assert_eq!(ill.appends(), 1, "it is not asked");
    ill.set_gone(false);
    parts.fail_both(None);
    await_that("it is back", || store.check_health().is_ok() && !parts.out().contains(&Partition(3)));
    assert_eq!(parts.out(), [], "with all its partitions");
    [first, second].iter().for_each(|topic| stored(store, topic, 1));
}

/// As behind a network that drops what is sent. Neither alone would say so.
#[test]
fn a_shard_that_answers_a_check_too_late_and_no_append_is_refused_whole() {
    let parts = Parts::new();
    let Parts { ill, store, first, second } = &parts;
    ill.set_late(true);
    parts.fail_both(Some(Failure::Unavailable));
    fails(store, first, 1);
    store.check_health().unwrap();
    assert_eq!(parts.out(), partitions_of(1));
    fails(store, second, 1);
    assert_eq!(ill.appends(), 1, "it is not asked");
}

/// Lets appends go on that are held, also when a test fails meanwhile.
struct Held<'s>(&'s FaultyStore);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// Or each of them would hold a thread.
#[test]
fn one_partition_of_a_shard_at_a_time_tries_again() {
    let parts = Parts::new();
    let Parts { ill, store, first, second } = &parts;
    (1..=2).for_each(|nth| ill.fail_nth(nth, Failure::Unavailable));
    [first, second].iter().for_each(|topic| _ = fails(store, topic, 1));
    ill.hold();
    std::thread::scope(|scope| {
        let held = Held(ill);
        let tries = scope.spawn(|| await_stored(store, first, 1));
        await_that("it is tried", || ill.appends() == 3);
        let other = scope.spawn(|| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(300) {
                fails(store, second, 1);
            }
        });
        await_that("the pause of the other one is over", || other.is_finished() || ill.appends() > 3);
        let appends = ill.appends();
        drop(held);
        assert_eq!(appends, 3, "the other one tries as well");
        other.join().unwrap();
        tries.join().unwrap();
    });
    await_stored(store, second, 1);
    assert!(store.append_one(&event(first, 2)).is_ok());
}
