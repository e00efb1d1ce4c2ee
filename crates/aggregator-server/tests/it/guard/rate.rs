//! A key may publish so much a second, and no more.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Guarded;
use crate::support::{event, events};

fn limited(limits: &Value) -> Value {
    json!({"name": "test", "scopes": ["publish:*"], "limits": limits})
}

#[tokio::test]
async fn a_key_that_sends_too_much_is_told_when_to_come_again_and_others_are_not() {
    let server = Guarded::volatile().await;
    let key = server.make(limited(&json!({"events_per_second": 2}))).await;
    let other = server.make(limited(&json!({"events_per_second": 2}))).await;
    assert_eq!(server.post(&key, "/publish", &events("t", 0..20)).await.status, 202);
    let began = Instant::now();
    let refused = server.post(&key, "/publish", &events("t", 20..22)).await;
    refused.problem(429, "rate-limited");
    refused.tells(&["2 events a second", "20 at once"]);
    assert_eq!(server.post(&other, "/publish", &events("t", 0..20)).await.json["duplicates"], 20);
    // Whoever waits as long as it was told finds room.
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    sleep(Duration::from_secs(wait).saturating_sub(began.elapsed()) + Duration::from_millis(20)).await;
    assert_eq!(server.post(&key, "/publish", &events("t", 20..22)).await.json["stored"], 2);
    let never = server.post(&key, "/publish", &events("t", 0..21)).await;
    never.problem(413, "too-large");
    never.tells(&["20 at once", "in several"]);
    server.stop().await;
}

#[tokio::test]
async fn a_body_counts_with_the_bytes_it_has() {
    let server = Guarded::volatile().await;
    let key = server.make(limited(&json!({"bytes_per_second": 100}))).await;
    let body = event("t", "1");
    let (length, mut sent) = (body.to_string().len(), 0);
    while server.post(&key, "/publish", &body).await.status == 202 {
        sent += length;
    }
    // A little comes back while they are sent.
    assert!((1_000 - length..1_300).contains(&sent), "{sent}");
    let long = json!({"topic": "t", "event_id": "2", "payload": "x".repeat(1_000)});
    server.post(&key, "/publish", &long).await.problem(413, "too-large");
    let limits =
        server.operate(Method::GET, "/admin/keys", json!({})).await.json["keys"][0]["limits"].clone();
    assert_eq!(limits, json!({"bytes_per_second": 100}));
    server.stop().await;
}

#[tokio::test]
async fn limits_that_are_none_are_refused() {
    let server = Guarded::volatile().await;
    for limits in
        [json!({"events_per_second": 0}), json!({"events": 5}), json!({"bytes_per_second": -1}), json!(5)]
    {
        let answer = server.operate(Method::POST, "/admin/keys", limited(&limits)).await;
        answer.problem(400, "malformed-body");
    }
    server.stop().await;
}
