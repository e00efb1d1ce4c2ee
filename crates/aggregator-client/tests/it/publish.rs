//! Receipts: one for each event, in order, and true.

use std::num::NonZeroUsize;
use std::sync::Arc;

use aggregator_client::{Ack, Error, Event, OnInvalid, Outcome, PublishOptions, Query, Receipt, StatusCode};
use aggregator_core::{DedupStore, MemoryStore, SqliteStore};
use aggregator_server::Config;
use tempfile::TempDir;

use crate::peer::{Act, Peer};
use crate::server::Aggregator;
use crate::{aggregator, client, events};

fn outcomes(receipts: &[Receipt]) -> Vec<(&str, Outcome, Option<u64>)> {
    receipts.iter().map(|receipt| (receipt.event_id.as_str(), receipt.outcome, receipt.seq)).collect()
}

#[tokio::test]
async fn each_event_has_a_receipt_in_the_order_of_the_batch() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let aggregator = Aggregator::start(Arc::new(store), Config::default()).await;
    let client = client(aggregator.url());
    let event = |topic: &str, id: &str, json: &str| Event::new(topic, id).with_json_payload(json).unwrap();
    let first = client.publish(&[event("eu", "1", "{}"), event("us", "\"ü\\", "1.50")]).await.unwrap();
    assert_eq!((&*first.durability, first.count(Outcome::Stored)), ("fsync", 2));

    let batch = [
        event("us", "3", "[]"),
        event("eu", "1", r#"{"a":1}"#),
        event("us", "\"ü\\", " 1.50 "),
        event("us", "2", "1"),
    ];
    let second = client.publish(&batch).await.unwrap();
    assert_eq!(
        outcomes(&second.receipts),
        [
            ("3", Outcome::Stored, Some(2)),
            ("1", Outcome::Conflict, Some(1)),
            ("\"ü\\", Outcome::Duplicate, Some(1)),
            ("2", Outcome::Stored, Some(3)),
        ]
    );
    assert_eq!(second.receipts[2].processed_at, first.receipts[1].processed_at);
    assert!(second.receipts.iter().zip(&batch).all(|(receipt, event)| receipt.topic == event.topic()));
    aggregator.stop().await;
}

#[tokio::test]
async fn what_is_published_is_read_back_as_it_was_spelled() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    let event = Event::new("t", "1")
        .with_timestamp("2026-01-31T12:00:00+01:00")
        .with_source("shop")
        .with_sequence(i64::MAX.unsigned_abs())
        .with_json_payload(r#"{"b":1.50,"a":"Zoë","a":1e400}"#)
        .unwrap();
    client.publish(&[event, Event::new("t", "2")]).await.unwrap();
    let page = client.events(Query::new()).next().await.unwrap().unwrap();
    let [first, second] = &page.events[..] else { panic!("{page:?}") };
    assert_eq!(first.payload.get(), r#"{"b":1.50,"a":"Zoë","a":1e400}"#);
    assert_eq!(first.timestamp, "2026-01-31T12:00:00+01:00");
    assert_eq!((&*first.source, first.sequence, first.seq), ("shop", Some(i64::MAX.unsigned_abs()), 1));
    assert_eq!((second.payload.get(), &*second.source, second.sequence), ("{}", "unknown", None));
    aggregator.stop().await;
}

#[tokio::test]
async fn an_event_that_breaks_a_rule_refuses_the_batch_and_every_fault_is_named_at_once() {
    let aggregator = aggregator().await;
    let peer = Peer::before(aggregator.address, |_| Act::Pass).await;
    let client = client(peer.url());
    let bad = [
        Event::new("good", "1"),
        Event::new("not good", ""),
        Event::new("good", "2").with_timestamp("yesterday"),
    ];
    let error = client.publish(&bad).await.unwrap_err();
    let Error::Refused { status, problem, .. } = &error else { panic!("{error}") };
    assert_eq!(
        (*status, &*problem.kind),
        (StatusCode::UNPROCESSABLE_ENTITY, "urn:aggregator:problem:invalid-events")
    );
    let faults: Vec<_> = problem.errors.iter().map(|error| (error.index, &*error.field)).collect();
    assert_eq!(faults, [(Some(1), "topic"), (Some(1), "event_id"), (Some(2), "timestamp")]);
    assert!(error.to_string().contains("event 1: topic"), "{error}");
    assert_eq!(peer.requests().len(), 1, "what stays refused is not retried");
    assert_eq!(client.stats().await.unwrap().received, 0);
    aggregator.stop().await;
}

#[tokio::test]
async fn bad_events_can_be_skipped_and_have_receipts_that_say_why() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    let options = PublishOptions::new().on_invalid(OnInvalid::Skip);
    let batch = [Event::new("t", "1"), Event::new("t t", "2"), Event::new("t", "3")];
    let published = client.publish_with(&batch, options).await.unwrap();
    assert_eq!(
        outcomes(&published.receipts),
        [("1", Outcome::Stored, Some(1)), ("2", Outcome::Rejected, None), ("3", Outcome::Stored, Some(2))]
    );
    let errors = &published.receipts[1].errors;
    assert_eq!((errors.len(), &*errors[0].field, errors[0].index), (1, "topic", Some(1)));
    assert_eq!(published.receipts[1].topic, "t t");
    aggregator.stop().await;
}

#[tokio::test]
async fn an_answer_before_the_commit_says_that_it_is_one() {
    let store = Arc::new(MemoryStore::default());
    let aggregator = Aggregator::start(Arc::clone(&store) as _, Config::default()).await;
    let options = PublishOptions::new().ack(Ack::Queued);
    let published = client(aggregator.url()).publish_with(&events("t", 3), options).await.unwrap();
    assert_eq!((&*published.durability, published.count(Outcome::Queued)), ("queued", 3));
    assert_eq!(published.receipts[2].seq, None);
    // A stop commits what is queued.
    aggregator.stop().await;
    assert_eq!(store.stats().unwrap().stored, 3);
}

#[tokio::test]
async fn a_batch_that_is_larger_than_the_server_takes_is_refused_with_the_limit() {
    let config = Config { max_batch_events: NonZeroUsize::new(5).unwrap(), ..Config::default() };
    let aggregator = Aggregator::start(Arc::new(MemoryStore::default()), config).await;
    let client = client(aggregator.url());
    let error = client.publish(&events("t", 6)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: StatusCode::PAYLOAD_TOO_LARGE, .. }), "{error}");
    assert!(error.to_string().contains("--max-batch-events"), "{error}");
    for chunk in events("t", 6).chunks(5) {
        client.publish(chunk).await.unwrap();
    }
    assert_eq!(client.stats().await.unwrap().unique_processed, 6);
    aggregator.stop().await;
}

/// The client refuses what is larger than the server's defaults by itself: they have to be the same.
#[tokio::test]
async fn the_limits_of_a_batch_are_the_server_s_and_a_full_batch_gets_through() {
    let config = Config::default();
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    let published = client.publish(&events("t", 10_000)).await.unwrap();
    assert_eq!((config.max_batch_events.get(), published.count(Outcome::Stored)), (10_000, 10_000));
    let error = client.publish(&events("t", 10_001)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "events", limit: 10_000, .. }), "{error}");

    // `{"events":[{"topic":"t","event_id":"large","payload":""}]}` around the payload's characters.
    let filled = |bytes: usize| [Event::new("t", "large").with_payload(&"x".repeat(bytes - 58)).unwrap()];
    let limit = config.max_body_bytes.0;
    let error = client.publish(&filled(limit + 1)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "bytes", size, .. } if size == limit + 1), "{error}");
    assert_eq!(client.publish(&filled(limit)).await.unwrap().count(Outcome::Stored), 1);
    aggregator.stop().await;
}

#[tokio::test]
async fn an_empty_batch_has_no_receipts() {
    let aggregator = aggregator().await;
    assert!(client(aggregator.url()).publish(&[]).await.unwrap().receipts.is_empty());
    aggregator.stop().await;
}
