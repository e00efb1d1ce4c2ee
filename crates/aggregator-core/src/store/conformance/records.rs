//! Records: compare and set, versions that never come again, lists, bounds.

pub(super) mod lists;
pub(super) mod model;
pub(super) mod races;
pub(super) mod versions;

use super::{Backend, Case, CaseOptions, all_topics, append_one, assert_sound, cases, event, totals};
use crate::store::records::{
    MAX_RECORD_KIND_BYTES, MAX_RECORD_NAME_BYTES, MAX_RECORD_VALUE_BYTES, MAX_RECORDS_PER_CALL,
    MAX_VALUE_BYTES_PER_CALL, Record, RecordOutcome, RecordWrite, Records, StaleRecord,
};
use crate::{Deadline, DedupStore, StoreError, Timestamp};

pub(super) const CASES: &[Case] = cases![
    a_record_is_created_read_changed_and_deleted,
    values_are_any_bytes_and_names_any_text,
    records_of_two_kinds_have_nothing_to_do_with_each_other,
    what_is_out_of_bounds_is_refused_and_changes_nothing,
    what_is_just_within_bounds_is_taken,
    records_are_no_events,
    reads_of_records_keep_the_deadline_of_their_caller_and_writes_have_none,
    the_clock_of_the_store_is_told,
];

const KIND: &str = "lease";

fn records(store: &dyn DedupStore) -> &dyn Records {
    store.records().expect("the backend says that its stores have records")
}

fn write(store: &dyn DedupStore, writes: &[RecordWrite]) -> RecordOutcome {
    records(store).write(writes).expect("a healthy store writes records")
}

/// Writes, and returns the new versions. No record of the write may be stale.
fn written(store: &dyn DedupStore, writes: &[RecordWrite]) -> Vec<u64> {
    match write(store, writes) {
        RecordOutcome::Written(versions) => {
            assert_eq!(versions.len(), writes.len(), "each write has a version");
            versions
        }
        stale @ RecordOutcome::Stale(_) => panic!("{writes:?} is {stale:?}"),
    }
}

fn write_one(store: &dyn DedupStore, write: RecordWrite) -> u64 {
    written(store, &[write])[0]
}

fn create(name: &str, value: &str) -> RecordWrite {
    RecordWrite::create(KIND, name, value)
}

/// The outcome of a write if the records at these indices are stale and have these versions.
fn stale(records: &[(usize, Option<u64>)]) -> RecordOutcome {
    RecordOutcome::Stale(records.iter().map(|&(index, version)| StaleRecord { index, version }).collect())
}

fn get(store: &dyn DedupStore, name: &str) -> Option<Record> {
    records(store).get(KIND, name).expect("a healthy store reads records")
}

/// All records of a kind, page by page.
fn all(store: &dyn DedupStore, kind: &str) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map(|record| record.name.clone());
        let page = records(store).list(kind, "", after.as_deref(), 3).expect("a healthy store lists records");
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn a_record_is_created_read_changed_and_deleted(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(get(&*store, "a"), None);
    assert_eq!(all(&*store, KIND), []);
    let created = write_one(&*store, create("a", "1"));
    assert!(created >= 1);
    let record = get(&*store, "a").unwrap();
    assert_eq!(record, Record::new(KIND, "a", created, "1"));
    let changed = write_one(&*store, RecordWrite::update(&record, "two"));
    assert!(changed > created);
    let record = get(&*store, "a").unwrap();
    assert_eq!(record, Record::new(KIND, "a", changed, "two"));
    assert_eq!(all(&*store, KIND), std::slice::from_ref(&record));
    let deleted = write_one(&*store, RecordWrite::delete(&record));
    assert!(deleted > changed);
    assert_eq!(get(&*store, "a"), None);
    assert_eq!(all(&*store, KIND), []);
    assert_sound(&*store);
}

fn values_are_any_bytes_and_names_any_text(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let every_byte: Vec<u8> = (0..=255).collect();
    let names =
        ["x", " ", "%", "_", "'", "\"", "\\", "orders.*/7", "ü", "e\u{301}", "é", "\u{10ffff}", "日本"];
    for value in [Vec::new(), vec![0], every_byte] {
        for name in names {
            let was = get(&*store, name);
            let write = match &was {
                Some(record) => RecordWrite::update(record, value.clone()),
                None => RecordWrite::create(KIND, name, value.clone()),
            };
            let version = write_one(&*store, write);
            assert_eq!(get(&*store, name), Some(Record::new(KIND, name, version, value.clone())));
        }
    }
    assert_eq!(all(&*store, KIND).len(), names.len());
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    assert_eq!(all(&*store, KIND).len(), names.len());
    assert_sound(&*store);
}

fn records_of_two_kinds_have_nothing_to_do_with_each_other(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let kinds = ["a", "a-", "a-b", "a_", "ab", "b"];
    for kind in kinds {
        for name in ["a", "b", "-"] {
            write_one(&*store, RecordWrite::create(kind, name, format!("{kind} {name}")));
        }
    }
    for kind in kinds {
        let listed = all(&*store, kind);
        let names: Vec<_> = listed.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names, ["-", "a", "b"], "{kind}");
        for record in listed {
            assert_eq!(record.kind, kind);
            assert_eq!(record.value, format!("{kind} {}", record.name).into_bytes());
        }
    }
    let record = records(&*store).get("a", "b").unwrap().unwrap();
    write_one(&*store, RecordWrite::delete(&record));
    assert_eq!(records(&*store).get("a", "b").unwrap(), None);
    for kind in &kinds[1..] {
        assert!(records(&*store).get(kind, "b").unwrap().is_some(), "{kind}");
    }
    // One write of records of two kinds.
    written(&*store, &[RecordWrite::create("a", "new", "1"), RecordWrite::create("b", "new", "2")]);
    assert_sound(&*store);
}

fn is_invalid<T: std::fmt::Debug>(what: &str, answer: &Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{what}: {answer:?}");
}

fn what_is_out_of_bounds_is_refused_and_changes_nothing(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let version = write_one(&*store, create("here", "1"));
    let here = Record::new(KIND, "here", version, "1");
    let update = || RecordWrite::update(&here, "2");
    let bad_kinds = ["", "A", "a.b", "ü", &"k".repeat(MAX_RECORD_KIND_BYTES + 1)];
    let bad_names = ["", "a\nb", "a\0b", &"n".repeat(MAX_RECORD_NAME_BYTES + 1)];
    for kind in bad_kinds {
        is_invalid(kind, &records(&*store).write(&[update(), RecordWrite::create(kind, "a", "")]));
        is_invalid(kind, &records(&*store).get(kind, "a"));
        is_invalid(kind, &records(&*store).list(kind, "", None, 1));
    }
    for name in bad_names {
        is_invalid(name, &records(&*store).write(&[update(), create(name, "")]));
        is_invalid(name, &records(&*store).get(KIND, name));
    }
    let large = vec![0; MAX_RECORD_VALUE_BYTES + 1];
    let many = |count: usize, value: &[u8]| -> Vec<_> {
        (0..count).map(|n| RecordWrite::create(KIND, n.to_string(), value)).collect()
    };
    let too_many_bytes = many(MAX_VALUE_BYTES_PER_CALL / MAX_RECORD_VALUE_BYTES + 1, &large[1..]);
    let without_version = RecordWrite { value: None, ..create("there", "") };
    for (what, writes) in [
        ("no write", vec![]),
        ("too many", many(MAX_RECORDS_PER_CALL + 1, b"")),
        ("too large a value", vec![update(), RecordWrite::create(KIND, "a", large)]),
        ("too many bytes", too_many_bytes),
        ("twice", vec![create("a", "1"), update(), create("a", "2")]),
        ("a deletion without a version", vec![update(), without_version]),
    ] {
        is_invalid(what, &records(&*store).write(&writes));
    }
    for limit in [0, MAX_RECORDS_PER_CALL + 1] {
        is_invalid("limit", &records(&*store).list(KIND, "", None, limit));
    }
    assert_eq!(all(&*store, KIND), [here]);
    assert_sound(&*store);
}

fn what_is_just_within_bounds_is_taken(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let longest = ["k".repeat(MAX_RECORD_KIND_BYTES), "ü".repeat(MAX_RECORD_NAME_BYTES / 2)];
    let [kind, name] = &longest;
    let value: Vec<u8> = (0..251).cycle().take(MAX_RECORD_VALUE_BYTES).collect();
    let version = write_one(&*store, RecordWrite::create(kind, name, value.clone()));
    assert_eq!(
        records(&*store).get(kind, name).unwrap(),
        Some(Record::new(kind, name, version, value.clone()))
    );
    let many: Vec<_> = (0..MAX_RECORDS_PER_CALL).map(|n| create(&n.to_string(), "")).collect();
    written(&*store, &many);
    assert_eq!(
        records(&*store).list(KIND, "", None, MAX_RECORDS_PER_CALL).unwrap().len(),
        MAX_RECORDS_PER_CALL
    );
    let count = MAX_VALUE_BYTES_PER_CALL / MAX_RECORD_VALUE_BYTES;
    let large: Vec<_> = (0..count).map(|n| RecordWrite::create("large", n.to_string(), &*value)).collect();
    written(&*store, &large);
    let listed = records(&*store).list("large", "", None, MAX_RECORDS_PER_CALL).unwrap();
    assert_eq!(listed.len(), count);
    assert!(listed.iter().all(|record| record.value == value));
    assert_sound(&*store);
}

fn records_are_no_events(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &event("t", "1"));
    let before = (totals(&*store), all_topics(&*store));
    let version = write_one(&*store, create("a", "1"));
    assert_eq!((totals(&*store), all_topics(&*store)), before);
    append_one(&*store, &event("t", "2"));
    append_one(&*store, &event("u", "1"));
    assert_eq!(get(&*store, "a"), Some(Record::new(KIND, "a", version, "1")));
    assert_sound(&*store);
}

fn reads_of_records_keep_the_deadline_of_their_caller_and_writes_have_none(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let passed = Deadline::after(std::time::Duration::ZERO);
    let version = passed.scope(|| write_one(&*store, create("a", "1")));
    // More often than there are connections: a refused read gives its connection back.
    for _ in 0..10 {
        passed.scope(|| {
            let get = records(&*store).get(KIND, "a").map(drop);
            let list = records(&*store).list(KIND, "", None, 10).map(drop);
            for (what, read) in [("get", get), ("list", list)] {
                let error = read.expect_err(what);
                assert!(error.is_retryable() && error.to_string().contains("deadline"), "{what}: {error}");
            }
        });
    }
    assert_eq!(get(&*store, "a").unwrap().version, version);
}

fn the_clock_of_the_store_is_told(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let year_2020 = Timestamp::from_micros(1_577_836_800_000_000);
    assert!(records(&*store).now().unwrap() > year_2020);
}
