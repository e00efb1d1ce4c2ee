//! Pages cost what they return: whatever lies between is passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{Backend, Case, CaseOptions, append, cases, event, ids, purge_if_able, query, read_all};
use crate::{DedupStore, Event, Order, Query, Timestamp};

pub(super) const CASES: &[Case] = cases![
    a_page_of_rare_topics_passes_over_all_others,
    rare_topics_are_read_as_all_are,
    a_page_begins_where_its_time_does,
];

const ORDERS: [Order; 2] = [Order::Ascending, Order::Descending];

/// More rows than a page looks at.
const MANY: u32 = 10_500;

fn numbered(topic: &str, range: std::ops::Range<u32>) -> Vec<Event> {
    range.map(|n| event(topic, &n.to_string())).collect()
}

fn a_page_of_rare_topics_passes_over_all_others(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("noise", 0..MANY));
    append(&*store, &[event("rare.a", "1"), event("rare.b", "2"), event("alone", "3")]);
    append(&*store, &numbered("noise", MANY..2 * MANY));
    append(&*store, &[event("rare.b", "4"), event("rare.a", "5")]);
    append(&*store, &numbered("noise", 2 * MANY..2 * MANY + 1_000));
    for (topics, expected) in [("rare.*", &["1", "2", "4", "5"][..]), ("alone,rare.a", &["1", "3", "5"])] {
        for order in ORDERS {
            let page = store.read(&Query { order, ..query(topics) }).expect("a healthy store reads");
            let mut found = ids(&page.events);
            found.sort_unstable();
            assert!(found == expected && page.caught_up, "{topics} {order:?}: {found:?}");
        }
    }
}

/// Topics between which there is much, of which some begin with a purge.
fn rare_topics_are_read_as_all_are(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for n in 0..4 {
        // One has many more events than the others.
        let topic = |id: u32| format!("rare.{}", if id.is_multiple_of(2) { 0 } else { id % 15 });
        let rare: Vec<_> = (0..90).map(|id| event(&topic(id), &format!("{n}-{id}"))).collect();
        // Once as one append, once as many.
        let parts = if n % 2 == 0 { 90 } else { 10 };
        rare.chunks(parts).for_each(|part| drop(append(&*store, part)));
        append(&*store, &numbered("noise", n * 3_000..(n + 1) * 3_000));
    }
    purge_if_able(&*store, "rare.3", 5);
    purge_if_able(&*store, "noise", 4_000);
    for topics in ["rare.*", "rare.0,rare.3,rare.7", "a,rare.3,z.*"] {
        for order in ORDERS {
            assert_reads_what_all_has(&*store, &Query { order, ..query(topics) });
        }
    }
}

fn assert_reads_what_all_has(store: &dyn DedupStore, of_some: &Query) {
    let everything = Query { limit: Query::MAX_LIMIT, order: of_some.order, ..query("*") };
    let mut expected = read_all(store, everything);
    expected.retain(|event| of_some.topics.matches(&event.topic));
    assert!(!expected.is_empty());
    for limit in [1, 7, 100, 1_000] {
        let found = read_all(store, Query { limit, ..of_some.clone() });
        assert_eq!(found, expected, "{of_some:?}, pages of {limit}");
    }
}

fn a_page_begins_where_its_time_does(backend: &dyn Backend) {
    let now = Arc::new(AtomicI64::new(10));
    let clock = Arc::clone(&now);
    let store = backend.open(CaseOptions {
        clock: Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst))),
        ..CaseOptions::default()
    });
    for (at, range) in [(10, 0..MANY), (20, MANY..MANY + 5), (30, MANY + 5..2 * MANY)] {
        now.store(at, Ordering::SeqCst);
        append(&*store, &numbered("t", range));
    }
    let at = |micros| Some(Timestamp::from_micros(micros));
    for topics in ["t", "*", "t,u"] {
        for order in ORDERS {
            let page = store.read(&Query { since: at(15), until: at(25), order, ..query(topics) });
            let page = page.expect("a healthy store reads");
            assert!(
                page.events.len() == 5 && page.caught_up,
                "{topics} {order:?}: {} events",
                page.events.len()
            );
            let none = store.read(&Query { since: at(40), until: at(50), order, ..query(topics) });
            let none = none.expect("a healthy store reads");
            assert!(none.events.is_empty() && none.caught_up, "{topics} {order:?}");
        }
        // Behind a cursor, too.
        let after =
            Some(store.read(&Query { since: at(15), limit: 3, ..query(topics) }).expect("it reads").next);
        let page = store.read(&Query { since: at(15), after, limit: 3, ..query(topics) }).expect("it reads");
        let ids: Vec<_> =
            ids(&page.events).iter().map(|id| id.parse::<u32>().expect("a number") - MANY).collect();
        assert_eq!(ids, [3, 4, 5], "{topics}");
    }
}
