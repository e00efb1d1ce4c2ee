//! What every golden store holds. It is written by the API that all formats had: the program of an older format
//! compiles this file, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aggregator_core::{
    CheckedRow, Clock, DedupStore, DedupStoreExt, Event, Import, Kept, KeptEvent, Partition, Scope,
    StoredRow, Timestamp, Topic,
};

/// Topics, and up to where they are purged.
pub(crate) const PURGED: [(&str, u64); 2] = [("orders.created", 12), ("by-source", 3)];

/// Alike to whoever folds, trims, normalises or escapes ids.
const STRANGE_IDS: [&str; 12] =
    ["\u{e4}", "a\u{308}", "A\u{308}", " a", "a ", "a", "%", "\\", "'\"", "\u{1f600}", "\u{2028}", "NULL"];

const STRANGE_PAYLOADS: [&str; 8] = [
    "null",
    "1e400",
    "-0.0",
    r#""\u0000""#,
    r#"{"a":1,"a":2}"#,
    "12345678901234567890123",
    "[[[[[[]]]]]]",
    r#""ä €😀""#,
];

/// A clock that is a second later each time.
pub(crate) fn clock() -> Clock {
    let seconds = AtomicI64::new(1_767_225_600);
    Arc::new(move || Timestamp::from_micros(seconds.fetch_add(1, Ordering::SeqCst) * 1_000_000))
}

/// The events that were published, in their order.
pub(crate) fn events() -> Vec<Event> {
    let orders = (0..40).map(|n: u64| {
        let event = order(n, &format!(r#"{{"order":{n},"total":{n}.50}}"#));
        if n.is_multiple_of(3) { event.with_sequence(n) } else { event }
    });
    let by_source = (0..10).flat_map(|n| {
        ["x", "y z"].map(|source| {
            let event = new("by-source", &n.to_string()).with_source(source).unwrap();
            event.with_scope(Scope::Source)
        })
    });
    let ids = STRANGE_IDS.into_iter().map(|id| new("strange.ids", id));
    let payloads = (0..).zip(STRANGE_PAYLOADS);
    let payloads =
        payloads.map(|(n, payload)| with_payload(new("strange.payloads", &format!("{n}")), payload));
    orders.chain(by_source).chain(ids).chain(payloads).collect()
}

/// Rows that were imported after that: events with what cannot be published, and identities alone.
pub(crate) fn rows() -> Vec<CheckedRow> {
    let identities = (0..10).map(|n| row("legacy", &format!("old-{n}"), None, Kept::Identity));
    let by_source = (0..3).map(|n| row("legacy.by-source", &n.to_string(), Some("s"), Kept::Identity));
    let events = (1..=5).map(|seq: u64| {
        let kept = KeptEvent {
            seq,
            timestamp: "2025-12-31T23:59:59+01:00".into(),
            payload: format!(r#"{{"imported":{seq}}}"#),
            sequence: Some(seq * 7),
            content_type: Some("application/vnd.test+json".into()),
            attributes: Some(r#"{"trace":"00-ab","n":null}"#.into()),
        };
        row("imported", &format!("i{seq}"), Some("elsewhere"), Kept::Event(kept))
    });
    identities.chain(by_source).chain(events).map(|row| row.check().unwrap()).collect()
}

/// An event whose identity `event` has, with another payload.
pub(crate) fn conflicting(event: &Event) -> Event {
    with_payload(event.clone(), r#"{"other":true}"#)
}

/// Fills a store of one partition that is empty and was opened with [`clock`].
pub(crate) fn fill(store: &dyn DedupStore) {
    let events = events();
    for batch in events.chunks(7) {
        append(store, batch);
    }
    append(store, &events[..5]);
    append(store, &[conflicting(&events[0]), conflicting(&events[45])]);
    for (topic, seq) in PURGED {
        store.purge(&Topic::new(topic).unwrap(), seq).unwrap();
    }
    store.import(Partition(0), Import::rows(&rows())).unwrap();
}

fn append(store: &dyn DedupStore, events: &[Event]) {
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

fn new(topic: &str, id: &str) -> Event {
    Event::new(topic, id).unwrap().with_timestamp("2026-01-01T12:00:00.5+02:00").unwrap()
}

fn order(n: u64, payload: &str) -> Event {
    let source = if n.is_multiple_of(2) { "shop-a" } else { "shop-b" };
    with_payload(new("orders.created", &format!("order-{n}")), payload).with_source(source).unwrap()
}

fn with_payload(event: Event, payload: &str) -> Event {
    event.with_payload(payload).unwrap()
}

fn row(topic: &str, event_id: &str, source: Option<&str>, kept: Kept) -> StoredRow {
    let scope = if topic.ends_with("by-source") { Scope::Source } else { Scope::Topic };
    StoredRow {
        topic: topic.into(),
        scope: Some(scope),
        event_id: event_id.into(),
        source: source.map(str::to_owned),
        // Later than all that is published here.
        processed_at: Timestamp::from_micros(1_770_000_000_000_000),
        released: false,
        kept,
    }
}
