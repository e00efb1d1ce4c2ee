//! A flood with one key does not keep the others waiting.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{DedupStore as _, MemoryStore, Query, TopicSelector};
use aggregator_server::Config;
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Guarded, Key};
use crate::support::{Answer, event, events, until};

/// Publishes two events from a task of its own.
fn publish_later(server: &Guarded, key: &Key, n: u32) -> tokio::task::JoinHandle<u16> {
    let request = server.request(Method::POST, "/publish").bearer_auth(&key.key);
    let request = request.json(&events("t", n * 2..n * 2 + 2));
    tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await.status.as_u16() })
}

#[tokio::test]
async fn keys_take_turns_in_the_queue() {
    const FLOOD: u32 = 40;
    let store = Arc::new(MemoryStore::default());
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&store) as _));
    let config = Config {
        queue_events: 4,
        max_batch_events: NonZeroUsize::new(2).unwrap(),
        queue_wait: Duration::from_secs(60),
        ..Config::default()
    };
    let server = Guarded::start(Arc::clone(&faulty) as _, config).await;
    let (flood, other) = (server.key(&["publish:*"]).await, server.key(&["publish:*", "metrics"]).await);
    faulty.hold();
    let waiting = async |count: u32| server.get(&other, "/stats").await.json["queue"]["waiting"] == count;
    let mut requests: Vec<_> = (0..FLOOD).map(|n| publish_later(&server, &flood, n)).collect();
    until("the queue is full", async || waiting(FLOOD - 2).await).await;
    requests.push(publish_later(&server, &other, FLOOD));
    until("the other one waits, too", async || waiting(FLOOD - 1).await).await;
    faulty.go_on();
    for request in requests {
        assert_eq!(request.await.unwrap(), 202, "nothing is refused as long as it may wait");
    }
    let stored = store.read(&Query { limit: Query::MAX_LIMIT, ..Query::of(TopicSelector::All) }).unwrap();
    let late = (FLOOD * 2).to_string();
    let before = stored.events.iter().position(|event| event.event_id == late).unwrap();
    // Two requests were in the queue, and one may have had its turn.
    assert!(
        before <= 6,
        "{before} of {} events, which were all there before, were stored before it",
        2 * FLOOD
    );
    server.stop().await;
}

#[tokio::test]
async fn a_key_leaves_room_for_the_bodies_of_others() {
    let config = Config {
        request_bytes: "8KiB".parse().unwrap(),
        max_body_bytes: "6KiB".parse().unwrap(),
        ..Config::default()
    };
    let server = Guarded::start(Arc::new(MemoryStore::default()), config).await;
    let (flood, other) = (server.key(&["publish:*"]).await, server.key(&["publish:*"]).await);
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: 5000\r\n\r\n",
        flood.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 4_900]).await.unwrap();
    let body = json!({"topic": "t", "event_id": "1", "payload": "x".repeat(1_900)});
    let refused = async || server.post(&flood, "/publish", &body).await.status == 503;
    until("its first body has more room than is left", refused).await;
    server.post(&flood, "/publish", &body).await.problem(503, "overloaded");
    assert_eq!(server.post(&other, "/publish", &body).await.status, 202);
    assert_eq!(server.post(&other, "/publish", &event("t", 2)).await.status, 202);
    drop(stream);
    server.stop().await;
}
