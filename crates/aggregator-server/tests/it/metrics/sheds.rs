//! Requests that are shed are counted by the reason that their senders are told.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::MemoryStore;
use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_server::Config;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::{Server, event, events};
use crate::tails::event_source::EventSource;

async fn shed(server: &Server, reason: &str) -> f64 {
    server.scrape().await.get(&format!("aggregator_shed_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn a_full_queue_and_a_full_disk() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let config = Config {
        queue_events: 10,
        max_batch_events: NonZeroUsize::new(10).unwrap(),
        queue_wait: Duration::ZERO,
        ..Config::default()
    };
    let server = Server::start(Arc::clone(&faulty) as _, config).await;
    faulty.fail_nth(1, Failure::NoSpace);
    server.publish(&event("t", "no room")).await.problem(503, "no-space");
    faulty.hold();
    let waiting = server.publish_later("/publish", &events("t", 0..10));
    server.until("10 wait", |stats| stats["queue"]["events"] == 10).await;
    for _ in 0..3 {
        server.publish(&event("t", 10)).await.problem(503, "queue-full");
    }
    assert_eq!(shed(&server, "queue-full").await, 3.0);
    assert_eq!(server.stats().await["queue"]["refused"], 3);
    assert_eq!(shed(&server, "no-space").await, 1.0);
    assert_eq!(shed(&server, "overloaded").await, 0.0);
    faulty.go_on();
    assert_eq!(waiting.await.unwrap(), 202);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn readers_beyond_the_limit_also_where_they_are_told_by_a_200() {
    let config = Config { max_tails: NonZeroUsize::MIN, ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let url = format!("{}/events/stream", server.url);
    let mut first = EventSource::open(&url, "").await;
    first.caught_up().await;
    EventSource::open(&url, "").await.end().await;
    assert_eq!(shed(&server, "overloaded").await, 1.0);
    server.get("/events?wait=1").await.problem(503, "overloaded");
    assert_eq!(shed(&server, "overloaded").await, 2.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit() {
    let config = Config { max_connections: NonZeroUsize::new(2).unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    // The client keeps this connection, over which it asks for the metrics.
    assert_eq!(shed(&server, "connections").await, 0.0);
    let second = TcpStream::connect(server.address()).await.unwrap();
    let mut third = TcpStream::connect(server.address()).await.unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(shed(&server, "connections").await, 1.0);
    drop(second);
    server.stop().await.unwrap();
}
