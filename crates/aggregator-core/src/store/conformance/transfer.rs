//! Moving a store's rows into another one: nothing is forgotten, nothing is renumbered.

pub(super) mod random;
pub(super) mod refusal;
mod support;

pub(super) use self::support::{alone, import, rows};
use self::support::{assert_same, copy, event_of, fill, import_as, import_totals, memory, row, stub};
use super::{
    Backend, Case, CaseOptions, PATIENCE, all_topics, append, append_one, assert_every_read_gives,
    assert_sound, cases, event, identity, outcomes, purge_if_able, query, read_all, totals, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::{
    DedupStore, DedupStoreExt, Imported, Kept, KeptEvent, Partition, RowLimit, Scope, StoreStats,
    StoredEvent, StoredRow, Times, Timestamp, Topic,
};

pub(super) const CASES: &[Case] = cases![
    a_store_that_moves_there_and_back_is_the_same,
    repeats_are_told_after_an_import,
    an_import_knows_its_rows_after_a_restart,
    an_import_that_is_repeated_changes_nothing,
    an_import_goes_on_where_it_was_cut_off,
    an_identity_that_was_imported_alone_is_recognised,
    identities_alone_are_between_events_and_in_no_page,
    identities_alone_are_between_many_events_of_one_time,
    rows_are_read_in_bounds,
    every_field_that_was_imported_comes_back_by_every_read,
    every_part_of_many_rows_comes_along,
    an_import_is_announced,
];

fn a_store_that_moves_there_and_back_is_the_same(backend: &dyn Backend) {
    for partitions in [1, 4] {
        let origin = memory(partitions);
        fill(&origin);
        let (there, back) = (backend.open(CaseOptions::default()), memory(4));
        let count = rows(&origin).len() as u64;
        assert_eq!(copy(&origin, &*there, 7), Imported { added: count, present: 0 });
        assert_eq!(copy(&*there, &back, 5), Imported { added: count, present: 0 });
        assert_same(&origin, &*there);
        assert_same(&origin, &back);
    }
    // And one of the backend's own.
    let (origin, there) = (backend.open(CaseOptions::default()), backend.open(CaseOptions::default()));
    fill(&*origin);
    copy(&*origin, &*there, 100);
    assert_same(&*origin, &*there);
}

fn repeats_are_told_after_an_import(backend: &dyn Backend) {
    let origin = memory(1);
    let batch: Vec<_> = (0..20).map(|n| with_payload("t", &n.to_string(), &n.to_string())).collect();
    let first = append(&origin, &batch);
    origin.purge(&Topic::new("t").unwrap(), 8).unwrap();
    let store = backend.open(CaseOptions::default());
    copy(&origin, &*store, 6);

    let again = append(&*store, &batch);
    assert_eq!(outcomes(&again), [Duplicate; 20]);
    assert!(again.iter().zip(&first).all(|(a, b)| (a.seq, a.processed_at) == (b.seq, b.processed_at)));
    let others: Vec<_> = (0..20).map(|n| with_payload("t", &n.to_string(), "\"other\"")).collect();
    assert_eq!(outcomes(&append(&*store, &others)), [Conflict; 20]);
    let next = append_one(&*store, &event("t", "new"));
    assert_eq!((next.outcome, next.seq), (Stored, Some(21)));
    let info = all_topics(&*store).remove(0);
    assert_eq!((info.purged_seq, info.duplicates, info.conflicts), (8, 40, 20));
    assert_sound(&*store);
}

fn an_import_knows_its_rows_after_a_restart(backend: &dyn Backend) {
    let origin = memory(4);
    fill(&origin);
    let store = backend.open(CaseOptions::default());
    copy(&origin, &*store, 9);
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    assert_same(&origin, &*store);
    let count = rows(&origin).len() as u64;
    assert_eq!(copy(&origin, &*store, 11), Imported { added: 0, present: count });
    assert_eq!(append_one(&*store, &event("ids", "i-1")).seq, None);
    let eu = append_one(&*store, &with_payload("orders.eu", "again", "1"));
    assert_eq!(
        (eu.outcome, eu.seq),
        (Duplicate, origin.lookup(&[identity("orders.eu", "again")]).unwrap()[0].unwrap().seq)
    );
    assert_sound(&*store);
}

fn an_import_that_is_repeated_changes_nothing(backend: &dyn Backend) {
    let origin = memory(4);
    fill(&origin);
    let store = backend.open(CaseOptions::default());
    let Imported { added, .. } = copy(&origin, &*store, 9);
    // The import does not forget repeats that came since, and counts none twice.
    append_one(&*store, &with_payload("orders.eu", "again", "1"));
    let after = (all_topics(&*store), totals(&*store), rows(&*store));
    assert_eq!(copy(&origin, &*store, 4), Imported { added: 0, present: added });
    assert_eq!((all_topics(&*store), totals(&*store), rows(&*store)), after);
    // A row that comes twice in one import is one, too.
    let twice = [row("twice", "1", 1), row("twice", "1", 1), alone("twice", "2"), alone("twice", "2")];
    assert_eq!(import_as(&*store, &twice, Times::Raise).unwrap(), Imported { added: 2, present: 2 });
    assert_sound(&*store);
}

fn an_import_goes_on_where_it_was_cut_off(backend: &dyn Backend) {
    let origin = memory(4);
    fill(&origin);
    let all = rows(&origin);
    let store = backend.open(CaseOptions::default());
    for cut in (0..=all.len()).step_by(3) {
        import(&*store, &all[..cut]).unwrap();
        assert_eq!(rows(&*store).len(), cut);
    }
    copy(&origin, &*store, 100);
    assert_same(&origin, &*store);
}

fn an_identity_that_was_imported_alone_is_recognised(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let mut in_source = alone("by-source", "1");
    (in_source.scope, in_source.source) = (Some(Scope::Source), Some("x".into()));
    assert_eq!(import(&*store, &[alone("t", "1"), in_source]).unwrap().added, 2);
    let at = alone("t", "1").processed_at;
    assert_eq!(totals(&*store), StoreStats { topics: 2, ..StoreStats::default() });
    for payload in ["1", "2"] {
        let receipt = append_one(&*store, &with_payload("t", "1", payload));
        assert_eq!((receipt.outcome, receipt.seq, receipt.processed_at), (Duplicate, None, at));
    }
    let of = |source| event("by-source", "1").with_source(source).unwrap();
    assert_eq!(outcomes(&append(&*store, &[of("x"), of("y")])), [Duplicate, Stored]);
    let seen = store.lookup(&[identity("t", "1"), identity("t", "2")]).unwrap();
    assert_eq!(seen[0].map(|seen| (seen.seq, seen.processed_at)), Some((None, at)));
    assert_eq!(seen[1], None);
    assert_eq!(append_one(&*store, &event("t", "2")).seq, Some(1));
    assert_eq!(totals(&*store).stored, 2);
    // Those that are there already are skipped, whatever they are.
    let again = [alone("t", "1"), alone("t", "2"), alone("t", "3")];
    assert_eq!(import(&*store, &again).unwrap(), Imported { added: 1, present: 2 });
    assert_sound(&*store);
}

fn identities_alone_are_between_events_and_in_no_page(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let mut rows = Vec::new();
    for seq in 1..=30 {
        rows.push(row("t", &seq.to_string(), seq));
        rows.push(alone(["t", "u"][usize::from(seq % 2 == 1)], &format!("alone-{seq}")));
    }
    import(&*store, &rows).unwrap();
    assert!(read_all(&*store, query("*")).iter().map(|event| event.seq).eq(1..=30));
    assert!(read_all(&*store, query("t")).iter().map(|event| event.seq).eq(1..=30));
    let backwards = crate::Query { order: crate::Order::Descending, limit: 7, ..query("t") };
    assert!(read_all(&*store, backwards).iter().map(|event| event.seq).eq((1..=30).rev()));
    purge_if_able(&*store, "t", 10);
    let left = if store.maintain().is_some() { 11..=30 } else { 1..=30 };
    assert!(read_all(&*store, query("t")).iter().map(|event| event.seq).eq(left));
    append_one(&*store, &event("t", "31"));
    assert_sound(&*store);
}

fn identities_alone_are_between_many_events_of_one_time(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let mut rows: Vec<_> = (1..=60).map(|seq| row("t", &seq.to_string(), seq)).collect();
    rows.iter_mut().for_each(|row| row.processed_at = Timestamp::from_micros(5));
    rows.insert(25, alone("t", "alone"));
    import(&*store, &rows).unwrap();
    assert!(read_all(&*store, query("t")).iter().map(|event| event.seq).eq(1..=60));
    assert_sound(&*store);
}

fn rows_are_read_in_bounds(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(
        &*store,
        &(0..10).map(|n| with_payload("t", &n.to_string(), "\"0123456789\"")).collect::<Vec<_>>(),
    );
    purge_if_able(&*store, "t", 2);
    let partition = store.partitions().of("t");
    let read = |after, rows, payload_bytes| {
        let rows = store.rows(partition, after, RowLimit { rows, payload_bytes }).unwrap();
        rows.into_iter().map(|(offset, _)| offset).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 4, usize::MAX), [1, 2, 3, 4]);
    assert_eq!(read(4, 100, usize::MAX), [5, 6, 7, 8, 9, 10]);
    assert_eq!(read(0, 100, 13), [1, 2, 3, 4], "the row that reaches the bound is the last one");
    assert_eq!(read(3, 100, 0), [4], "there is always one");
    assert_eq!(read(9, 0, 0), [10]);
    assert_eq!(read(10, 100, 100), [0; 0]);
    assert_eq!(read(u64::MAX, 100, 100), [0; 0]);
    let beyond = Partition(store.partitions().count());
    assert!(store.rows(beyond, 0, RowLimit::default()).is_err());
}

fn every_field_that_was_imported_comes_back_by_every_read(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let (plain, kept) = event_of("cloud.eu", "c-1", 1, r#"{"n":1.50}"#);
    let full = KeptEvent {
        sequence: Some(7),
        content_type: Some("application/cloudevents+json".into()),
        attributes: Some(r#"{"subject":"s","time":null}"#.into()),
        seq: 2,
        ..kept
    };
    let full = StoredRow { event_id: "c-2".into(), kept: Kept::Event(full), ..plain.clone() };
    import(&*store, &[plain.clone(), full.clone()]).unwrap();
    let stored = |row: &StoredRow| {
        let Kept::Event(event) = row.kept.clone() else { panic!("it is an event") };
        StoredEvent {
            topic: row.topic.clone(),
            event_id: row.event_id.clone(),
            timestamp: event.timestamp,
            source: row.source().to_owned(),
            payload: event.payload,
            sequence: event.sequence,
            content_type: event.content_type,
            attributes: event.attributes,
            seq: event.seq,
            processed_at: row.processed_at,
            partition: store.partitions().of(&row.topic),
            offset: event.seq,
        }
    };
    let expected = [stored(&plain), stored(&full)];
    expected.iter().for_each(|event| assert_every_read_gives(&*store, event));
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    expected.iter().for_each(|event| assert_every_read_gives(&*store, event));
}

/// Many rows in a row that have the same parts, because backends write similar ones together.
fn every_part_of_many_rows_comes_along(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let sent: Vec<_> = (1..=240)
        .map(|seq: u64| {
            let parts = seq / 30;
            let (row, kept) = event_of("t", &seq.to_string(), seq, "[1]");
            let kept = Kept::Event(KeptEvent {
                sequence: (parts & 1 != 0).then_some(seq),
                content_type: (parts & 2 != 0).then(|| format!("text/{seq}")),
                attributes: (parts & 4 != 0).then(|| format!(r#"{{"n":{seq}}}"#)),
                ..kept
            });
            StoredRow { kept, scope: Some(Scope::Topic), processed_at: Timestamp::from_micros(1), ..row }
        })
        .collect();
    assert_eq!(import(&*store, &sent).unwrap().added, 240);
    assert_eq!(rows(&*store), sent);
    assert_sound(&*store);
}

fn an_import_is_announced(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    if store.watch().is_none() {
        return;
    }
    let (send, announced) = std::sync::mpsc::channel();
    let _listener =
        store.on_commit(Box::new(move |partition, offset| send.send((partition, offset)).unwrap())).unwrap();
    let rows = [row("t", "1", 1), row("t", "2", 2)];
    import(&*store, &rows).unwrap();
    let first = announced.recv_timeout(PATIENCE).unwrap();
    assert_eq!(first, (store.partitions().of("t"), 2));
    import(&*store, &rows).unwrap();
    assert_eq!(announced.try_recv().ok(), None, "rows that are there already are no news");
}
