//! The client against the aggregator itself, and through a network that loses and repeats.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod pages;
mod peer;
mod publish;
mod queries;
mod refusals;
mod retries;
mod security;
#[path = "../../../publisher-sim/tests/it/server.rs"]
mod server;
mod tail;
mod tail_fallback;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use aggregator_client::{Backoff, Builder, Client, Event};
use aggregator_core::MemoryStore;
use aggregator_server::Config;

use crate::server::Aggregator;

/// An aggregator in memory, with the defaults.
async fn aggregator() -> Aggregator {
    Aggregator::start(Arc::new(MemoryStore::default()), Config::default()).await
}

/// Small waits, and not more of them than a test has patience for.
fn builder(url: String) -> Builder {
    let ms = Duration::from_millis;
    Client::builder(url).backoff(Backoff::new(ms(1), ms(20), 10, ms(20_000)).unwrap())
}

fn client(url: String) -> Client {
    builder(url).build().unwrap()
}

/// `count` events of one topic, with the ids 0, 1, 2 and so on.
fn events(topic: &str, count: u32) -> Vec<Event> {
    let event = |n: u32| Event::new(topic, n.to_string()).with_payload(&n).unwrap();
    (0..count).map(event).collect()
}

/// HTTP past the client.
fn http_client() -> reqwest::Client {
    Client::builder("http://localhost").http_client().unwrap()
}
