//! Retention: payloads go, identities stay.

use std::ops::RangeInclusive;

use super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_sound, cases, event, identity, ids,
    query, read_all, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::store::MAX_SEQS_PER_SUM;
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
    the_bytes_of_events_are_those_of_their_ids_sources_and_payloads,
    bytes_are_of_the_seqs_that_are_asked_for,
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

fn the_bytes_of_events_are_those_of_their_ids_sources_and_payloads(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    // Characters of several bytes count as their bytes.
    let with_source = with_payload("t", "é", "\"ü\"").with_source("sö").unwrap();
    append(&*store, &[with_payload("t", "a", "[ 1 ]"), with_source, with_payload("u", "long", "123456789")]);
    let bytes = |seqs| store.bytes(&topic("t"), seqs).unwrap();
    let default_source = store.read(&query("t")).unwrap().events[0].source.len() as u64;
    let (first, second) = (1 + default_source + 3, 2 + 3 + 4);
    assert_eq!([bytes(1..=1), bytes(2..=2), bytes(1..=2)], [first, second, first + second]);
    assert_eq!(store.bytes(&topic("nobody"), 1..=10).unwrap(), 0);
    assert_eq!(bytes(3..=10_000) + bytes(u64::MAX..=u64::MAX), 0);
    assert_eq!(bytes(RangeInclusive::new(2, 1)), 0);
    let error = store.bytes(&topic("t"), 1..=MAX_SEQS_PER_SUM + 1).unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    store.purge(&topic("t"), 1).unwrap();
    assert_eq!([bytes(1..=1), bytes(1..=2)], [0, second]);
}

/// Two topics in turns, in commits of several sizes, and a purged prefix.
fn bytes_are_of_the_seqs_that_are_asked_for(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for (round, size) in [1, 7, 1, 30, 2, 2, 19].into_iter().enumerate() {
        for (turn, name) in ["t", "u", "t"].into_iter().enumerate() {
            let id = |n: usize| format!("{round}-{turn}-{n}");
            let events: Vec<_> = (0..size).map(|n| with_payload(name, &id(n), &"7".repeat(n + 1))).collect();
            append(&*store, &events);
        }
    }
    for purged in [0, 5, 40] {
        store.purge(&topic("t"), purged).unwrap();
        let events = read_all(&*store, query("t"));
        let last = events.last().unwrap().seq;
        for (first, last) in
            [(1, last), (1, 10), (6, 6), (8, 9), (16, 80), (39, 41), (77, last), (last, last + 9)]
        {
            let expected: u64 = events
                .iter()
                .filter(|event| (first..=last).contains(&event.seq))
                .map(crate::StoredEvent::data_bytes)
                .sum();
            assert_eq!(
                store.bytes(&topic("t"), first..=last).unwrap(),
                expected,
                "{first}..={last}, {purged}"
            );
        }
    }
}
