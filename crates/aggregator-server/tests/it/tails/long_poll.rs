//! `GET /events?wait=`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::{DedupStore, MemoryStore, Topic};
use aggregator_server::Config;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Server, event, events, in_time};

#[tokio::test]
async fn a_poll_at_the_end_is_answered_by_the_next_event() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..3)).await;
    let next = server.get("/events?topic=t&wait=55").await.json["next"].as_str().unwrap().to_owned();
    for filters in ["topic=t", "topic=*&source=s", "topic=t.*"] {
        let next = match filters {
            "topic=t" => next.clone(),
            _ => {
                let page = server.get(&format!("/events?{filters}&after=latest")).await.json;
                page["next"].as_str().unwrap().to_owned()
            }
        };
        let path = format!("/events?{filters}&after={next}&wait=55");
        let poll = server.get(&path);
        let publish = async {
            // Not for it, whether it waits already or not yet.
            for id in 0..5 {
                server.publish(&event("other", format!("{filters} {id}"))).await;
            }
            let topic = if filters == "topic=t.*" { "t.x" } else { "t" };
            server.publish(&json!({"topic": topic, "event_id": filters, "source": "s"})).await;
        };
        let (page, ()) = in_time("the poll", async { tokio::join!(poll, publish) }).await;
        assert_eq!(page.json["count"], 1, "{filters}");
        assert_eq!(page.json["events"][0]["event_id"], filters);
        assert_eq!(page.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn a_poll_that_finds_nothing_has_come_further() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("other", 0..10)).await;
    let began = Instant::now();
    let first = server.get("/events?source=rare&wait=0").await.json;
    assert!(began.elapsed() < Duration::from_secs(1));
    let path = format!("/events?source=rare&after={}&wait=1", first["next"].as_str().unwrap());
    let batch = events("x", 0..2);
    let (page, _) = tokio::join!(server.get(&path), server.publish(&batch));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!((&page.json["count"], &page.json["caught_up"]), (&json!(0), &json!(true)));
    assert_ne!(page.json["next"], first["next"]);
    assert_eq!(server.get("/events?source=rare").await.json["next"], page.json["next"]);
}

#[tokio::test]
async fn retention_ends_a_poll() {
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::default());
    let server = Server::start(Arc::clone(&store), Config::default()).await;
    server.publish(&events("t", 0..10)).await;
    let third = server.get("/events?topic=t&limit=3").await.json["next"].as_str().unwrap().to_owned();
    store.maintain().unwrap().purge(&Topic::new("t").unwrap(), 6).unwrap();
    let refusal = server.get(&format!("/events?topic=t&after={third}&wait=5")).await;
    refusal.problem(410, "cursor-expired");
}

#[tokio::test]
async fn what_a_poll_cannot_wait_for_is_refused() {
    let server = Server::volatile().await;
    for (query, field) in [
        ("wait=56", "wait"),
        ("wait=-1", "wait"),
        ("wait=1&order=desc", "wait"),
        ("after=latest&order=desc", "after"),
    ] {
        assert_eq!(
            server.get(&format!("/events?{query}")).await.problem(400, "bad-parameter"),
            [(None, field.into())]
        );
    }
}
