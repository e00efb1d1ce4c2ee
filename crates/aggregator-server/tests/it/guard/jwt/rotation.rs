//! Keys of the issuer that come and go.

use std::time::Duration;

use reqwest::Method;

use super::issuer::{Issuer, SigningKey, claims, jwks};
use super::jwks_server::{JwksServer, Reply};
use super::{config, with};
use crate::guard::Guarded;
use crate::support::{in_time, until};

fn token(key: &SigningKey) -> String {
    key.token(&claims(&["read:a.*"]))
}

#[tokio::test]
async fn a_file_that_changes_is_read_again_and_a_bad_one_is_not_used() {
    let issuer = Issuer::new();
    let (first, second) = (&issuer.key, SigningKey::ed("second"));
    let server = Guarded::of(config(issuer.location())).await;
    assert_eq!((server.status(&token(first)).await, server.status(&token(&second)).await), (200, 401));
    issuer.publish(&jwks(&[first, &second]));
    until("the second key is known", async || server.status(&token(&second)).await == 200).await;
    assert_eq!(server.status(&token(first)).await, 200);
    for bad in ["", "{", "<html>", "{\"keys\":1}"] {
        issuer.publish(bad);
        // It is looked at every second. There is nothing to see of a file that is not used but time.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!((server.status(&token(first)).await, server.status(&token(&second)).await), (200, 200));
    }
    std::fs::remove_file(issuer.path()).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(server.status(&token(&second)).await, 200);
    issuer.publish(&jwks(&[&second]));
    until("the first key is gone", async || server.status(&token(first)).await == 401).await;
    assert_eq!(server.status(&token(&second)).await, 200);
    // Nobody's.
    issuer.publish(&jwks(&[]));
    until("the second key is gone", async || server.status(&token(&second)).await == 401).await;
    server.stop().await;
}

/// The server remembers whom a token speaks for, and long answers go on for hours.
#[tokio::test]
async fn a_key_that_is_taken_back_ends_what_its_tokens_have_opened() {
    let issuer = Issuer::new();
    let server = Guarded::of(config(issuer.location())).await;
    let (gone, kept) = (token(&issuer.key), SigningKey::ec("kept"));
    issuer.publish(&jwks(&[&issuer.key, &kept]));
    until("the other key is known", async || server.status(&token(&kept)).await == 200).await;
    let open = async |token: &str| {
        let request = server.request(Method::GET, "/events/stream?topic=a.*").bearer_auth(token);
        let stream = request.send().await.unwrap();
        assert_eq!(stream.status(), 200);
        stream
    };
    let (mut ended, mut goes_on) = (open(&gone).await, open(&token(&kept)).await);
    // The same name, and another key.
    let new = SigningKey::ec("first");
    issuer.publish(&jwks(&[&new, &kept]));
    let began = std::time::Instant::now();
    in_time("the stream ends", async { while let Ok(Some(_)) = ended.chunk().await {} }).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!((server.status(&gone).await, server.status(&token(&new)).await), (401, 200));
    let key = server.key_for(&["publish:a.*"], serde_json::Value::Null).await;
    server.post(&key, "/publish", &crate::support::event("a.b", "1")).await;
    let mut read = String::new();
    while !read.contains("\"event_id\":\"1\"") {
        let chunk = in_time("the stream goes on", goes_on.chunk()).await.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    drop(goes_on);
    server.stop().await;
}

#[tokio::test]
async fn a_new_key_at_a_url_is_fetched_when_a_token_names_it() {
    let (first, second) = (SigningKey::ec("first"), SigningKey::ec("second"));
    let keys = JwksServer::start(Reply::Keys(jwks(&[&first]))).await;
    let server = Guarded::of(config(keys.location())).await;
    // The first one waits for the fetch at the start.
    assert_eq!(server.status(&token(&first)).await, 200);
    keys.set(Reply::Keys(jwks(&[&second])));
    let renamed =
        first.sign(&with(first.header(), "kid", "second").to_string(), &claims(&["read:a.*"]).to_string());
    assert_eq!(server.status(&renamed).await, 401);
    until("the second key is known", async || server.status(&token(&second)).await == 200).await;
    assert_eq!(server.status(&token(&first)).await, 401);
    assert_eq!(keys.asked(), 2);
    server.stop().await;
}
