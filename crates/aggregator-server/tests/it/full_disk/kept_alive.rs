//! Rules of retention on a small disk: the store makes room for itself.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};

use super::Disk;
use crate::support::{Process, until};

/// How many seconds the disk is kept alive: `scripts/prove` sets it. Without it, until [`EVENTS`] were taken.
const SECONDS: &str = "AGGREGATOR_RETENTION_SECONDS";

/// Their payloads alone are more than fits on the disk.
const EVENTS: u64 = 40_000;

/// A publisher that sends what is refused again.
struct Publisher {
    client: Client,
    next: u64,
    refused: u64,
}

impl Publisher {
    fn new() -> Self {
        // In the long form it waits so long between two requests that the server closes the connection.
        let client = crate::http_client::builder().pool_idle_timeout(Duration::from_secs(5)).build().unwrap();
        Self { client, next: 0, refused: 0 }
    }

    /// Publishes 50 events of 2 kB. Returns whether they were taken.
    async fn publish(&mut self, server: &Process) -> bool {
        let event = |id: u64| json!({"topic": "t", "event_id": id.to_string(), "payload": "x".repeat(2_000)});
        let batch: Vec<_> = (self.next..self.next + 50).map(event).collect();
        let answer = self.client.post(format!("{}/publish", server.url)).json(&batch).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        match status {
            202 => self.next += 50,
            503 => {
                assert_eq!(body["type"], "urn:aggregator:problem:no-space", "{body}");
                self.refused += 1;
            }
            _ => panic!("{status}: {body}"),
        }
        status == 202
    }

    async fn publish_some(&mut self, server: &Process, events: u64) {
        let until_id = self.next + events;
        let patience = Instant::now() + Duration::from_secs(60);
        while self.next < until_id {
            assert!(Instant::now() < patience, "nothing is taken any more: {:?}", purged(server).await);
            if !self.publish(server).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn purged(server: &Process) -> (u64, Value) {
    let told = server.get("/retention").await;
    (told["rules"][0]["purged_events"].as_u64().unwrap(), told["rules"][0]["last_run_error"].clone())
}

/// Sound, and every event that was acknowledged is known as a repeat.
async fn check(disk: &Disk, server: Process, publisher: &Publisher) {
    for id in [0, publisher.next / 2, publisher.next - 1] {
        let repeat = json!({"topic": "t", "event_id": id.to_string(), "payload": "x".repeat(2_000)});
        let answer = server.publish(&repeat).await;
        // On a disk without room nothing is taken, not even a repeat.
        assert!(answer["duplicates"] == 1 || answer["status"] == 503, "{answer}");
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let check = disk.command(&["check", "--store", &disk.store()]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// Far more is published than fits on the disk.
#[tokio::test]
async fn a_rule_keeps_a_disk_of_64_mb_alive() {
    let Some(disk) = Disk::new("64m") else { return };
    let server = disk.serve_with(&["--retain", "t=bytes:20MiB", "--retain-every", "200ms"]);
    let span = std::env::var(SECONDS).map_or(0, |text| text.parse().unwrap());
    let span = Duration::from_secs(span);
    let (begun, mut publisher) = (Instant::now(), Publisher::new());
    while begun.elapsed() < span || publisher.next < EVENTS {
        publisher.publish_some(&server, 1_000).await;
        // In the long form, slowly: stubs stay, so such a disk ends one day however much is purged.
        let is_long = publisher.next >= EVENTS && begun.elapsed() < span;
        tokio::time::sleep(Duration::from_millis(if is_long { 60_000 } else { 20 })).await;
    }
    let (purged, error) = purged(&server).await;
    println!("{} events, {purged} purged, {} times refused", publisher.next, publisher.refused);
    assert!(purged > publisher.next / 2 && error.is_null(), "{purged} of {}: {error}", publisher.next);
    check(&disk, server, &publisher).await;
}

/// The disk is filled up by somebody else, again and again, to the last byte. Only what is purged makes room.
#[tokio::test]
async fn a_store_on_a_disk_without_a_free_byte_purges_and_takes_events_again() {
    let Some(disk) = Disk::new("64m") else { return };
    // Nothing is old enough, until it is.
    let server = disk.serve_with(&["--retain", "t=age:6s", "--retain-every", "200ms"]);
    let mut publisher = Publisher::new();
    publisher.publish_some(&server, 5_000).await;
    disk.fill();
    // All that the log has room for.
    while publisher.publish(&server).await {}
    disk.fill();
    assert_eq!(purged(&server).await.0, 0, "it has to be full before anything is old enough");
    let first = publisher.next;
    until("it is purged", async || purged(&server).await.0 >= first).await;
    disk.fill();
    // Pages that became free are used again.
    publisher.publish_some(&server, 2_000).await;
    disk.fill();
    let more = publisher.next;
    until("it goes on", async || purged(&server).await.0 >= more).await;
    publisher.publish_some(&server, 2_000).await;
    let (_, error) = purged(&server).await;
    assert!(error.is_null(), "{error}");
    check(&disk, server, &publisher).await;
}
