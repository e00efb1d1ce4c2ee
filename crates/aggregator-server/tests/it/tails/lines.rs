//! `GET /events` with `Accept: application/x-ndjson`.

use std::sync::Arc;

use aggregator_core::{DedupStore, MemoryStore, Topic};
use aggregator_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::asked::Asked;
use crate::support::{Server, event, events, in_time};

async fn lines(server: &Server, path: &str) -> Vec<Value> {
    let request = server.client.get(format!("{}{path}", server.url)).header("accept", "application/x-ndjson");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = response.text().await.unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn lines_are_the_events_and_at_last_where_to_go_on() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..5_000)).await;
    let mut path = "/events?topic=t&limit=2500".to_owned();
    let mut seqs = Vec::new();
    for (count, caught_up) in [(2_500, false), (2_500, true), (0, true)] {
        let mut read = lines(&server, &path).await;
        let last = read.pop().unwrap();
        assert_eq!((read.len(), &last["caught_up"]), (count, &json!(caught_up)), "{path}");
        seqs.extend(read.iter().map(|event| event["seq"].as_u64().unwrap()));
        path = format!("/events?topic=t&limit=2500&after={}", last["next"].as_str().unwrap());
    }
    assert!(seqs.into_iter().eq(1..=5_000));
    let page = server.get("/events?topic=t&limit=3&order=desc").await.json;
    let mut newest = lines(&server, "/events?topic=t&limit=3&order=desc").await;
    assert_eq!(newest.pop().unwrap()["next"], page["next"]);
    assert_eq!(json!(newest), page["events"]);
    let all = lines(&server, "/events?limit=1000000").await;
    assert_eq!(all.len(), 5_001);
    let nothing = lines(&server, "/events?topic=nothing").await;
    assert_eq!(nothing[0]["known"], json!(false));
}

/// Whoever asks for a million lines and reads none costs the first of them.
#[tokio::test]
async fn the_pages_of_lines_begin_small_and_grow() {
    let store = Arc::new(Asked::default());
    let server = Server::start(Arc::clone(&store) as _, Config::default()).await;
    server.publish(&events("t", 0..4_000)).await;
    store.limits.lock().unwrap().clear();
    assert_eq!(lines(&server, "/events?topic=t&limit=3000").await.len(), 3_001);
    assert_eq!(*store.limits.lock().unwrap(), [100, 200, 400, 800, 1_000, 500]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn lines_can_be_waited_for() {
    let server = Server::volatile().await;
    let read = lines(&server, "/events?topic=t&wait=55");
    let event = event("t", 1);
    let (read, _) = in_time("the lines", async { tokio::join!(read, server.publish(&event)) }).await;
    assert_eq!((read.len(), &read[0]["event_id"]), (2, &json!("1")));
}

#[tokio::test]
async fn a_limit_beyond_a_page_is_for_lines() {
    let server = Server::volatile().await;
    assert_eq!(
        server.get("/events?limit=1001").await.problem(400, "bad-parameter"),
        [(None, "limit".into())]
    );
    let request = server.client.get(format!("{}/events?limit=1000001", server.url));
    assert_eq!(request.header("accept", "application/x-ndjson").send().await.unwrap().status(), 400);
}

/// The status is sent already when a later page meets it.
#[tokio::test]
async fn lines_that_cannot_go_on_say_where_to_ask_again() {
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::default());
    let server = Server::start(Arc::clone(&store), Config::default()).await;
    // The second page begins while the first one is still being written: the client reads nothing of it yet.
    for first in (0..40_000).step_by(5_000) {
        let batch: Vec<_> = (first..first + 5_000)
            .map(|id| json!({"topic": "t", "event_id": id.to_string(), "payload": "x".repeat(500)}))
            .collect();
        assert_eq!(server.publish(&json!({"events": batch})).await.status, 202);
    }
    let request = server.client.get(format!("{}/events?topic=t&limit=1000000", server.url));
    let mut response = request.header("accept", "application/x-ndjson").send().await.unwrap();
    let mut text = response.chunk().await.unwrap().unwrap().to_vec();
    store.maintain().unwrap().purge(&Topic::new("t").unwrap(), 39_999).unwrap();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(text).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["caught_up"], false);
    assert!(text.lines().count() < 40_001);
    let next = last["next"].as_str().unwrap();
    server.get(&format!("/events?topic=t&after={next}")).await.problem(410, "cursor-expired");
}
