//! Retention: payloads go, identities stay.

use super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_sound, cases, event, identity, ids,
    query, read_all, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::{DedupStoreExt, Event, Order, Query, StoreError, Topic};

pub(super) const CASES: &[Case] = cases![
    a_purged_prefix_is_gone_and_the_rest_stays,
    a_purged_event_is_still_recognised,
    a_purged_payload_still_tells_a_conflict,
    purging_twice_or_nothing_is_fine,
    purging_everything_goes_on_where_it_was,
    a_cursor_before_a_purge_is_refused_once,
    a_new_reader_starts_at_what_is_left,
    many_events_are_purged_in_slices,
];

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn ten(topic: &str) -> Vec<Event> {
    (1..=10).map(|n| with_payload(topic, &n.to_string(), &n.to_string())).collect()
}

fn a_purged_prefix_is_gone_and_the_rest_stays(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &ten("t"));
    append(&*store, &ten("u"));
    assert_eq!(store.purge(&topic("t"), 4).unwrap(), 4);
    let left = read_all(&*store, query("t"));
    assert!(left.iter().map(|event| event.seq).eq(5..=10));
    assert_eq!(read_all(&*store, Query { order: Order::Descending, ..query("t") }).len(), 6);
    assert_eq!(read_all(&*store, query("u")).len(), 10);
    assert_eq!(all_topics(&*store)[0].purged_seq, 4);
    assert_eq!(store.stats().unwrap().stored, 20);
    assert_sound(&*store);
}

fn a_purged_event_is_still_recognised(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let first = append(&*store, &ten("t"))[2];
    store.purge(&topic("t"), 4).unwrap();
    let again = append_one(&*store, &with_payload("t", "3", "3"));
    assert_eq!((again.outcome, again.seq, again.processed_at), (Duplicate, first.seq, first.processed_at));
    let seen = store.lookup(&[identity("t", "3"), identity("t", "5")]).unwrap();
    assert_eq!(seen.iter().map(|seen| seen.unwrap().purged).collect::<Vec<_>>(), [true, false]);
    assert_sound(&*store);
}

fn a_purged_payload_still_tells_a_conflict(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &ten("t"));
    store.purge(&topic("t"), 4).unwrap();
    assert_eq!(append_one(&*store, &with_payload("t", "3", "4")).outcome, Conflict);
    assert_eq!(append_one(&*store, &with_payload("t", "3", " 3 ")).outcome, Duplicate);
}

fn purging_twice_or_nothing_is_fine(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(store.purge(&topic("t"), 4).unwrap(), 0, "no such topic");
    append(&*store, &ten("t"));
    assert_eq!(store.purge(&topic("t"), 0).unwrap(), 0);
    assert_eq!(store.purge(&topic("t"), 4).unwrap(), 4);
    assert_eq!(store.purge(&topic("t"), 4).unwrap(), 0);
    assert_eq!(store.purge(&topic("t"), 2).unwrap(), 0);
    assert_eq!(store.purge(&topic("t"), 6).unwrap(), 2);
    assert_sound(&*store);
}

fn purging_everything_goes_on_where_it_was(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &ten("t"));
    assert_eq!(store.purge(&topic("t"), u64::MAX).unwrap(), 10);
    assert!(read_all(&*store, query("*")).is_empty());
    let next = append_one(&*store, &event("t", "11"));
    assert_eq!((next.outcome, next.seq), (Stored, Some(11)));
    assert_eq!(read_all(&*store, query("t"))[0].offset, 11, "offsets are not used again");
    assert_sound(&*store);
}

fn a_cursor_before_a_purge_is_refused_once(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &ten("t"));
    append(&*store, &ten("u"));
    for topics in ["t", "*"] {
        let first = Query { limit: 2, ..query(topics) };
        let mut left = query(topics);
        left.after = Some(store.read(&first).unwrap().next);
        store.purge(&topic("t"), if topics == "t" { 5 } else { 8 }).unwrap();
        let Err(StoreError::Expired { oldest }) = store.read(&left) else {
            panic!("{topics}: events were skipped without a word")
        };
        left.after = Some(oldest.to_string().parse().unwrap());
        let rest = read_all(&*store, left);
        let of = |name: &str| rest.iter().filter(|event| event.topic == name).count();
        assert_eq!(of("t"), if topics == "t" { 5 } else { 2 });
        assert!(topics == "t" || of("u") >= 8, "what is stored is not skipped: {}", of("u"));
    }
    let untouched = Query { after: Some(store.read(&query("u")).unwrap().next), ..query("u") };
    store.purge(&topic("t"), 9).unwrap();
    assert!(store.read(&untouched).is_ok(), "a purge of another topic is no matter");
    let beyond = Query { limit: 1, ..query("t") };
    let beyond = Query { after: Some(store.read(&beyond).unwrap().next), ..beyond };
    store.purge(&topic("t"), 10).unwrap();
    assert!(store.read(&beyond).is_ok(), "what was purged had been read");
}

fn a_new_reader_starts_at_what_is_left(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &ten("u"));
    append(&*store, &ten("t"));
    store.purge(&topic("t"), 5).unwrap();
    let all = read_all(&*store, Query { limit: 1, ..query("*") });
    assert_eq!(all.len(), 15, "page by page, without being refused");
    assert_eq!(ids(&read_all(&*store, Query { limit: 2, ..query("t") })), ["6", "7", "8", "9", "10"]);
}

fn many_events_are_purged_in_slices(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let events: Vec<_> = (0..2_500).map(|n| event("t", &n.to_string())).collect();
    append(&*store, &events);
    assert_eq!(store.purge(&topic("t"), 2_400).unwrap(), 2_400);
    assert_eq!(read_all(&*store, query("t")).len(), 100);
    assert!(append(&*store, &events).iter().all(|receipt| receipt.outcome == Duplicate));
    assert_sound(&*store);
}
