//! Tokens that are good, and what they let their subject do.

use std::process::Stdio;
use std::time::{Duration, Instant};

use aggregator_server::config::JwtAlgorithm;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use super::issuer::{AUDIENCE, ISSUER, Issuer, SigningKey, claims, now};
use super::{as_key, config, with, without};
use crate::guard::{Guarded, learning, table};
use crate::support::{Process, event, in_time};

/// As long as the clocks of issuer and server may be apart.
const LEEWAY_SECONDS: u64 = 30;

#[tokio::test]
async fn a_token_is_good_whatever_the_issuer_signs_with() {
    let keys = [
        Some(SigningKey::ec("a")),
        Some(SigningKey::ed("a")),
        SigningKey::rsa("a", "RS256"),
        SigningKey::rsa("a", "PS256"),
    ];
    for key in keys.into_iter().flatten() {
        let issuer = Issuer::with_key(key);
        let mut config = config(issuer.location());
        config.jwt_algorithms.push("PS256".parse::<JwtAlgorithm>().unwrap());
        let server = Guarded::of(config).await;
        let algorithm = issuer.key.algorithm;
        let token = issuer.token(&["read:a.*"]);
        for _ in 0..2 {
            assert_eq!(server.status(&token).await, 200, "{algorithm}");
        }
        let good = claims(&["read:a.*"]);
        for other in [
            with(good.clone(), "aud", json!(["other", AUDIENCE])),
            with(good.clone(), "exp", now() - LEEWAY_SECONDS + 10),
            with(good.clone(), "nbf", now() + LEEWAY_SECONDS - 10),
            with(good.clone(), "scope", json!(["openid", "read:a.*"])),
            with(good.clone(), "iat", "whenever"),
        ] {
            assert_eq!(server.status(&issuer.key.token(&other)).await, 200, "{algorithm}: {other}");
        }
        // The only key that fits needs no name.
        let header = without(issuer.key.header(), "kid");
        assert_eq!(
            server.status(&issuer.key.sign(&header.to_string(), &good.to_string())).await,
            200,
            "{algorithm}"
        );
        server.stop().await;
    }
}

#[tokio::test]
async fn a_subject_reads_what_its_scopes_say_and_no_more() {
    table::reads_what_is_granted(Guarded::of_issuer().await).await;
}

#[tokio::test]
async fn a_subject_publishes_what_its_scopes_say_and_no_more() {
    table::publishes_what_is_granted(Guarded::of_issuer().await).await;
}

#[tokio::test]
async fn a_limited_subject_is_told_the_same_whatever_is_in_other_topics() {
    learning::is_told_the_same(Guarded::of_issuer().await).await;
}

#[tokio::test]
async fn a_token_without_scopes_of_this_server_may_do_nothing() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    let none = claims(&["openid", "read:", "Admin", "publish"]);
    for claims in [without(none.clone(), "scope"), with(none.clone(), "scope", json!([])), none] {
        let key = as_key(issuer.key.token(&claims));
        for (method, path) in [
            (Method::GET, "/events?topic=a"),
            (Method::POST, "/publish"),
            (Method::GET, "/topics"),
            (Method::GET, "/stats"),
            (Method::GET, "/admin/keys"),
        ] {
            let request = server.request(method, path).bearer_auth(&key.key).json(&event("a", "1"));
            assert_eq!(request.send().await.unwrap().status(), 403, "{path}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_claim_with_the_scopes_has_the_name_that_the_operator_says() {
    let issuer = Issuer::new();
    let server = Guarded::of(aggregator_server::Config {
        jwt_scopes_claim: "roles".into(),
        ..config(issuer.location())
    })
    .await;
    let token = issuer.key.token(&with(claims(&["admin"]), "roles", json!(["read:a.b"])));
    assert_eq!(server.status(&token).await, 200);
    assert_eq!(server.get(&as_key(token), "/admin/keys").await.status, 403);
    server.stop().await;
}

#[tokio::test]
async fn where_tokens_are_taken_nobody_is_anonymous_and_keys_are_good_as_well() {
    let server = Guarded::of_issuer().await;
    let answer = server.anonymous("/events").await;
    answer.problem(401, "no-credential");
    answer.tells(&["token"]);
    for nonsense in ["agg_", "agg_x_y", "x", "", "e30"] {
        assert_eq!(server.status(nonsense).await, 401, "{nonsense}");
    }
    let key = server.key_for(&["read:a.*"], json!(null)).await;
    assert_eq!(server.status(&key.key).await, 200);
    server.revoke(&key).await;
    assert_eq!(server.status(&key.key).await, 401);
    assert_eq!(server.anonymous("/health").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_subject_that_manages_keys_is_named_in_the_audit() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    let admin = as_key(issuer.key.token(&with(claims(&["admin"]), "sub", "a\nb\u{202e}\"")));
    let new = json!({"name": "x", "scopes": ["metrics"]});
    assert_eq!(server.post(&admin, "/admin/keys", &new).await.status, 201);
    let audit = server.get(&admin, "/admin/audit").await;
    assert_eq!(audit.json["changes"][0]["by"], "jwt:a\\nb\\u{202e}\\\"");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    // Its end is in the past, and the leeway is not over yet.
    let claims = with(claims(&["read:a.*"]), "exp", now() - LEEWAY_SECONDS + 3);
    let token = issuer.key.token(&claims);
    let began = Instant::now();
    let request = server.request(Method::GET, "/events/stream?topic=a.*").bearer_auth(&token);
    let mut stream = request.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    in_time("the stream ends", async { while let Ok(Some(_)) = stream.chunk().await {} }).await;
    // Less than a heartbeat.
    assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < Duration::from_secs(10));
    let answer = server.answer(&token).await;
    answer.problem(401, "bad-credential");
    answer.tells(&["expired"]);
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_token_goes_on_with_its_cursor_and_no_other_subject_can() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    let writer = server.key(&["publish:*"]).await;
    assert_eq!(server.post(&writer, "/publish", &crate::support::events("a.b", 0..10)).await.status, 202);
    let me = claims(&["read:a.*"]);
    let page = server.get(&as_key(issuer.key.token(&me)), "/events?topic=a.b&limit=4").await;
    let next = page.json["next"].as_str().unwrap().to_owned();
    let path = format!("/events?topic=a.b&after={next}");
    let renewed = with(with(me.clone(), "exp", now() + 1_200), "scope", "read:a.* read:c metrics");
    assert_eq!(server.get(&as_key(issuer.key.token(&renewed)), &path).await.json["count"], 6);
    let whole = with(me.clone(), "scope", "read:*");
    let other = with(me, "sub", "you");
    let key = server.key_for(&["read:a.*"], json!(null)).await;
    for stranger in [as_key(issuer.key.token(&other)), as_key(issuer.key.token(&whole)), key] {
        server.get(&stranger, &path).await.problem(400, "bad-parameter");
    }
    server.stop().await;
}

#[tokio::test]
async fn beyond_this_machine_tokens_get_in_before_there_is_a_key() {
    let (issuer, directory) = (Issuer::new(), TempDir::new().unwrap());
    let (store, jwks) = (format!("sqlite:{}", directory.path().join("a.db").display()), issuer.path());
    let mut command = Process::command(&["--listen", "0.0.0.0:0", "--store", &store, "--jwt-issuer", ISSUER]);
    command.args(["--jwt-audience", AUDIENCE, "--jwt-jwks", jwks.to_str().unwrap()]).stderr(Stdio::piped());
    let mut server = Process::spawn(command);
    server.url = server.url.replace("0.0.0.0", "127.0.0.1");
    let request = crate::support::client().post(format!("{}/publish", server.url)).json(&event("a", "1"));
    let token = issuer.token(&["publish:a"]);
    assert_eq!(request.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert_eq!(request.bearer_auth(&token).send().await.unwrap().status(), 202);
    let log = server.stop_and_read_stderr();
    assert!(log.contains(ISSUER) && !log.contains("no key yet"), "{log}");
}
