//! Building batches of borrowed events, without a store.

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

#[divan::bench(args = [r#"{"amount":129.5,"tags":["a","b"]}"#, r#"{ "amount": 129.5, "tags": [ "a", "b" ] }"#])]
fn batch_of_500(bencher: Bencher<'_, '_>, payload: &str) {
    let payload: &RawValue = serde_json::from_str(payload).expect("it is JSON");
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| {
        let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::now()).expect("an empty body is good");
        for _ in 0..EVENTS {
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
