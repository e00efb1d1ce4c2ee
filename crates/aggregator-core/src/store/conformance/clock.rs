//! Clocks that jump, and clocks at the ends of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{
    Backend, Case, CaseOptions, append_one, assert_sound, cases, event, identity, purge_if_able, query,
    read_all,
};
use crate::{Query, Timestamp};

pub(super) const CASES: &[Case] =
    cases![the_newest_processed_at_is_told, a_clock_at_either_end_of_time_is_taken_as_it_is];

/// Options with a clock, and what sets it.
pub(super) fn settable_clock() -> (CaseOptions, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&now);
    let clock = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)));
    (CaseOptions { clock, ..CaseOptions::default() }, now)
}

fn the_newest_processed_at_is_told(backend: &dyn Backend) {
    let (options, now) = settable_clock();
    let mut store = backend.open(options.clone());
    assert_eq!(store.stats().unwrap().newest_processed_at, None, "nothing is stored");
    let ahead = Timestamp::from_micros(4_000_000_000_000_000);
    // Whichever partitions the topics are in.
    for (topic, micros) in [("a", 1_000), ("b", ahead.as_micros()), ("c", 2_000), ("d", 0)] {
        now.store(micros, Ordering::SeqCst);
        append_one(&*store, &event(topic, "1"));
    }
    assert_eq!(store.stats().unwrap().newest_processed_at, Some(ahead));
    purge_if_able(&*store, "b", 1);
    assert_eq!(store.stats().unwrap().newest_processed_at, Some(ahead), "what was purged keeps its time");
    match backend.reopen(store, options) {
        Some(reopened) => store = reopened,
        None => return,
    }
    assert_eq!(store.stats().unwrap().newest_processed_at, Some(ahead));
    assert_eq!(append_one(&*store, &event("b", "2")).processed_at, ahead);
}

fn a_clock_at_either_end_of_time_is_taken_as_it_is(backend: &dyn Backend) {
    for micros in [i64::MIN, -1, i64::MAX] {
        let (options, now) = settable_clock();
        now.store(micros, Ordering::SeqCst);
        let expected = Timestamp::from_micros(micros);
        let store = backend.open(options.clone());
        assert_eq!(append_one(&*store, &event("t", "1")).processed_at, expected);
        assert_eq!(append_one(&*store, &event("t", "1")).processed_at, expected);
        let events = read_all(&*store, Query { since: Some(expected), ..query("t") });
        assert_eq!(events.iter().map(|event| event.processed_at).collect::<Vec<_>>(), [expected]);
        assert_eq!(read_all(&*store, query("*")), events);
        assert_eq!(store.lookup(&[identity("t", "1")]).unwrap()[0].unwrap().processed_at, expected);
        store.stats().unwrap();
        assert_sound(&*store);
        let Some(store) = backend.reopen(store, options) else { continue };
        assert_eq!(append_one(&*store, &event("t", "2")).processed_at, expected);
        purge_if_able(&*store, "t", 1);
        assert_sound(&*store);
    }
}
