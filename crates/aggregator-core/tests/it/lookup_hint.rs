//! A batch that was looked at before its turn is told the same as one that was not.

use std::path::Path;

use aggregator_core::event::RawEvent;
use aggregator_core::store::IndexOptions;
use aggregator_core::{
    AttemptId, Batch, BatchBuilder, DedupStore, DedupStoreExt, Event, EventRef, Outcome, Partition, Receipt,
    Scope, SqliteOptions, SqliteStore, Timestamp,
};

/// With runs that are made and merged every few events.
fn open(directory: &Path) -> SqliteStore {
    let index = IndexOptions { memtable: 20, section: 10, fan_out: 2 };
    SqliteStore::open_with(directory.join("s.db"), SqliteOptions { index, ..SqliteOptions::default() })
        .unwrap()
}

fn batch(topic: &str, numbers: impl IntoIterator<Item = u32>) -> Batch {
    let mut builder = BatchBuilder::new("".into(), Timestamp::from_micros(0)).unwrap();
    for number in numbers {
        let event = RawEvent {
            topic,
            event_id: &number.to_string(),
            timestamp: None,
            source: None,
            payload: None,
            sequence: None,
            scope: Scope::Topic,
        };
        builder.push(&event).unwrap();
    }
    builder.finish()
}

fn append(store: &SqliteStore, batch: &Batch) -> Vec<Receipt> {
    let events: Vec<EventRef<'_>> = batch.iter().collect();
    store.append(Partition(0), AttemptId::new(), &events).unwrap()
}

fn assert_all(receipts: &[Receipt], outcome: Outcome) {
    assert!(receipts.iter().all(|receipt| receipt.outcome == outcome), "{receipts:?}");
}

/// What was appended, flushed and merged after the look is found all the same.
#[test]
fn a_look_ahead_that_is_out_of_date_hides_no_repeat() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, &batch("t", 0..1));
    for round in 1..20 {
        let numbers = || round * 1_000..round * 1_000 + 50;
        let mut early = batch("t", numbers());
        store.prepare(&mut early);
        // The same events overtake it, and are written as runs.
        assert_all(&append(&store, &batch("t", numbers())), Outcome::Stored);
        for others in 0..round {
            append(&store, &batch("t", (0..30).map(|n| round * 1_000 + 100 + others * 30 + n)));
        }
        let told = append(&store, &early);
        assert_all(&told, Outcome::Duplicate);
        assert_eq!(told, append(&store, &batch("t", numbers())));
    }
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
}

/// Whichever run it is in, and whatever is being merged or put together.
#[test]
fn a_look_ahead_hides_no_repeat_of_any_age() {
    for fan_out in [3, 8] {
        let directory = tempfile::tempdir().unwrap();
        let index = IndexOptions { memtable: 20, section: 10, fan_out };
        let options = SqliteOptions { index, ..SqliteOptions::default() };
        let store = SqliteStore::open_with(directory.path().join("s.db"), options).unwrap();
        let append_ahead = |numbers: &mut dyn Iterator<Item = u32>| {
            let mut batch = batch("t", numbers);
            store.prepare(&mut batch);
            append(&store, &batch)
        };
        for first in (0..3_000).step_by(30) {
            assert_all(&append_ahead(&mut (first..first + 30)), Outcome::Stored);
            let stride = first as usize / 40 + 1;
            assert_all(&append_ahead(&mut (0..first + 30).step_by(stride)), Outcome::Duplicate);
        }
        assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    }
}

/// Events of a topic that was created in between, and of one that was known, keep their order.
#[test]
fn a_topic_that_appears_in_between_is_one_topic() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut early = batch("t", 0..40);
    store.prepare(&mut early);
    append(&store, &batch("t", 100..101));
    let mut late = batch("t", 40..80);
    store.prepare(&mut late);
    let events: Vec<EventRef<'_>> = early.iter().zip(late.iter()).flat_map(|(a, b)| [a, b]).collect();
    let told = store.append(Partition(0), AttemptId::new(), &events).unwrap();
    let seqs: Vec<u64> = told.iter().map(|receipt| receipt.seq.unwrap()).collect();
    assert_eq!(seqs, (2..82).collect::<Vec<_>>());
}

/// Nobody heeds what another store noted, although it may have been the same file.
#[test]
fn the_note_of_another_store_means_nothing() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (open(one.path()), open(other.path()));
    append(&one, &batch("a", 0..200));
    append(&other, &batch("b", 0..100));
    append(&other, &batch("a", 0..100));
    let mut noted = batch("a", 0..100);
    one.prepare(&mut noted);
    assert_all(&append(&other, &noted), Outcome::Duplicate);
    let fresh = batch("a", 500..600);
    assert_all(&append(&other, &fresh), Outcome::Stored);
    assert_all(&append(&other, &noted), Outcome::Duplicate);
}

/// A repeat of what is in memory and one of what is in the file are told alike.
#[test]
fn repeats_are_told_alike_wherever_the_first_one_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.db");
    let event = |id: &str, payload| Event::new("t", id).unwrap().with_payload(payload).unwrap();
    let told = |recent_events_bytes, restart: bool| {
        let options = || SqliteOptions { recent_events_bytes, ..SqliteOptions::default() };
        let _ = std::fs::remove_file(&path);
        let mut store = SqliteStore::open_with(&path, options()).unwrap();
        for id in ["a", "b", "c"] {
            store.append_one(&event(id, "1")).unwrap();
        }
        if restart {
            drop(store);
            store = SqliteStore::open_with(&path, options()).unwrap();
        }
        let again = [("b", "1"), ("b", "2"), ("c", "1"), ("ab", "1"), ("a", "11")];
        let told = again.map(|(id, payload)| store.append_one(&event(id, payload)).unwrap());
        told.map(|receipt| (receipt.outcome, receipt.seq))
    };
    let expected = [
        (Outcome::Duplicate, Some(2)),
        (Outcome::Conflict, Some(2)),
        (Outcome::Duplicate, Some(3)),
        (Outcome::Stored, Some(4)),
        (Outcome::Conflict, Some(1)),
    ];
    assert_eq!(told(1 << 20, false), expected);
    assert_eq!(told(1 << 20, true), expected);
    assert_eq!(told(0, false), expected);
    assert_eq!(told(4, false), expected);
}
