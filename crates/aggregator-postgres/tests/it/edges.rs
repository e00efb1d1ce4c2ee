//! The longest fields, the largest groups and unusual texts.

use aggregator_core::Outcome::{Duplicate, Stored};
use aggregator_core::event::{MAX_EVENT_ID_BYTES, MAX_SOURCE_BYTES, MAX_TOPIC_BYTES};
use aggregator_core::{DedupStore, DedupStoreExt, Event, EventId, Identity, Query, Scope, Source, Topic};
use aggregator_postgres::test_server::TestServer;

use crate::support::{append, assert_complete, events, open, options, stored};

/// Text of this many bytes that cannot be compressed. An index takes at most 2,704 bytes a row.
fn noise(bytes: usize, salt: u64) -> String {
    let mut state = salt;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
            [usize::try_from(state >> 58).unwrap()]
    });
    letters.take(bytes).map(char::from).collect()
}

#[test]
fn the_longest_of_everything_fits() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let topic = noise(MAX_TOPIC_BYTES, 1);
    let batch: Vec<_> = (0..20)
        .map(|n| {
            let event = Event::new(topic.clone(), noise(MAX_EVENT_ID_BYTES, n)).unwrap();
            event.with_source(noise(MAX_SOURCE_BYTES, n)).unwrap().with_scope(Scope::Source)
        })
        .collect();
    assert_eq!(stored(&append(&store, &batch)), 20);
    assert!(append(&store, &batch).iter().all(|receipt| receipt.outcome == Duplicate));
    let id = |n| Identity {
        topic: Topic::new(topic.clone()).unwrap(),
        event_id: EventId::new(noise(MAX_EVENT_ID_BYTES, n)).unwrap(),
        source: Some(Source::new(noise(MAX_SOURCE_BYTES, n)).unwrap()),
    };
    let seen = store.lookup(&[id(7), id(99)]).unwrap();
    assert_eq!(seen.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    assert_eq!(store.read(&Query::topic(Topic::new(topic).unwrap())).unwrap().events.len(), 20);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn ids_are_told_apart_by_their_bytes() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    // A database that collates, trims or normalizes text would take some of these for the same.
    let ids = [
        "\u{e4}",
        "a\u{308}",
        "A\u{308}",
        "a",
        "A",
        " a",
        "a ",
        "%",
        "_",
        "\\",
        "'",
        "\u{1f600}",
        "NULL",
        "{}",
    ];
    let batch: Vec<_> = ids.iter().map(|&id| Event::new("t", id).unwrap()).collect();
    assert!(append(&store, &batch).iter().all(|receipt| receipt.outcome == Stored));
    assert!(append(&store, &batch).iter().all(|receipt| receipt.outcome == Duplicate));
    let page = store.read(&Query::topic(Topic::new("t").unwrap())).unwrap();
    assert!(page.events.iter().map(|event| event.event_id.as_str()).eq(ids));
}

#[test]
fn payloads_come_back_byte_by_byte() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let payloads =
        [r#""\u0000""#, r#""\ud800""#, "1e400", "-0.0", r#"{"a":1,"a":2}"#, "12345678901234567890123"];
    let batch: Vec<_> = (0..)
        .zip(payloads)
        .map(|(n, payload)| Event::new("t", format!("{n}")).unwrap().with_payload(payload).unwrap())
        .collect();
    append(&store, &batch);
    assert!(append(&store, &batch).iter().all(|receipt| receipt.outcome == Duplicate));
    let page = store.read(&Query::topic(Topic::new("t").unwrap())).unwrap();
    assert!(page.events.iter().map(|event| event.payload.as_str()).eq(payloads));
}

#[test]
fn a_group_may_be_large() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    assert_eq!(stored(&append(&store, &events("t", 0..10_000))), 10_000);
    assert_eq!(stored(&append(&store, &events("t", 5_000..10_000))), 0);
    // More ids than a statement can have parameters.
    let id = |n: u32| Identity {
        topic: Topic::new("t").unwrap(),
        event_id: EventId::new(n.to_string()).unwrap(),
        source: None,
    };
    let seen = store.lookup(&(0..70_000).map(id).collect::<Vec<_>>()).unwrap();
    assert_eq!(seen.iter().flatten().count(), 10_000);
    assert_complete(&store, 10_000);
}
