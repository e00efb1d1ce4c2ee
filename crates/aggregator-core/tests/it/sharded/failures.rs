//! Each shard fails alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_core::{
    DedupStore, DedupStoreExt as _, Outage, Partition, Query, Sharded, StoreError, Topic, TopicQuery,
    TopicSelector,
};

use super::{
    await_stored, await_that, count, event, fails, faulty, partitions_of, stored, topic_of, topics_of,
};

/// A whole of two shards, a topic of each.
fn two() -> (Vec<Arc<FaultyStore>>, Sharded, String, String) {
    let (shards, store) = faulty(2);
    let (well, ill) = (topic_of(&store, 0), topic_of(&store, 1));
    (shards, store, well, ill)
}

#[test]
fn whatever_a_shard_fails_with_the_others_go_on_and_it_comes_back_if_it_can() {
    for failure in [Failure::Unavailable, Failure::NoSpace] {
        let (shards, store, well, ill) = two();
        stored(&store, &ill, 1);
        shards[1].fail_nth(1, failure);
        let error = fails(&store, &ill, 2);
        assert!(error.contains("shard 1 (place 1)") && error.contains("as planned"), "{error}");
        stored(&store, &well, 1);
        assert_eq!((count(&store, &well), count(&store, &ill)), (1, 1), "what it has can be read");
        store.check_health().unwrap();
        let [Outage { partitions, reason, .. }] = &store.outages()[..] else { panic!("one is out") };
        assert!(partitions.len() == 1 && reason.contains("place 1"), "{partitions:?}: {reason}");
        await_stored(&store, &ill, 2);
        assert_eq!(store.outages(), []);
        assert_eq!(count(&store, &ill), 2);
    }
}

#[test]
fn a_shard_of_which_a_part_is_out_says_which() {
    let (shards, store, ..) = two();
    shards[1].tell_outages(vec![Outage::new(vec![Partition(1)], "as planned")]);
    let [Outage { partitions, reason, .. }] = &store.outages()[..] else { panic!("a part is out") };
    let [_, last] = partitions_of(1);
    assert_eq!(*partitions, [last], "by its number in the whole");
    assert!(reason.contains("shard 1 (place 1): as planned"), "{reason}");
    assert_eq!(store.stats().unwrap().unavailable, [last]);
    store.check_health().unwrap();
}

/// The shard closes by itself, and so it stays: nobody knows what is on its disk.
#[test]
fn a_shard_that_has_stopped_stays_so_and_the_whole_does_not_stop() {
    for failure in [Failure::Corrupt, Failure::Panic, Failure::MissingReceipt] {
        let (shards, store, well, ill) = two();
        shards[1].fail_nth(1, failure);
        let error = fails(&store, &ill, 1);
        assert!(error.contains("until a restart") && error.contains("shard 1 (place 1)"), "{error}");
        let appends = shards[1].appends();
        for id in 2..100 {
            fails(&store, &ill, id);
            stored(&store, &well, id);
            store.check_health().unwrap();
        }
        assert_eq!(shards[1].appends(), appends, "it is not asked any more");
        assert_eq!(store.outages().len(), 1);
    }
}

#[test]
fn calls_fail_at_once_while_a_shard_does_not_answer() {
    let (shards, store, _, ill) = two();
    (1..=2).for_each(|nth| shards[1].fail_nth(nth, Failure::Unavailable));
    let began = Instant::now();
    fails(&store, &ill, 1);
    while began.elapsed() < Duration::from_millis(100) {
        fails(&store, &ill, 1);
    }
    assert_eq!(shards[1].appends(), 1, "its first pause is 250 ms");
    await_stored(&store, &ill, 1);
    assert_eq!(shards[1].appends(), 3, "one try failed, and one did not");
}

#[test]
fn a_page_over_a_shard_that_is_out_names_it_and_pages_of_others_come() {
    let (shards, store, well, ill) = two();
    stored(&store, &well, 1);
    stored(&store, &ill, 1);
    shards[1].set_gone(true);
    for query in [Query::of(TopicSelector::All), Query::topic(Topic::new(&*ill).unwrap())] {
        let error = store.read(&query).unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("shard 1 (place 1)"), "{error}");
    }
    assert_eq!(count(&store, &well), 1);
    let of_well = TopicQuery::of(TopicSelector::Exact(Topic::new(&*well).unwrap()));
    assert_eq!(store.topics(&of_well).unwrap().len(), 1);
    assert_eq!(store.outages(), [], "one of them alone may have found all readers busy");
    // Totals leave it out, and say so.
    let stats = store.stats().unwrap();
    assert_eq!((stats.stored, &stats.unavailable[..]), (1, &partitions_of(1)[..]));
    assert_eq!(store.outages().len(), 1);
    // A check reads from it, once its pause is over.
    shards[1].set_gone(false);
    await_that("it is back", || store.check_health().is_ok() && store.outages().is_empty());
    assert_eq!(store.read(&Query::of(TopicSelector::All)).unwrap().events.len(), 2);
    assert_eq!(store.stats().unwrap().unavailable, []);
}

#[test]
fn the_whole_is_ill_once_no_shard_takes_events() {
    for (failure, is_fatal) in [(Failure::Unavailable, false), (Failure::Corrupt, true)] {
        let (shards, store, ..) = two();
        for (at, shard) in [(1, 1), (0, 0)] {
            store.check_health().unwrap();
            [0, 1].iter().for_each(|local| shards[at].fail_partition(Partition(*local), Some(failure)));
            topics_of(&store, shard).iter().for_each(|topic| _ = fails(&store, topic, 1));
        }
        let error = store.check_health().unwrap_err();
        assert_eq!(error.is_fatal(), is_fatal, "{error}");
        assert!(["place 0", "place 1"].iter().all(|name| error.to_string().contains(name)), "{error}");
    }
}

/// As when this machine is cut off from all of them, and only one is asked for anything.
#[test]
fn while_a_shard_is_out_a_check_looks_at_the_others() {
    let (shards, store, _, ill) = two();
    store.check_health().unwrap();
    shards[0].set_gone(true);
    store.check_health().unwrap();
    shards[1].set_gone(true);
    shards[1].fail_nth(1, Failure::Unavailable);
    fails(&store, &ill, 1);
    await_that("both are out", || store.check_health().is_err_and(|error| !error.is_fatal()));
    assert_eq!(store.outages().len(), 2);
}

#[test]
fn what_a_shard_refuses_is_no_failure_of_it() {
    let (shards, store, _, ill) = two();
    shards[1].refuse(["1".to_owned()], aggregator_core::store::faulty::Naming::First);
    let error = store.append_one(&event(&ill, 1)).unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert_eq!(store.outages(), []);
    stored(&store, &ill, 2);
}
