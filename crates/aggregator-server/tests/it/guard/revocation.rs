//! A key that is revoked, or expires, ends what it has opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::MemoryStore;
use aggregator_server::Config;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Guarded, Key};
use crate::support::{event, in_time, until};

/// Beyond this, a revocation took too long. Less than `--heartbeat`, so that it is not the heartbeat that ends a stream.
const SOON: Duration = Duration::from_secs(5);

async fn stream(server: &Guarded, key: &Key) -> Response {
    let request = server.request(Method::GET, "/events/stream?topic=a.*").bearer_auth(&key.key);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    read_until(&mut response, "caught_up").await;
    response
}

async fn read_until(response: &mut Response, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = in_time("the stream goes on", response.chunk()).await.unwrap();
        read.push_str(std::str::from_utf8(&chunk.expect("the stream has ended")).unwrap());
    }
}

async fn ends(mut response: Response) {
    in_time("the stream ends", async { while let Ok(Some(_)) = response.chunk().await {} }).await;
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams_and_waits_and_no_others() {
    let server = Guarded::volatile().await;
    let (gone, kept) = (server.key(&["read:a.*"]).await, server.key(&["read:a.*", "publish:a.*"]).await);
    let (ended, mut goes_on) = (stream(&server, &gone).await, stream(&server, &kept).await);
    let poll = server.request(Method::GET, "/events?topic=a.*&after=latest&wait=55").bearer_auth(&gone.key);
    let poll = tokio::spawn(async move { poll.send().await.unwrap().status() });
    // It waits once nothing else is asked for. There is nothing to see of that but time.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    server.revoke(&gone).await;
    ends(ended).await;
    assert_eq!(in_time("the poll ends", poll).await.unwrap(), 401);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(server.get(&gone, "/events?topic=a.b").await.status, 401);
    assert_eq!(server.post(&kept, "/publish", &event("a.b", "1")).await.status, 202);
    read_until(&mut goes_on, "\"event_id\":\"1\"").await;
    drop(goes_on);
    server.stop().await;
}

#[tokio::test]
async fn a_key_is_good_until_its_time_and_so_are_its_streams() {
    let server = Guarded::volatile().await;
    let began = Instant::now();
    let key = server.key_for(&["read:a.*"], json!("2s")).await;
    let stream = stream(&server, &key).await;
    ends(stream).await;
    assert!(
        began.elapsed() >= Duration::from_secs(2) && began.elapsed() < SOON + SOON,
        "{:?}",
        began.elapsed()
    );
    let answer = server.get(&key, "/events?topic=a.b").await;
    answer.problem(401, "bad-credential");
    answer.tells(&["expired at"]);
    server.stop().await;
}

/// Lines of events under way are cut off with a last line, as after any other end.
#[tokio::test]
async fn a_revoked_key_gets_no_further_page_of_a_long_answer() {
    let server = Guarded::volatile().await;
    let all: Vec<_> = (0..60)
        .map(|id| json!({"topic": "a.b", "event_id": id.to_string(), "payload": "x".repeat(200_000)}))
        .collect();
    for some in all.chunks(20) {
        assert_eq!(server.request(Method::POST, "/publish").json(&some).send().await.unwrap().status(), 202);
    }
    let key = server.key(&["read:a.*"]).await;
    let request = server.request(Method::GET, "/events?topic=a.b&limit=1000000");
    let mut response =
        request.header("accept", "application/x-ndjson").bearer_auth(&key.key).send().await.unwrap();
    let mut read = response.chunk().await.unwrap().unwrap().to_vec();
    server.revoke(&key).await;
    while let Some(chunk) = response.chunk().await.unwrap() {
        read.extend(chunk);
    }
    let last = read.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
    let last: Value = serde_json::from_slice(last).unwrap();
    let lines = read.iter().filter(|byte| **byte == b'\n').count() - 1;
    assert!(lines < 60 && last["caught_up"] == false, "{lines} lines, {last}");
    server.stop().await;
}

/// Two nodes of one store, as far as keys go: a change by one reaches the other without a word between them.
#[tokio::test]
async fn a_key_is_known_and_revoked_on_every_node() {
    let store = Arc::new(MemoryStore::default());
    let one = Guarded::start(store.clone(), Config::default()).await;
    let other = Guarded::start(store, Config::default()).await;
    assert_eq!(other.anonymous("/events").await.status, 200);
    let key = one.key(&["read:a.*"]).await;
    until("the other node knows the key", async || other.get(&key, "/events?topic=a.b").await.status == 200)
        .await;
    assert_eq!(other.anonymous("/events").await.status, 401);
    let stream = stream(&other, &key).await;
    // What one node has sealed the other one opens.
    let next = one.get(&key, "/events?topic=a.b").await.json["next"].as_str().unwrap().to_owned();
    assert_eq!(other.get(&key, &format!("/events?topic=a.b&after={next}")).await.status, 200);
    let began = Instant::now();
    one.revoke(&key).await;
    ends(stream).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(other.get(&key, "/events?topic=a.b").await.status, 401);
    one.stop().await;
    other.stop().await;
}

/// A body may take long to arrive. What counts is who its sender is when it is there.
#[tokio::test]
async fn a_key_that_is_revoked_while_its_body_arrives_does_nothing_more() {
    let server = Guarded::volatile().await;
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let new = json!({"name": "x", "scopes": ["admin"]});
    let ids = json!({"ids": [{"topic": "a", "event_id": "1"}]});
    for (path, body) in [("/admin/keys", &new), ("/publish", &event("a", "1")), ("/lookup", &ids)] {
        let key = server.key(&["admin", "publish:*", "read:*"]).await;
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            key.key,
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(&[head.as_bytes(), &body.as_bytes()[..5]].concat()).await.unwrap();
        // The request is under way once the server has read its head. There is nothing to see of that but time.
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.revoke(&key).await;
        stream.write_all(&body.as_bytes()[5..]).await.unwrap();
        let mut answer = String::new();
        in_time("it answers", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
    }
    let reader = server.key(&["read:*", "admin"]).await;
    assert_eq!(server.get(&reader, "/events").await.json["count"], 0);
    assert_eq!(server.get(&reader, "/admin/keys").await.json["count"], 1);
    server.stop().await;
}

#[tokio::test]
async fn the_first_key_ends_what_nobody_needed_one_for() {
    let server = Guarded::volatile().await;
    let mut anonymous = server.request(Method::GET, "/events/stream?topic=a.*").send().await.unwrap();
    read_until(&mut anonymous, "caught_up").await;
    let poll = server.request(Method::GET, "/events?topic=a.*&after=latest&wait=55");
    let poll = tokio::spawn(async move { poll.send().await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.key(&["metrics"]).await;
    ends(anonymous).await;
    assert_eq!(in_time("the poll ends", poll).await.unwrap(), 401);
    server.stop().await;
}
