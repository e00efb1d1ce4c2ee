//! What an import refuses, and that nothing of it is stored then.

use super::{
    Backend, Case, CaseOptions, all_topics, alone, append, append_one, assert_same, assert_sound, cases,
    copy, event, event_of, identity, import, import_as, import_totals, memory, outcomes, query, read_all,
    row, rows, stub, totals,
};
use crate::Outcome::Stored;
use crate::store::conformance::{ids, topics_of_one_shard};
use crate::{
    DedupStore, DedupStoreExt, Import, Imported, Kept, Partition, Scope, StoreError, StoredRow, Times,
    Timestamp, Topic,
};

pub(in super::super) const CASES: &[Case] = cases![
    a_refused_row_stores_nothing_of_its_import,
    rows_that_do_not_follow_are_refused,
    a_store_with_events_of_its_own_in_the_topic_is_refused,
    a_row_may_be_purged_on_either_side,
    times_are_kept_or_raised,
    a_time_is_raised_to_that_of_the_newest_row_and_no_further,
    totals_without_their_rows_are_refused,
    too_many_topics_are_refused_in_an_import,
];

/// The field that an import was refused for, and why.
fn refused(answer: Result<Imported, StoreError>) -> (Option<usize>, &'static str, String) {
    let Err(StoreError::Invalid(faults)) = answer else { panic!("it was not refused: {answer:?}") };
    (faults[0].index, faults[0].error.field, faults[0].error.reason.clone())
}

fn newest(store: &dyn DedupStore) -> Option<Timestamp> {
    store.stats().unwrap().newest_processed_at
}

fn a_refused_row_stores_nothing_of_its_import(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    import(&*store, &[row("t", "1", 1)]).unwrap();
    let before = (all_topics(&*store), totals(&*store), newest(&*store), rows(&*store));
    let many: Vec<_> = (2..100).map(|seq| row("t", &seq.to_string(), seq)).collect();
    let bad = [&many[..], &[alone("t", "x"), row("t", "gap", 200)]].concat();
    let (index, field, reason) = refused(import(&*store, &bad));
    assert_eq!((index, field), (Some(99), "seq"));
    for part in ["topic t", "seq 200", "\"gap\"", "next seq here is 100"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!((all_topics(&*store), totals(&*store), newest(&*store), rows(&*store)), before);
    assert_eq!(store.lookup(&[identity("t", "2"), identity("t", "x")]).unwrap(), [None, None]);
    assert_sound(&*store);
    // Nothing of it stays in memory either.
    assert_eq!(append_one(&*store, &event("t", "own")).seq, Some(2));
    assert_eq!(outcomes(&append(&*store, &[event("t", "2"), event("t", "3")])), [Stored; 2]);
    assert_sound(&*store);
    // Nor the next import.
    let store = backend.open(CaseOptions::default());
    import(&*store, &[row("t", "1", 1)]).unwrap();
    refused(import(&*store, &bad));
    assert_eq!(import(&*store, &many).unwrap(), Imported { added: 98, present: 0 });
    assert_eq!(append_one(&*store, &event("t", "own")).seq, Some(100));
    assert_sound(&*store);
}

fn rows_that_do_not_follow_are_refused(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    import(&*store, &[row("t", "1", 1), row("t", "2", 2), alone("t", "alone")]).unwrap();
    let before = rows(&*store);
    let source = StoredRow { scope: Some(Scope::Source), ..row("t", "3", 3) };
    let other_time = StoredRow { processed_at: Timestamp::from_micros(9_999), ..row("t", "2", 2) };
    for (bad, field) in [
        (row("t", "4", 4), "seq"),
        (row("t", "0", 0), "seq"),
        (row("new", "2", 2), "seq"),
        (row("t", "foreign", 2), "seq"),
        (row("t", "1", 3), "event_id"),
        (row("t", "alone", 3), "event_id"),
        (event_of("t", "2", 2, "\"other\"").0, "payload"),
        (StoredRow { source: Some("other".into()), ..row("t", "2", 2) }, "payload"),
        (StoredRow { kept: Kept::Stub { seq: 2, digest: [7; 16] }, ..row("t", "2", 2) }, "payload"),
        (stub("t", "3", 3), "digest"),
        (source, "scope"),
        (other_time, "processed_at"),
    ] {
        assert_eq!(refused(import(&*store, std::slice::from_ref(&bad))).1, field, "{bad:?}");
        assert_eq!(rows(&*store), before, "{bad:?}");
    }
    import(&*store, &[row("t", "3", 3)]).unwrap();
    assert_sound(&*store);
}

fn a_store_with_events_of_its_own_in_the_topic_is_refused(backend: &dyn Backend) {
    let origin = memory(1);
    append(&origin, &[event("t", "1"), event("t", "2"), event("u", "1")]);
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &event("t", "own"));
    let (_, field, reason) = refused(import_as(&*store, &rows(&origin), Times::Raise));
    assert!(field == "seq" && reason.contains("events of its own"), "{field}: {reason}");
    // Between the runs of an import, too.
    let store = backend.open(CaseOptions::default());
    import(&*store, &rows(&origin)[..1]).unwrap();
    append_one(&*store, &event("t", "own"));
    assert!(import_as(&*store, &rows(&origin), Times::Raise).is_err());
    assert_sound(&*store);
}

fn a_row_may_be_purged_on_either_side(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    if store.maintain().is_none() {
        return;
    }
    import(&*store, &[row("t", "1", 1), row("t", "2", 2)]).unwrap();
    // The origin has purged one event since. This store keeps its payload.
    let present = import(&*store, &[stub("t", "1", 1), row("t", "2", 2), row("t", "3", 3)]).unwrap();
    assert_eq!(present, Imported { added: 1, present: 2 });
    assert_eq!(read_all(&*store, query("t")).len(), 3);
    // This store purged two since: they do not come back.
    store.purge(&Topic::new("t").unwrap(), 2).unwrap();
    assert_eq!(import(&*store, &[row("t", "1", 1), row("t", "2", 2)]).unwrap().present, 2);
    assert_eq!(ids(&read_all(&*store, query("t"))), ["3"]);
    assert_sound(&*store);
}

fn times_are_kept_or_raised(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let own = append_one(&*store, &event("own", "1"));
    // The topics of one partition are not those of another.
    let topic = (0..)
        .map(|n| format!("t{n}"))
        .find(|topic| store.partitions().of(topic) == store.partitions().of("own"));
    let old = [row(&topic.clone().unwrap(), "1", 1), row(&topic.unwrap(), "2", 2)];
    let (_, field, reason) = refused(import(&*store, &old));
    assert!(field == "processed_at" && reason.contains("--raise-times"), "{field}: {reason}");
    assert_eq!(import_as(&*store, &old, Times::Raise).unwrap().added, 2);
    assert!(rows(&*store).iter().all(|row| row.processed_at == own.processed_at));
    assert_eq!(import_as(&*store, &old, Times::Raise).unwrap().present, 2);
    assert_eq!(refused(import(&*store, &old)).1, "processed_at");
    // An identity alone may be of any time, and moves none.
    assert_eq!(import(&*store, &[alone("own", "2")]).unwrap().added, 1);
    let future = StoredRow { processed_at: Timestamp::from_micros(i64::MAX), ..alone("own", "3") };
    import(&*store, &[future]).unwrap();
    assert!(append_one(&*store, &event("own", "4")).processed_at < Timestamp::from_micros(i64::MAX));
    assert_sound(&*store);
}

fn a_time_is_raised_to_that_of_the_newest_row_and_no_further(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let at = |seq: u64, micros| StoredRow {
        processed_at: Timestamp::from_micros(micros),
        ..row("t", &seq.to_string(), seq)
    };
    let origin = [at(1, 10), at(2, 5), at(3, 20)];
    assert_eq!(import_as(&*store, &origin, Times::Raise).unwrap().added, 3);
    let stored = [at(1, 10), at(2, 10), at(3, 20)];
    let times = |rows: &[StoredRow]| rows.iter().map(|row| row.processed_at.as_micros()).collect::<Vec<_>>();
    assert_eq!(times(&rows(&*store)), times(&stored));
    // The same import again, and a copy of what it made.
    for again in [&origin, &stored] {
        assert_eq!(import_as(&*store, again, Times::Raise).unwrap().present, 3);
    }
    assert_eq!(import(&*store, &stored).unwrap().present, 3);
    // No import of these rows would have stored the rows that are there: an import never lowers a time, and it raises
    // times only with `Times::Raise`.
    for (row, raise_helps) in [(at(1, 11), false), (at(2, 11), false), (at(3, 21), false), (at(2, 9), true)] {
        let row = std::slice::from_ref(&row);
        assert_eq!(refused(import(&*store, row)).1, "processed_at");
        match import_as(&*store, row, Times::Raise) {
            Ok(imported) => assert!(raise_helps && imported.present == 1, "{row:?}"),
            refusal => assert!(!raise_helps && refused(refusal).1 == "processed_at", "{row:?}"),
        }
    }
    assert_eq!(times(&rows(&*store)), times(&stored));
    assert_sound(&*store);
}

fn totals_without_their_rows_are_refused(backend: &dyn Backend) {
    let origin = memory(1);
    append(&origin, &[event("t", "1"), event("t", "2"), event("t", "2")]);
    let store = backend.open(CaseOptions::default());
    assert!(import_totals(&*store, &all_topics(&origin)).is_err());
    import(&*store, &rows(&origin)[..1]).unwrap();
    let Err(StoreError::Invalid(faults)) = import_totals(&*store, &all_topics(&origin)) else { panic!() };
    assert_eq!((faults[0].index, faults[0].error.field), (Some(0), "last_seq"));
    assert_eq!(totals(&*store).duplicates, 0);
    copy(&origin, &*store, 1);
    assert_same(&origin, &*store);
}

fn too_many_topics_are_refused_in_an_import(backend: &dyn Backend) {
    let store = backend.open(CaseOptions { max_topics: 1, ..CaseOptions::default() });
    let topics: Vec<_> = topics_of_one_shard(&*store).take(2).collect();
    import(&*store, &[alone(&topics[0], "1")]).unwrap();
    let (index, field, _) = refused(import(&*store, &[alone(&topics[1], "1")]));
    assert_eq!((index, field), (Some(0), "topic"));
    let foreign = [row(&topics[0], "2", 1).check().unwrap()];
    let partition = Partition((store.partitions().of(&topics[0]).0 + 1) % 4);
    assert!(store.import(partition, Import::rows(&foreign)).is_err(), "it belongs to another partition");
    assert_eq!(rows(&*store).len(), 1);
}
