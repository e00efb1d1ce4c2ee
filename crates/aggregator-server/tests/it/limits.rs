//! Limits: each has an answer of its own, and nothing is taken beyond it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{DedupStore, MemoryStore, Partition, Partitions};
use aggregator_server::Config;
use aggregator_server::config::ByteSize;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Server, event, events, until};

fn held_store() -> (Arc<FaultyStore>, Arc<dyn DedupStore>) {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    (Arc::clone(&faulty), faulty)
}

fn config(queue_events: usize) -> Config {
    let max_batch_events = NonZeroUsize::new(10).unwrap();
    Config { queue_events, max_batch_events, queue_wait: Duration::ZERO, ..Config::default() }
}

#[tokio::test]
async fn a_full_queue_sheds_and_takes_again_when_it_has_room() {
    let (faulty, store) = held_store();
    faulty.hold();
    let server = Server::start(store, config(15)).await;
    let waiting = server.publish_later("/publish", &events("t", 0..10));
    server.until("10 wait", |stats| stats["queue"]["events"] == 10).await;
    let answer = server.publish(&events("t", 10..16)).await;
    answer.problem(503, "queue-full");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(server.post("/publish?ack=queued", events("t", 10..16).to_string()).await.status, 503);
    let stats = server.stats().await;
    assert_eq!((&stats["queue"]["events"], &stats["queue"]["capacity_events"]), (&json!(10), &json!(15)));
    assert_eq!((&stats["received"], &stats["unique_processed"]), (&json!(10), &json!(0)));
    assert_eq!(stats["queue"]["refused"], 2);
    let small = server.publish_later("/publish", &events("t", 10..15));
    server.until("15 wait", |stats| stats["queue"]["events"] == 15).await;
    faulty.go_on();
    assert_eq!((waiting.await.unwrap(), small.await.unwrap()), (202, 202));
    assert_eq!(server.publish(&events("t", 10..16)).await.json["stored"], 1);
    assert_eq!(server.stats().await["queue"]["events"], 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_waits_a_while_for_room_in_the_queue() {
    let (faulty, store) = held_store();
    faulty.hold();
    let config = Config { queue_wait: Duration::from_secs(60), ..config(10) };
    let server = Server::start(store, config).await;
    let first = server.publish_later("/publish", &events("t", 0..10));
    server.until("10 wait", |stats| stats["queue"]["events"] == 10).await;
    let second = server.publish_later("/publish?ack=queued", &events("t", 10..20));
    server.until("one waits for room", |stats| stats["queue"]["waiting"] == 1).await;
    assert_eq!(server.stats().await["received"], 10, "what waits for room is not received");
    faulty.go_on();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (202, 202));
    server.until("all are stored", |stats| stats["unique_processed"] == 20).await;
    assert_eq!(server.stats().await["queue"]["refused"], 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn requests_that_wait_are_committed_as_one_group() {
    let (faulty, store) = held_store();
    faulty.hold();
    let server = Server::start(store, Config::default()).await;
    let first = server.publish_later("/publish", &event("t", "first"));
    server.until("the first is appended", |_| faulty.appends() == 1).await;
    let others: Vec<_> = (0..20).map(|n| server.publish_later("/publish", &event("t", n))).collect();
    server.until("21 wait", |stats| stats["queue"]["events"] == 21).await;
    faulty.go_on();
    assert_eq!(first.await.unwrap(), 202);
    for other in others {
        assert_eq!(other.await.unwrap(), 202);
    }
    assert_eq!(faulty.appends(), 2, "twenty-one requests, two commits");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn small_commits_come_one_after_the_other_with_all_partitions_and_large_ones_do_not_wait() {
    let partitions = Partitions::new(4).unwrap();
    let topic = |partition| (0..).map(|n| format!("t{n}")).find(|t| partitions.of(t) == Partition(partition));
    let topics: Vec<_> = (0..4).map(|partition| topic(partition).unwrap()).collect();
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new(partitions))));
    faulty.hold();
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    let mut requests = vec![server.publish_later("/publish", &event(&topics[0], 0))];
    server.until("the first is appended", |_| faulty.appends() == 1).await;
    for topic in &topics {
        requests.push(server.publish_later("/publish", &event(topic, 1)));
    }
    server.until("five wait", |stats| stats["queue"]["events"] == 5).await;
    // With what waits beside it, it is enough.
    requests.push(server.publish_later("/publish", &events(&topics[1], 2..300)));
    server.until("another one is appended", |_| faulty.appends() == 2).await;
    faulty.go_on();
    for request in requests {
        assert_eq!(request.await.unwrap(), 202);
    }
    assert_eq!(faulty.appends(), 3, "the first, what was enough, and what waited for the first");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_refused_does_not_take_its_group_apart() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default().with_max_topics(1))));
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    faulty.hold();
    let first = server.publish_later("/publish", &event("t", "first"));
    server.until("the first is appended", |_| faulty.appends() == 1).await;
    let good: Vec<_> = (0..10).map(|n| server.publish_later("/publish", &event("t", n))).collect();
    let bad = server.publish_later("/publish", &event("another", 1));
    server.until("all wait", |stats| stats["queue"]["events"] == 12).await;
    faulty.go_on();
    assert_eq!((first.await.unwrap(), bad.await.unwrap()), (202, 422));
    for good in good {
        assert_eq!(good.await.unwrap(), 202);
    }
    assert_eq!(faulty.appends(), 4, "the first, the whole group, the good ones, the bad one");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn responses_in_memory_are_bounded_together() {
    let config = Config { response_bytes: "12MiB".parse().unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut large = event("t", 1);
    large["payload"] = json!("x".repeat(8 << 20));
    assert_eq!(server.publish(&large).await.status, 202);
    let mut deaf = TcpStream::connect(server.address()).await.unwrap();
    deaf.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    deaf.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let answer = server.get("/events").await;
    answer.problem(503, "overloaded");
    assert!(answer.json["detail"].as_str().unwrap().contains("--response-bytes"));
    assert_eq!(server.get("/events?limit=1&topic=other").await.status, 200, "small ones still fit");
    drop(deaf);
    until("the memory is free again", async || server.get("/events").await.status == 200).await;
}

#[tokio::test]
async fn a_client_that_has_said_all_it_has_to_say_gets_its_answer() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    let body = event("t", 1).to_string();
    let head = format!("POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_listens_is_told_what_was_wrong() {
    let server = Server::volatile().await;
    let body = vec![b' '; 20 << 20];
    for (header, status) in [("content-type: text/plain", "415"), ("x-nothing: 1", "413")] {
        let head = format!(
            "POST /publish HTTP/1.1\r\nhost: localhost\r\n{header}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));
    }
}

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let server = Server::volatile().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n", "x".repeat(100_000));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn a_request_larger_than_the_queue_is_told_so() {
    let config = Config { queue_bytes: "1KiB".parse().unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    server.publish(&events("t", 0..100)).await.problem(413, "too-large");
    let mut alone = event("t", 1);
    alone["payload"] = json!("x".repeat(1 << 10));
    server.publish(&alone).await.problem(413, "too-large");
    assert_eq!(server.publish(&event("t", 1)).await.status, 202);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_the_others_go_on() {
    let config = Config { max_connections: NonZeroUsize::new(2).unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        kept.push(stream);
    }
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("--max-connections"), "{answer}");
    assert!(answer.contains("retry-after: 1") && answer.contains("application/problem+json"), "{answer}");
    drop(kept);
    // A place is free again as soon as the server has seen a connection end.
    until("a place is free again", async || server.get("/livez").await.status == 200).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let config = Config { body_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream
        .write_all(b"POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n[")
        .await
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up() {
    let config = Config { header_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"POST /publish HTTP/1.1\r\nhost").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
}

#[tokio::test]
async fn bodies_in_memory_are_bounded_together() {
    let config = Config {
        request_bytes: "3KiB".parse().unwrap(),
        max_body_bytes: "2KiB".parse().unwrap(),
        ..Config::default()
    };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(b"POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2000\r\n\r\n[")
        .await
        .unwrap();
    slow.write_all(&[b' '; 1_900]).await.unwrap();
    // Its room is taken once the server has read that.
    let large = format!("{}{}", event("t", 1), " ".repeat(1_500));
    let is_taken = async || server.post("/publish", large.clone()).await.status == 202;
    until("its room is taken", async || !is_taken().await).await;
    let answer = server.post("/publish", large.clone()).await;
    answer.problem(503, "overloaded");
    assert!(answer.json["detail"].as_str().unwrap().contains("--request-bytes"));
    assert_eq!(server.publish(&event("t", 2)).await.status, 202, "a small one still fits");
    drop(slow);
    until("its room is free again", is_taken).await;
}

#[tokio::test]
async fn a_publisher_does_not_wait_for_ever() {
    let (faulty, store) = held_store();
    faulty.hold();
    let config = Config { commit_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::start(store, config).await;
    server.publish(&event("t", 1)).await.problem(503, "commit-timeout");
    faulty.go_on();
    // On a slow machine this may take longer than the limit, too.
    until("it is taken again", async || server.publish(&event("t", 2)).await.status == 202).await;
    until("it was committed after all, and that is told", async || {
        let again = server.publish(&event("t", 1)).await;
        again.status == 202 && again.outcomes() == ["duplicate"]
    })
    .await;
    server.stop().await.unwrap();
}

/// Not by an option, but by whoever starts the server from code.
#[tokio::test]
async fn what_waits_is_taken_by_groups_without_room_too() {
    let config = Config { group_bytes: ByteSize(0), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    for id in 0..3 {
        server.publish(&event("t", id)).await;
    }
    assert_eq!(server.stats().await["unique_processed"], 3);
    server.stop().await.unwrap();
}
