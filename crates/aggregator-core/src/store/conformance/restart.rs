//! What a durable store still knows after it was closed and opened again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_sound, cases, event, outcomes,
    purge_if_able, query, read_all, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::{Query, StoreStats, Timestamp};

pub(super) const CASES: &[Case] = cases![
    repeats_are_recognised_after_a_restart,
    counters_and_topics_survive_a_restart,
    cursors_survive_a_restart,
    processed_at_does_not_go_back_over_a_restart,
    offsets_are_not_used_again_after_a_restart,
];

fn repeats_are_recognised_after_a_restart(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let batch: Vec<_> = (0..300).map(|n| with_payload(["a", "b"][n % 2], &n.to_string(), "1")).collect();
    let first = append(&*store, &batch);
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    let again = append(&*store, &batch);
    assert_eq!(outcomes(&again), [Duplicate; 300]);
    assert!(again.iter().zip(&first).all(|(a, b)| (a.seq, a.processed_at) == (b.seq, b.processed_at)));
    assert_eq!(append_one(&*store, &with_payload("a", "0", "2")).outcome, Conflict);
    let next = append_one(&*store, &event("a", "new"));
    assert_eq!((next.outcome, next.seq), (Stored, Some(151)));
    assert_sound(&*store);
}

fn counters_and_topics_survive_a_restart(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[event("a", "1"), event("a", "1"), with_payload("a", "1", "2"), event("b", "1")]);
    let (id, topics) = (store.info().id, all_topics(&*store));
    let stats = StoreStats { bytes: 0, ..store.stats().unwrap() };
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    assert_eq!(StoreStats { bytes: 0, ..store.stats().unwrap() }, stats);
    assert_eq!((store.info().id, all_topics(&*store)), (id, topics));
}

fn cursors_survive_a_restart(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &(0..10).map(|n| event("t", &n.to_string())).collect::<Vec<_>>());
    let first = Query { limit: 4, ..query("t") };
    let after = Some(store.read(&first).unwrap().next);
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    let rest = read_all(&*store, Query { after, ..first });
    assert!(rest.iter().map(|event| event.seq).eq(5..=10));
}

fn processed_at_does_not_go_back_over_a_restart(backend: &dyn Backend) {
    let now = Arc::new(AtomicI64::new(1_000));
    let clock = Arc::clone(&now);
    let options = CaseOptions {
        clock: Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst))),
        ..CaseOptions::default()
    };
    let store = backend.open(options.clone());
    append_one(&*store, &event("t", "1"));
    now.store(10, Ordering::SeqCst);
    let Some(store) = backend.reopen(store, options) else { return };
    assert_eq!(append_one(&*store, &event("t", "2")).processed_at.as_micros(), 1_000);
}

fn offsets_are_not_used_again_after_a_restart(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[event("t", "1"), event("t", "2")]);
    purge_if_able(&*store, "t", 2);
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    append_one(&*store, &event("t", "3"));
    assert_eq!(read_all(&*store, query("t")).last().unwrap().offset, 3);
    assert_sound(&*store);
}
