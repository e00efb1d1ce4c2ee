//! Readers that wait for what comes.

use std::time::Duration;

use super::{Backend, Case, CaseOptions, append, cases, event, query};
use crate::store::{DedupStoreExt as _, Tail};
use crate::{DedupStore, Order, Page, Query, StoreError, StoredEvent, Topic};

pub(super) const CASES: &[Case] = cases![
    a_tail_reads_what_is_stored_and_then_what_comes,
    a_tail_that_waits_in_vain_has_come_further_all_the_same,
    a_tail_that_is_closed_goes_on_where_it_stood,
    a_tail_cannot_wait_at_the_other_end,
];

pub(super) const PURGE_CASES: &[Case] = cases![a_tail_is_told_what_was_purged_before_it_came];

/// Longer than a healthy store needs for anything here.
const LONG: Duration = Duration::from_secs(60);

fn next<S: DedupStore + ?Sized>(tail: &mut Tail<'_, S>, wait: Duration) -> Page {
    tail.next_page(wait).expect("a healthy store reads")
}

/// As many events as that, and no more than come with them.
fn take<S: DedupStore + ?Sized>(tail: &mut Tail<'_, S>, count: usize) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let page = next(tail, LONG);
        assert!(!page.events.is_empty(), "{} of {count} events have come", events.len());
        events.extend(page.events);
    }
    events
}

fn seqs_of<'e>(events: &'e [StoredEvent], topic: &str) -> Vec<u64> {
    let of_topic = |event: &&'e StoredEvent| event.topic == topic;
    events.iter().filter(of_topic).map(|event| event.seq).collect()
}

fn a_tail_reads_what_is_stored_and_then_what_comes(backend: &dyn Backend) {
    const TOPICS: [&str; 3] = ["a", "a.b", "c"];
    const EACH: u64 = 60;
    let store = backend.open(CaseOptions::default());
    let store = &*store;
    let publish = |from: u64, to: u64| {
        for n in from..to {
            append(store, &TOPICS.map(|topic| event(topic, &n.to_string())));
        }
    };
    publish(0, EACH / 3);
    std::thread::scope(|scope| {
        let wanted = [("*", &TOPICS[..]), ("a.*", &TOPICS[1..2]), ("c", &TOPICS[2..])];
        for (selector, topics) in wanted {
            scope.spawn(move || {
                let mut tail = store.tail(Query { limit: 7, ..query(selector) });
                let events = take(&mut tail, topics.len() * usize::try_from(EACH).unwrap_or(usize::MAX));
                for topic in topics {
                    let seqs: Vec<_> = (1..=EACH).collect();
                    assert_eq!(seqs_of(&events, topic), seqs, "{topic} as {selector} shows it");
                }
                assert!(next(&mut tail, Duration::ZERO).events.is_empty());
            });
        }
        publish(EACH / 3, EACH);
    });
}

fn a_tail_that_waits_in_vain_has_come_further_all_the_same(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let mut tail = store.tail(query("a"));
    let begin = next(&mut tail, Duration::ZERO);
    assert!(begin.events.is_empty() && begin.caught_up);
    for n in 0..20 {
        append(&*store, &[event("b", &n.to_string())]);
    }
    let end = next(&mut tail, Duration::from_millis(1));
    assert!(end.events.is_empty() && end.caught_up);
    assert_eq!(end.next, store.end(&query("a")).expect("a healthy store reads"));
    assert_eq!(tail.query().after.as_ref(), Some(&end.next));
}

fn a_tail_that_is_closed_goes_on_where_it_stood(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[1, 2, 3].map(|n: u64| event("a", &n.to_string())));
    let mut tail = store.tail(Query { limit: 2, ..query("a") });
    assert_eq!(seqs_of(&take(&mut tail, 2), "a"), [1, 2]);
    let query = tail.into_query();
    append(&*store, &[event("a", "4")]);
    let mut tail = store.tail(query);
    assert_eq!(seqs_of(&take(&mut tail, 2), "a"), [3, 4]);
    assert!(next(&mut tail, Duration::ZERO).events.is_empty());
}

fn a_tail_cannot_wait_at_the_other_end(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let mut tail = store.tail(Query { order: Order::Descending, ..query("*") });
    assert!(matches!(tail.next_page(Duration::ZERO), Err(StoreError::Invalid(_))));
}

fn a_tail_is_told_what_was_purged_before_it_came(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[1, 2, 3, 4].map(|n: u64| event("a", &n.to_string())));
    let mut tail = store.tail(Query { limit: 1, ..query("a") });
    assert_eq!(seqs_of(&take(&mut tail, 1), "a"), [1]);
    store.purge(&Topic::new("a").expect("the case names a good topic"), 3).expect("a healthy store purges");
    let mut oldest = None;
    // It stays where it is until it is told to go on.
    for _ in 0..2 {
        match tail.next_page(LONG) {
            Err(StoreError::Expired { oldest: cursor }) => oldest = Some(cursor),
            answer => panic!("{answer:?}"),
        }
    }
    tail.go_on_at(oldest.expect("it was told twice"));
    assert_eq!(seqs_of(&take(&mut tail, 1), "a"), [4]);
}
