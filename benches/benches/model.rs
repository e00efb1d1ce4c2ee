//! Building batches of borrowed events, without a store.

use std::fmt;

use aggregator_core::event::RawEvent;
use aggregator_core::{BatchBuilder, Scope, Timestamp};
use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use serde_json::value::RawValue;

const EVENTS: usize = 500;

fn main() {
    divan::main();
}

/// A payload that is kept as it came, one that loses its white space, and a large one.
fn payloads() -> [Payload; 3] {
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(4_000));
    [
        Payload("compact", r#"{"amount":129.5,"tags":["a","b"]}"#.to_owned()),
        Payload("spaced", r#"{ "amount": 129.5, "tags": [ "a", "b" ] }"#.to_owned()),
        Payload("4 KB", large),
    ]
}

struct Payload(&'static str, String);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The events borrow from a body, as the events of a request do.
#[divan::bench(args = payloads())]
fn batch_of_500(bencher: Bencher<'_, '_>, payload: &Payload) {
    let body = Bytes::from(format!("[{}]", vec![payload.1.as_str(); EVENTS].join(",")));
    let text = std::str::from_utf8(&body).expect("it is UTF-8");
    let payloads: Vec<&RawValue> = serde_json::from_str(text).expect("it is JSON");
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| {
        let mut builder = BatchBuilder::new(body.clone(), Timestamp::now()).expect("the body is good");
        for payload in &payloads {
            let event = RawEvent {
                topic: "bench.topic-0",
                event_id: "0b0b3a3c-5f5c-4d5f-9d0d-7a3a3f1f0a55",
                timestamp: Some("2026-01-31T12:00:00.123456Z"),
                source: Some("bench"),
                payload: Some(payload),
                sequence: None,
                scope: Scope::Topic,
            };
            builder.push(&event).expect("it is a good event");
        }
        builder.finish()
    });
}
