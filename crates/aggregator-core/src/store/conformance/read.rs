//! Reading: complete, in order, resumable.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_sound, cases, event, ids,
    purge_if_able, query, read_all, with_payload,
};
use crate::{Cursor, DedupStoreExt, EventId, Order, Query, Source, StoreError, Timestamp, WrongCursor};

pub(super) const CASES: &[Case] = cases![
    an_empty_store_reads_as_empty,
    pages_join_without_gap_or_overlap,
    pages_of_many_topics_join_and_keep_each_topics_order,
    descending_is_the_reverse,
    patterns_select_what_is_below,
    filters_hold_together,
    one_event_is_found_by_its_id,
    a_cursor_at_the_end_waits_for_what_comes,
    a_descending_cursor_does_not_meet_what_comes_later,
    a_cursor_is_refused_with_another_query_or_store,
    limits_are_refused_out_of_range,
    a_page_ends_at_its_byte_bound,
    a_page_looks_at_a_bounded_number_of_rows,
    where_a_page_ends_says_nothing_of_other_topics,
    a_topic_is_known_from_its_first_event_on,
    a_page_looks_at_nothing_beyond_its_time_window,
    every_part_of_many_events_comes_back,
];

fn numbered(topic: &str, range: std::ops::Range<u32>) -> Vec<crate::Event> {
    range.map(|n| event(topic, &n.to_string())).collect()
}

fn an_empty_store_reads_as_empty(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for topics in ["*", "t", "t.*"] {
        let page = store.read(&query(topics)).unwrap();
        assert!(page.events.is_empty() && page.caught_up, "{topics}");
    }
    assert!(all_topics(&*store).is_empty());
}

fn pages_join_without_gap_or_overlap(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("noise", 0..30));
    append(&*store, &numbered("t", 0..50));
    append(&*store, &numbered("noise", 30..60));
    append(&*store, &numbered("t", 50..100));
    for limit in [1, 7, 50, 99, 100, 101, 1000] {
        for order in [Order::Ascending, Order::Descending] {
            let events = read_all(&*store, Query { limit, order, ..query("t") });
            let mut seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
            if order == Order::Descending {
                seqs.reverse();
            }
            assert!(seqs.into_iter().eq(1..=100), "limit {limit}, {order:?}");
        }
    }
}

fn pages_of_many_topics_join_and_keep_each_topics_order(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for n in 0..40 {
        append(&*store, &numbered(&format!("t.{}", n % 8), n..n + 3));
    }
    let stored = store.stats().unwrap().stored;
    for limit in [1, 3, 1000] {
        let events = read_all(&*store, Query { limit, ..query("*") });
        assert_eq!(events.len() as u64, stored);
        for topic in 0..8 {
            let name = format!("t.{topic}");
            let seqs: Vec<_> = events.iter().filter(|e| e.topic == name).map(|e| e.seq).collect();
            assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{name}: {seqs:?}");
        }
        let mut down = read_all(&*store, Query { limit, order: Order::Descending, ..query("*") });
        down.reverse();
        assert_eq!(down, events);
    }
}

fn descending_is_the_reverse(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("t", 0..5));
    let newest = Query { order: Order::Descending, limit: 2, ..query("t") };
    let page = store.read(&newest).unwrap();
    assert_eq!((ids(&page.events), page.caught_up), (vec!["4", "3"], false));
    let page = store.read(&Query { after: Some(page.next), limit: 9, ..newest }).unwrap();
    assert_eq!((ids(&page.events), page.caught_up), (vec!["2", "1", "0"], true));
}

fn patterns_select_what_is_below(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let topics = ["a", "a.b", "a.b.c", "a-b", "a/b", "ab", "b.a"];
    append(&*store, &topics.map(|topic| event(topic, topic)));
    let selected = |pattern: &str| {
        let mut topics: Vec<_> = read_all(&*store, query(pattern)).into_iter().map(|e| e.topic).collect();
        topics.sort();
        topics
    };
    assert_eq!(selected("a.*"), ["a.b", "a.b.c"]);
    assert_eq!(selected("a"), ["a"]);
    assert_eq!(selected("a.b.*"), ["a.b.c"]);
    assert_eq!(selected("*").len(), topics.len());
    assert!(selected("z.*").is_empty());
}

fn filters_hold_together(backend: &dyn Backend) {
    let now = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&now);
    let store = backend.open(CaseOptions {
        clock: Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst))),
        ..CaseOptions::default()
    });
    for n in 0..20_u32 {
        now.store(i64::from(n) * 10, Ordering::SeqCst);
        append_one(&*store, &event("t", &n.to_string()).with_source(["x", "y"][n as usize % 2]).unwrap());
    }
    let at = |n: i64| Some(Timestamp::from_micros(n * 10));
    let source = |name: &str| Some(Source::new(name).unwrap());
    let read = |query: Query| {
        let found = read_all(&*store, Query { limit: 2, ..query });
        found.into_iter().map(|event| event.event_id).collect::<Vec<_>>()
    };
    assert_eq!(
        read(Query { source: source("y"), since: at(3), until: at(9), ..query("t") }),
        ["3", "5", "7"]
    );
    assert_eq!(read(Query { source: source("x"), until: at(5), ..query("*") }), ["0", "2", "4"]);
    assert_eq!(read(Query { since: at(17), order: Order::Descending, ..query("t") }), ["19", "18", "17"]);
    assert!(read(Query { source: source("z"), ..query("t") }).is_empty());
}

fn one_event_is_found_by_its_id(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("t", 0..100));
    append(&*store, &numbered("u", 0..100));
    let by_id = |id: &str| Query { event_id: Some(EventId::new(id).unwrap()), ..query("t") };
    let found = store.read(&by_id("42")).unwrap();
    assert_eq!((found.events.len(), found.events[0].seq, found.caught_up), (1, 43, true));
    assert_eq!(found.events[0].topic, "t");
    assert!(store.read(&by_id("100")).unwrap().events.is_empty());
    let error = store.read(&Query { event_id: Some(EventId::new("1").unwrap()), ..query("*") }).unwrap_err();
    assert!(matches!(&error, StoreError::Invalid(faults) if faults[0].error.field == "event_id"), "{error}");
}

fn a_cursor_at_the_end_waits_for_what_comes(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for topics in ["t", "*"] {
        let mut from = query(topics);
        let page = store.read(&from).unwrap();
        from.after = Some(page.next);
        let before = store.stats().unwrap().stored;
        append(&*store, &numbered(&format!("noise-{topics}").replace('*', "all"), 0..3));
        append(&*store, &numbered("t", u32::try_from(before).unwrap()..u32::try_from(before).unwrap() + 5));
        let text = from.after.as_ref().map(Cursor::to_string).unwrap();
        from.after = Some(text.parse().unwrap());
        let page = store.read(&from).unwrap();
        let of_t = page.events.iter().filter(|event| event.topic == "t").count();
        assert!(of_t == 5 && page.caught_up, "{topics}: {of_t}");
        let page = store.read(&Query { after: Some(page.next), ..from }).unwrap();
        assert!(page.events.is_empty() && page.caught_up);
    }
}

fn a_descending_cursor_does_not_meet_what_comes_later(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("t", 0..10));
    let down = Query { order: Order::Descending, limit: 4, ..query("t") };
    let page = store.read(&down).unwrap();
    append(&*store, &numbered("t", 10..20));
    let rest = read_all(&*store, Query { after: Some(page.next), ..down });
    assert_eq!(ids(&rest), ["5", "4", "3", "2", "1", "0"]);
}

fn a_cursor_is_refused_with_another_query_or_store(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("t", 0..10));
    let first = Query { limit: 5, ..query("t") };
    let after = Some(store.read(&first).unwrap().next);
    for other in [
        query("u"),
        query("t.*"),
        Query { order: Order::Descending, ..first.clone() },
        Query { source: Some(Source::new("x").unwrap()), ..first.clone() },
        Query { since: Some(Timestamp::from_micros(0)), ..first.clone() },
    ] {
        let error = store.read(&Query { after: after.clone(), ..other }).unwrap_err();
        assert!(matches!(error, StoreError::WrongCursor(WrongCursor::OtherQuery)), "{error}");
    }
    assert!(
        store.read(&Query { after: after.clone(), limit: 3, ..first.clone() }).is_ok(),
        "a limit may change"
    );
    let other = backend.open(CaseOptions::default());
    let error = other.read(&Query { after, ..first }).unwrap_err();
    assert!(matches!(error, StoreError::WrongCursor(WrongCursor::OtherStore)), "{error}");
}

fn limits_are_refused_out_of_range(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for limit in [0, Query::MAX_LIMIT + 1] {
        let error = store.read(&Query { limit, ..query("t") }).unwrap_err();
        assert!(matches!(&error, StoreError::Invalid(faults) if faults[0].error.field == "limit"), "{error}");
    }
    assert!(store.read(&Query { limit: Query::MAX_LIMIT, ..query("t") }).is_ok());
}

fn a_page_ends_at_its_byte_bound(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let megabyte = format!("\"{}\"", "x".repeat(1 << 20));
    for n in 0..20 {
        append_one(&*store, &with_payload(["t", "u", "v"][n % 3], &n.to_string(), &megabyte));
    }
    let page = store.read(&query("*")).unwrap();
    assert!((1..=9).contains(&page.events.len()) && !page.caught_up, "{}", page.events.len());
    assert_eq!(read_all(&*store, query("*")).len(), 20);
}

fn a_page_looks_at_a_bounded_number_of_rows(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let rows = u32::try_from(Query::MAX_SCANNED).unwrap() + 500;
    append(&*store, &numbered("t", 0..rows));
    append_one(&*store, &event("t", "needle").with_source("needle").unwrap());
    let needle = Query { source: Some(Source::new("needle").unwrap()), ..query("t") };
    let page = store.read(&needle).unwrap();
    assert!(page.events.is_empty() && !page.caught_up, "the page ends before the needle");
    assert_eq!(ids(&read_all(&*store, needle)), ["needle"]);
}

/// A reader who may not know of the other topics could count their events, if these ended its pages.
fn where_a_page_ends_says_nothing_of_other_topics(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let limit = u32::try_from(Query::MAX_SCANNED).unwrap();
    // So many of its own between them that no store passes the others over.
    for block in 0..100 {
        let of_block = |rows: u32| block * rows..(block + 1) * rows;
        let own = numbered("own.a", of_block(limit / 400));
        let others = numbered("other", of_block(limit / 80));
        append(&*store, &[own, others].concat());
    }
    append_one(&*store, &event("own.b", "needle").with_source("needle").unwrap());
    for order in [Order::Ascending, Order::Descending] {
        let needle = Query { source: Some(Source::new("needle").unwrap()), order, ..query("own.*") };
        let page = store.read(&needle).unwrap();
        assert_eq!(ids(&page.events), ["needle"]);
        assert!(page.caught_up, "{order:?}");
    }
}

fn a_topic_is_known_from_its_first_event_on(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let knows = |topics: &str| store.knows(&topics.parse().unwrap()).unwrap();
    assert!(!knows("*") && !knows("a") && !knows("a.*"));
    append(&*store, &["a-b.c", "a.b", "a/b", "ab.c", "b.-"].map(|topic| event(topic, "1")));
    for known in ["*", "a.b", "a.*", "a-b.c", "a-b.*", "a/b", "ab.*", "b.*", "b.-"] {
        assert!(knows(known), "{known}");
    }
    for unknown in ["a", "b", "c", "A", "-", "a.b.*", "a.a", "a.c", "a/b.*", "ab", "a-b", "abc.*", "b.-.*"] {
        assert!(!knows(unknown), "{unknown}");
    }
    purge_if_able(&*store, "a.b", 1);
    assert!(knows("a.b"), "its events are gone, the topic is not");
}

/// Many events at once, because backends write similar ones together.
fn every_part_of_many_events_comes_back(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let sent: Vec<_> = (0..120_u64)
        .map(|n| {
            let event = with_payload(["t", "u"][usize::from(n > 80)], &n.to_string(), &format!("[{n}]"));
            let event = event.with_source(format!("source-{}", n % 3)).unwrap();
            let event = event.with_timestamp(format!("2026-01-01T00:{:02}:00Z", n % 60)).unwrap();
            // Each by turns, then many with a number, then many without.
            if n < 30 && n % 2 == 0 || (30..60).contains(&n) { event.with_sequence(n) } else { event }
        })
        .collect();
    append(&*store, &sent);
    let mut stored = read_all(&*store, query("t"));
    stored.extend(read_all(&*store, query("u")));
    assert_eq!(stored.len(), sent.len());
    for (stored, sent) in stored.iter().zip(&sent) {
        let sent = sent.view();
        let parts = |topic, id, timestamp, source, payload| [topic, id, timestamp, source, payload];
        assert_eq!(
            parts(&*stored.topic, &*stored.event_id, &*stored.timestamp, &*stored.source, &*stored.payload),
            parts(sent.topic(), sent.event_id(), sent.timestamp(), sent.source(), sent.payload())
        );
        assert_eq!(stored.sequence, sent.sequence(), "{}", sent.event_id());
    }
    assert_sound(&*store);
}

/// Many rows come before and after the window, and none of them can be on the page.
fn a_page_looks_at_nothing_beyond_its_time_window(backend: &dyn Backend) {
    let now = Arc::new(AtomicI64::new(10));
    let clock = Arc::clone(&now);
    let store = backend.open(CaseOptions {
        clock: Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst))),
        ..CaseOptions::default()
    });
    let many = u32::try_from(Query::MAX_SCANNED).unwrap() + 10;
    for (at, range) in [(10, 0..5), (20, 5..many), (30, many..many + 5)] {
        now.store(at, Ordering::SeqCst);
        append(&*store, &numbered("t", range));
    }
    for topics in ["t", "*"] {
        let until = Query { until: Some(Timestamp::from_micros(15)), ..query(topics) };
        let since =
            Query { since: Some(Timestamp::from_micros(25)), order: Order::Descending, ..query(topics) };
        for query in [until, since] {
            let page = store.read(&query).unwrap();
            assert!(page.events.len() == 5 && page.caught_up, "{query:?}");
        }
    }
}
