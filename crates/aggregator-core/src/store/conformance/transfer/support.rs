//! Rows to move, how they are moved, and when two stores are the same.

use crate::event::digest;
use crate::store::Rows;
use crate::store::conformance::{
    all_topics, append, assert_sound, event, identity, purge_if_able, query, read_all, totals, with_payload,
};
use crate::{
    DedupStore, DedupStoreExt, Event, Identity, Import, Imported, Kept, KeptEvent, MemoryStore, Partition,
    Partitions, Scope, Source, StoreError, StoredEvent, StoredRow, Times, Timestamp, TopicInfo,
};

/// A store with some of everything.
pub(super) fn fill(store: &dyn DedupStore) {
    for round in 0..4 {
        let mut batch: Vec<Event> = Vec::new();
        for n in 0..12 {
            let id = format!("{}-{round}-{n}", ["ä/ß", "😀", "o'\"\\"][n % 3]);
            let topic = ["orders.eu", "orders.us", "purged", "by-source", "all.gone"][n % 5];
            let scope = if topic == "by-source" { Scope::Source } else { Scope::Topic };
            let event = with_payload(topic, &id, &format!(r#"{{"n":{n}.50,"s":"\ud83d\ude00 ä"}}"#));
            let event = event.with_source(["a b", "ü"][round % 2]).unwrap().with_scope(scope);
            batch.push(if n % 2 == 0 { event.with_sequence(n as u64) } else { event });
        }
        let source =
            |source| event("by-source", "same").with_source(source).unwrap().with_scope(Scope::Source);
        batch.extend([source("x"), source("y"), with_payload("orders.eu", "again", "1")]);
        append(store, &batch);
    }
    append(store, &[with_payload("orders.eu", "again", "2"), with_payload("orders.us", "null", "null")]);
    purge_if_able(store, "purged", 3);
    purge_if_able(store, "by-source", 2);
    purge_if_able(store, "all.gone", u64::MAX);
    // What no publisher can say yet, but a store can keep.
    let cloud_event = StoredRow {
        kept: Kept::Event(KeptEvent {
            content_type: Some("application/cloudevents+json".into()),
            attributes: Some(r#"{"subject":"s","time":null}"#.into()),
            sequence: Some(7),
            ..event_of("cloud", "c-1", 1, "[1]").1
        }),
        scope: Some(Scope::Source),
        processed_at: newest(store),
        ..row("cloud", "c-1", 1)
    };
    import(store, &[cloud_event, alone("cloud", "c-0"), alone("ids", "i-1")]).unwrap();
}

pub(super) fn newest(store: &dyn DedupStore) -> Timestamp {
    // Also that of an append that stored nothing, behind which no row may go back.
    store.stats().unwrap().newest_processed_at.unwrap()
}

pub(super) fn event_of(topic: &str, event_id: &str, seq: u64, payload: &str) -> (StoredRow, KeptEvent) {
    let kept = KeptEvent {
        seq,
        timestamp: "2026-01-01T00:00:00+01:00".into(),
        payload: payload.into(),
        sequence: None,
        content_type: None,
        attributes: None,
    };
    let row = StoredRow {
        topic: topic.into(),
        scope: None,
        event_id: event_id.into(),
        source: Some("s".into()),
        processed_at: Timestamp::from_micros(1_000 + i64::try_from(seq).unwrap()),
        released: false,
        kept: Kept::Event(kept.clone()),
    };
    (row, kept)
}

/// An event with its id as its payload.
pub(super) fn row(topic: &str, event_id: &str, seq: u64) -> StoredRow {
    event_of(topic, event_id, seq, &format!("{event_id:?}")).0
}

pub(super) fn stub(topic: &str, event_id: &str, seq: u64) -> StoredRow {
    let kept = Kept::Stub { seq, digest: digest(&format!("{event_id:?}")) };
    StoredRow { kept, source: None, ..row(topic, event_id, seq) }
}

pub(in crate::store::conformance) fn alone(topic: &str, event_id: &str) -> StoredRow {
    StoredRow { kept: Kept::Identity, source: None, ..row(topic, event_id, 0) }
}

/// Everything there is, merged.
pub(in crate::store::conformance) fn rows(store: &dyn DedupStore) -> Vec<StoredRow> {
    let mut rows = Rows::of(store);
    std::iter::from_fn(|| rows.next().unwrap()).collect()
}

/// Topic by topic; between topics there is no order. Marks of no event are left out: a copy does not have them.
pub(super) fn by_topic(store: &dyn DedupStore) -> Vec<StoredRow> {
    let mut rows = rows(store);
    rows.retain(|row| row.seq() != Some(0));
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    rows
}

/// Imports into whatever partitions the rows belong to; one commit each.
pub(super) fn import_as(
    store: &dyn DedupStore,
    rows: &[StoredRow],
    times: Times,
) -> Result<Imported, StoreError> {
    let mut imported = Imported::default();
    for partition in store.partitions().iter() {
        let here = rows.iter().filter(|row| store.partitions().of(&row.topic) == partition);
        let here: Vec<_> = here.map(|row| row.clone().check().unwrap()).collect();
        imported += store.import(partition, Import { times, ..Import::rows(&here) })?;
    }
    Ok(imported)
}

pub(in crate::store::conformance) fn import(
    store: &dyn DedupStore,
    rows: &[StoredRow],
) -> Result<Imported, StoreError> {
    import_as(store, rows, Times::Keep)
}

pub(super) fn import_totals(store: &dyn DedupStore, totals: &[TopicInfo]) -> Result<(), StoreError> {
    for info in totals {
        let partition = store.partitions().of(info.topic.as_str());
        store.import(partition, Import::topics(std::slice::from_ref(info)))?;
    }
    Ok(())
}

/// All of a store into another one, a few rows at a time.
pub(super) fn copy(from: &dyn DedupStore, to: &dyn DedupStore, batch: usize) -> Imported {
    let mut imported = Imported::default();
    for rows in rows(from).chunks(batch) {
        imported += import(to, rows).unwrap();
    }
    import_totals(to, &all_topics(from)).unwrap();
    imported
}

pub(super) fn assert_same(a: &dyn DedupStore, b: &dyn DedupStore) {
    assert_eq!(by_topic(a), by_topic(b));
    assert_eq!((all_topics(a), totals(a)), (all_topics(b), totals(b)));
    let pages = |store| {
        let clean = |event| StoredEvent { offset: 0, partition: Partition(0), ..event };
        let mut events: Vec<_> = read_all(store, query("*")).into_iter().map(clean).collect();
        events.sort_by(|a, b| a.topic.cmp(&b.topic));
        events
    };
    assert_eq!(pages(a), pages(b));
    let ids: Vec<_> =
        rows(a).iter().filter(|row| !row.released && !row.is_forgotten()).map(identity_of).collect();
    let seen = a.lookup(&ids).unwrap();
    assert!(seen.iter().all(Option::is_some));
    assert_eq!(seen, b.lookup(&ids).unwrap());
    assert_sound(a);
    assert_sound(b);
}

pub(super) fn identity_of(row: &StoredRow) -> Identity {
    let source = row.source.clone().map(|source| Source::new(source).unwrap());
    Identity { source, ..identity(&row.topic, &row.event_id) }
}

pub(super) fn memory(partitions: u16) -> MemoryStore {
    MemoryStore::new(Partitions::new(partitions).unwrap())
}
