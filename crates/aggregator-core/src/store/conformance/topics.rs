//! Listing topics: by pattern, in pages, with the times of their events.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{Backend, Case, CaseOptions, all_topics, append, append_one, cases, event, identity, transfer};
use crate::{DedupStore, DedupStoreExt as _, Timestamp, Topic, TopicInfo, TopicQuery, Topics};

pub(super) const CASES: &[Case] = cases![
    topics_are_listed_in_pages,
    topics_are_listed_by_patterns_in_pages_of_any_size,
    a_page_of_topics_is_the_same_whether_or_not_its_last_name_exists,
    the_times_of_a_topic_are_those_of_its_oldest_and_its_newest_event,
];

pub(super) const PURGE_CASES: &[Case] = cases![a_purge_changes_the_first_time_and_the_count];

pub(super) const TRANSFER_CASES: &[Case] = cases![identities_alone_are_no_events_of_a_topic];

/// Neighbours that sort around the dot, in their order.
const NAMES: [&str; 9] = ["a", "a-b", "a.b", "a.b.c", "a.b.d", "a/b", "a0", "ab.c", "b"];

fn topics(text: &str) -> Topics {
    text.parse().unwrap()
}

/// Asks for page after page.
fn names(store: &dyn DedupStore, mut query: TopicQuery) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let page = store.topics(&query).unwrap();
        assert!(page.len() <= query.limit);
        // A listing that does not get on must not go on for ever.
        assert!(
            query.after.is_none()
                || page.first().is_none_or(|first| Some(&first.topic) > query.after.as_ref())
        );
        let Some(last) = page.last() else { return names };
        query.after = Some(last.topic.clone());
        names.extend(page.into_iter().map(|info| info.topic.to_string()));
    }
}

fn topics_are_listed_in_pages(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert!(all_topics(&*store).is_empty());
    let mut written: Vec<_> = (0..25).map(|n| format!("t.{}", n * 7 % 25)).collect();
    append(&*store, &written.iter().map(|name| event(name, "1")).collect::<Vec<_>>());
    written.sort();
    assert_eq!(names(&*store, TopicQuery { limit: 10, ..TopicQuery::default() }), written);
    assert!(store.topics(&TopicQuery { limit: 0, ..TopicQuery::default() }).unwrap().is_empty());
}

fn topics_are_listed_by_patterns_in_pages_of_any_size(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &NAMES.map(|name| event(name, "1")));
    for (selectors, expected) in [
        ("*", &NAMES[..]),
        ("a", &["a"]),
        ("a.*", &["a.b", "a.b.c", "a.b.d"]),
        ("a.b.*", &["a.b.c", "a.b.d"]),
        ("b,a.b.*,a.b.c,a", &["a", "a.b.c", "a.b.d", "b"]),
        ("ab.*,a.*", &["a.b", "a.b.c", "a.b.d", "ab.c"]),
        ("nobody,b.*,a0", &["a0"]),
        ("nobody", &[]),
    ] {
        for limit in 1..=NAMES.len() {
            for times in [false, true] {
                let query = TopicQuery { limit, times, ..TopicQuery::of(topics(selectors)) };
                assert_eq!(names(&*store, query), expected, "{selectors}, {limit} at a time");
            }
        }
    }
}

fn a_page_of_topics_is_the_same_whether_or_not_its_last_name_exists(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &NAMES.map(|name| event(name, "1")));
    let behind = |after: &str, selectors: &str| {
        let after = Some(Topic::new(after).unwrap());
        names(&*store, TopicQuery { after, ..TopicQuery::of(topics(selectors)) })
    };
    assert_eq!(behind("a.b.ccc", "*"), ["a.b.d", "a/b", "a0", "ab.c", "b"]);
    assert_eq!(behind("a.b.c", "a.*"), ["a.b.d"]);
    assert_eq!(behind("Z", "a.b.*,b"), ["a.b.c", "a.b.d", "b"]);
    assert_eq!(behind("a.b", "a.*,a0,b"), ["a.b.c", "a.b.d", "a0", "b"]);
    assert_eq!(behind("b", "*"), [""; 0]);
}

/// A store, and its clock.
fn clocked(backend: &dyn Backend) -> (Arc<dyn DedupStore>, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&now);
    let clock = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)));
    (backend.open(CaseOptions { clock, ..CaseOptions::default() }), now)
}

/// The first and the last time, in microseconds.
fn times(info: &TopicInfo) -> (Option<i64>, Option<i64>) {
    (info.first_processed_at.map(Timestamp::as_micros), info.last_processed_at.map(Timestamp::as_micros))
}

fn the_times_of_a_topic_are_those_of_its_oldest_and_its_newest_event(backend: &dyn Backend) {
    let (store, now) = clocked(backend);
    for (at, topic, id) in [(10, "t", "1"), (20, "u", "1"), (30, "t", "2"), (40, "t", "3"), (50, "t", "2")] {
        now.store(at, Ordering::SeqCst);
        append_one(&*store, &event(topic, id));
    }
    let told: Vec<_> = all_topics(&*store).iter().map(times).collect();
    // The repeat at 50 is no event.
    assert_eq!(told, [(Some(10), Some(40)), (Some(20), Some(20))]);
    let without = store.topics(&TopicQuery::default()).unwrap();
    assert_eq!(without.iter().map(times).collect::<Vec<_>>(), [(None, None); 2], "nobody asked for them");
}

fn a_purge_changes_the_first_time_and_the_count(backend: &dyn Backend) {
    let (store, now) = clocked(backend);
    for (at, id) in [(10, "1"), (20, "2"), (30, "3")] {
        now.store(at, Ordering::SeqCst);
        append(&*store, &[event("t", id), event("u", id)]);
    }
    let told = || {
        let t = all_topics(&*store).remove(0);
        (t.count(), times(&t))
    };
    assert_eq!(told(), (3, (Some(10), Some(30))));
    let topic = Topic::new("t").unwrap();
    store.purge(&topic, 2).unwrap();
    assert_eq!(told(), (1, (Some(30), Some(30))));
    store.purge(&topic, 3).unwrap();
    assert_eq!(told(), (0, (None, Some(30))));
    now.store(40, Ordering::SeqCst);
    append_one(&*store, &event("t", "4"));
    assert_eq!(told(), (1, (Some(40), Some(40))));
}

fn identities_alone_are_no_events_of_a_topic(backend: &dyn Backend) {
    let (store, now) = clocked(backend);
    let alone = |range: std::ops::Range<u32>| {
        let rows: Vec<_> = range.map(|n| transfer::alone("t", &format!("alone-{n}"))).collect();
        transfer::import(&*store, &rows).unwrap();
    };
    alone(0..20);
    let t = all_topics(&*store).remove(0);
    assert_eq!((t.last_seq, t.count(), times(&t)), (0, 0, (None, None)));
    now.store(5_000, Ordering::SeqCst);
    append_one(&*store, &event("t", "1"));
    alone(20..40);
    let t = all_topics(&*store).remove(0);
    assert_eq!((t.last_seq, t.count(), times(&t)), (1, 1, (Some(5_000), Some(5_000))));
    assert!(store.lookup(&[identity("t", "alone-39")]).unwrap()[0].is_some());
}
