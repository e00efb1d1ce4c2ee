//! A store that refuses events, and does not say of all of them which: those it refuses are rejected, and no others.

use std::sync::Arc;

use aggregator_core::store::faulty::{FaultyStore, Naming};
use aggregator_core::{DedupStore, MemoryStore, Partitions};
use aggregator_server::Config;
use serde_json::json;

use crate::stats::share;
use crate::support::{Server, event, events, in_time};

/// A server whose store refuses the events of these ids.
async fn server(refused: &[u32], naming: Naming) -> (Arc<FaultyStore>, Server) {
    server_on(MemoryStore::default(), refused, naming).await
}

async fn server_on(store: MemoryStore, refused: &[u32], naming: Naming) -> (Arc<FaultyStore>, Server) {
    let faulty = Arc::new(FaultyStore::new(Arc::new(store)));
    faulty.refuse(refused.iter().map(ToString::to_string), naming);
    let server = Server::start(Arc::clone(&faulty) as Arc<dyn DedupStore>, Config::default()).await;
    (faulty, server)
}

async fn stored(server: &Server) -> Vec<u32> {
    let page = server.get("/events?topic=t&limit=1000").await.json;
    let ids = page["events"].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap());
    ids.map(|id| id.parse().unwrap()).collect()
}

#[tokio::test]
async fn items_are_skipped_that_a_store_refuses_without_naming_them() {
    let (_, server) = server(&[1, 4], Naming::Nobody).await;
    let body = events("t", 0..6).to_string();
    let answer = in_time("an answer", server.post("/publish?on_invalid=skip", body)).await;
    assert_eq!(answer.outcomes(), ["stored", "rejected", "stored", "stored", "rejected", "stored"]);
    assert_eq!((&answer.json["stored"], &answer.json["rejected"]), (&json!(4), &json!(2)));
    let errors = &answer.json["results"][4]["errors"];
    assert_eq!(*errors, json!([{"index": 4, "field": "payload", "detail": "as planned"}]));
    assert_eq!(stored(&server).await, [0, 2, 3, 5]);
    assert_eq!(share(&server.stats().await), [6, 4, 0, 0, 2]);
}

#[tokio::test]
async fn items_are_skipped_that_a_store_names_one_at_a_time_with_a_bounded_number_of_looks_at_each() {
    let refused: Vec<_> = (0..800).step_by(2).collect();
    let four = MemoryStore::new(Partitions::new(4).unwrap()).with_a_commit_per_partition();
    for store in [MemoryStore::default(), four] {
        let (faulty, server) = server_on(store, &refused, Naming::First).await;
        let body = events("t", 0..800).to_string();
        let answer = in_time("an answer", server.post("/publish?on_invalid=skip", body)).await;
        let expected: Vec<_> = (0..800).map(|id| ["rejected", "stored"][id % 2]).collect();
        assert_eq!(answer.outcomes(), expected);
        assert_eq!(stored(&server).await, (0..800).filter(|id| id % 2 == 1).collect::<Vec<_>>());
        assert_eq!(share(&server.stats().await), [800, 400, 0, 0, 400]);
        assert!(faulty.events() <= 12 * 800, "{}", faulty.events());
    }
}

#[tokio::test]
async fn a_refusal_names_the_field_although_it_names_no_item() {
    let (_, server) = server(&[1], Naming::Nobody).await;
    let answer = server.publish(&events("t", 0..3)).await;
    assert_eq!(answer.problem(422, "invalid-events"), [(None, "payload".to_owned())]);
    assert!(answer.json["detail"].as_str().unwrap().contains("payload as planned"), "{:?}", answer.json);
    assert_eq!(stored(&server).await, [0; 0]);
    assert_eq!(share(&server.stats().await), [3, 0, 0, 0, 3], "none of its items was taken");
}

#[tokio::test]
async fn every_item_of_a_request_that_the_store_refuses_is_counted_as_rejected() {
    let (_, server) = server(&[1], Naming::First).await;
    let answer = server.publish(&events("t", 0..3)).await;
    assert_eq!(answer.problem(422, "invalid-events"), [(Some(1), "payload".to_owned())]);
    let stats = server.stats().await;
    assert_eq!((share(&stats), &stats["rejected"]), ([3, 0, 0, 0, 3], &json!(3)));
}

#[tokio::test]
async fn events_that_were_queued_and_are_refused_later_are_counted_as_rejected_and_as_lost() {
    for naming in [Naming::First, Naming::Nobody] {
        let refused: Vec<_> = (0..40).step_by(4).collect();
        let (faulty, server) = server(&refused, naming).await;
        assert_eq!(server.post("/publish?ack=queued", events("t", 0..40).to_string()).await.status, 202);
        assert_eq!(server.publish(&event("t", 41)).await.json["results"][0]["seq"], 31);
        assert_eq!(stored(&server).await, (0..42).filter(|id| id % 4 != 0).collect::<Vec<_>>());
        let stats = server.stats().await;
        assert_eq!((share(&stats), &stats["queue"]["lost"]), ([41, 31, 0, 0, 10], &json!(10)), "{naming:?}");
        assert_eq!((&stats["rejected"], &stats["queue"]["events"]), (&json!(10), &json!(0)));
        assert!(faulty.events() <= 12 * 41, "{}", faulty.events());
    }
}
