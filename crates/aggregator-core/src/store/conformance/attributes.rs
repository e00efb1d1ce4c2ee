//! Attributes of a batch: kept with its events, and no part of what decides about a repeat.

use bytes::Bytes;

use super::{
    Backend, Case, CaseOptions, assert_every_read_gives, assert_sound, cases, outcomes, query, read_all,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::event::RawEvent;
use crate::{Batch, BatchBuilder, DedupStore, DedupStoreExt as _, Outcome, Scope, StoredEvent, Timestamp};

pub(super) const CASES: &[Case] =
    cases![the_attributes_of_a_batch_come_back_with_its_events, other_attributes_make_no_other_event,];

/// Events with these ids, payloads and attributes.
fn batch(events: &[(&str, &str)], attributes: Option<&str>) -> Batch {
    let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::from_micros(0)).unwrap();
    for (event_id, payload) in events {
        let payload = Some(serde_json::from_str(payload).unwrap());
        let raw = RawEvent {
            topic: "a.t",
            event_id,
            timestamp: None,
            source: None,
            payload,
            sequence: None,
            scope: Scope::Topic,
        };
        builder.push(&raw).unwrap();
    }
    let mut batch = builder.finish();
    if let Some(attributes) = attributes {
        batch.set_attributes(attributes.to_owned()).unwrap();
    }
    batch
}

fn append(store: &dyn DedupStore, mut batch: Batch) -> Vec<Outcome> {
    store.prepare(&mut batch);
    outcomes(&store.append_all(&batch.iter().collect::<Vec<_>>()).unwrap())
}

fn attributes(events: &[StoredEvent]) -> Vec<Option<&str>> {
    events.iter().map(|event| event.attributes.as_deref()).collect()
}

fn the_attributes_of_a_batch_come_back_with_its_events(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let text = r#"{"n":-0.0,"s":"\ud83d"}"#;
    // Many of both kinds, because some stores write them in different ways.
    let ids: Vec<_> = (0..120).map(|id| id.to_string()).collect();
    for (round, part) in ids.chunks(30).enumerate() {
        let events: Vec<_> = part.iter().map(|id| (id.as_str(), "1")).collect();
        let told = append(&*store, batch(&events, (round % 2 == 0).then_some(text)));
        assert_eq!(told, vec![Stored; part.len()]);
    }
    let events = read_all(&*store, query("a.t"));
    let kept: Vec<_> = (0..120).map(|id| (id / 30 % 2 == 0).then_some(text)).collect();
    assert_eq!(attributes(&events), kept);
    assert_every_read_gives(&*store, &events[0]);
    assert_every_read_gives(&*store, &events[119]);
    assert_sound(&*store);
}

fn other_attributes_make_no_other_event(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let (first, other) = (r#"{"a":1}"#, r#"{"a":2}"#);
    assert_eq!(append(&*store, batch(&[("1", "1"), ("1", "1")], Some(first))), [Stored, Duplicate]);
    for attributes in [Some(first), Some(other), None] {
        assert_eq!(append(&*store, batch(&[("1", "1"), ("1", "2")], attributes)), [Duplicate, Conflict]);
    }
    assert_eq!(append(&*store, batch(&[("2", "1")], None)), [Stored]);
    assert_eq!(append(&*store, batch(&[("2", "1")], Some(other))), [Duplicate]);
    assert_eq!(attributes(&read_all(&*store, query("a.t"))), [Some(first), None], "the first one's stay");
    assert_sound(&*store);
}
