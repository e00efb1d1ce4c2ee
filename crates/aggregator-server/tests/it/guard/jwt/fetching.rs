//! Keys at a URL: what a fetch costs, and what becomes of one that fails.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::Value;
use tempfile::TempDir;

use super::issuer::{AUDIENCE, ISSUER, SigningKey, claims, jwks};
use super::jwks_server::{JwksServer, Reply};
use super::{config, with};
use crate::guard::Guarded;
use crate::support::{Process, until};
use crate::tls::pki::Authority;

/// As long as nothing is fetched after a fetch.
const REST: Duration = Duration::from_secs(10);
/// As long as a request may wait for a fetch, and more.
const PATIENCE: Duration = Duration::from_secs(6);

fn token(key: &SigningKey) -> String {
    key.token(&claims(&["read:a.*"]))
}

#[tokio::test]
async fn ten_thousand_tokens_with_unknown_keys_are_one_fetch() {
    const TOKENS: usize = 10_000;
    let key = SigningKey::ec("first");
    let keys = JwksServer::start(Reply::Keys(jwks(&[&key]))).await;
    let server = Guarded::of(config(keys.location())).await;
    let began = Instant::now();
    assert_eq!(server.status(&token(&key)).await, 200);
    assert_eq!(keys.asked(), 1);
    let claims = claims(&["read:a.*"]).to_string();
    let storm = async |round: usize, count: usize| {
        let unknown = |number: usize| {
            let header = with(key.header(), "kid", format!("{round}-{number}"));
            key.sign(&header.to_string(), &claims)
        };
        let asking = futures_util::stream::iter(0..count).map(|number| {
            let token = unknown(number);
            let server = &server;
            async move { server.status(&token).await }
        });
        let refused: Vec<u16> = asking.buffer_unordered(50).collect().await;
        assert!(refused.iter().all(|status| *status == 401));
    };
    storm(0, TOKENS).await;
    // Right after a fetch there is none, however many ask; on a slow machine they take longer than that.
    let most = 1 + usize::try_from(began.elapsed().as_secs() / REST.as_secs()).unwrap();
    assert!((1..=most).contains(&keys.asked()), "{} fetches in {:?}", keys.asked(), began.elapsed());
    // When it is over, one of them is enough for a fetch, and many are no more than that.
    let before = keys.asked();
    until("there is a fetch", async || {
        storm(1, 50).await;
        keys.asked() > before
    })
    .await;
    storm(2, 50).await;
    assert_eq!(keys.asked(), before + 1);
    assert_eq!(server.status(&token(&key)).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn before_the_keys_were_ever_fetched_tokens_are_asked_to_come_again_and_keys_are_good() {
    let key = SigningKey::ec("first");
    for reply in [
        Reply::Nothing,
        Reply::Slowly,
        Reply::Endless,
        Reply::Status("500 Internal Server Error", String::new()),
        Reply::Keys("{\"keys\":{}}".to_owned()),
    ] {
        let keys = JwksServer::start(reply).await;
        let server = Guarded::of(config(keys.location())).await;
        let began = Instant::now();
        let answer = server.answer(&token(&key)).await;
        answer.problem(503, "issuer-keys-unknown");
        answer.tells(&["--jwt-jwks", "agg_"]);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert_eq!(server.anonymous("/readyz").await.status, 200);
        let made = server.key_for(&["read:a.*"], Value::Null).await;
        assert_eq!(server.status(&made.key).await, 200);
        // A token that could never be good is told so at once.
        assert_eq!(server.status("a.b.c").await, 401);
        // What the kernel holds for both sides of the connection included.
        assert!(keys.asked() >= 1 && keys.taken() < 32 << 20, "{} bytes", keys.taken());
        server.stop().await;
    }
}

/// Whom the server trusts is whom its system trusts, which an environment variable says here.
#[tokio::test]
async fn keys_are_fetched_over_tls_from_a_server_that_the_system_trusts() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let key = SigningKey::ec("first");
    let keys = JwksServer::secure(&authority.server(), Reply::Keys(jwks(&[&key]))).await;
    let roots = authority.write(directory.path(), "roots.pem");
    let strangers = Authority::new("b").write(directory.path(), "strangers.pem");
    for (roots, status) in [(strangers, 503), (roots, 200)] {
        let url = keys.url();
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:"]);
        command.args(["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-jwks", &url]);
        command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR").stderr(Stdio::piped());
        let server = Process::spawn(command);
        let request = crate::support::client().get(format!("{}/events?topic=a.b", server.url));
        let answer = request.bearer_auth(token(&key)).send().await.unwrap();
        let log = server.stop_and_read_stderr();
        assert_eq!(answer.status(), status, "{log}");
        assert_eq!(log.contains("UnknownIssuer"), status == 503, "{log}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_anywhere() {
    let key = SigningKey::ec("first");
    let elsewhere = JwksServer::start(Reply::Keys(jwks(&[&key]))).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let keys =
            JwksServer::start(Reply::Status(status, format!("location: {}\r\n", elsewhere.url()))).await;
        let server = Guarded::of(config(keys.location())).await;
        keys.until_asked(1).await;
        server.answer(&token(&key)).await.problem(503, "issuer-keys-unknown");
        server.stop().await;
    }
    assert_eq!(elsewhere.asked(), 0);
}

#[tokio::test]
async fn keys_that_were_fetched_once_stay_when_they_cannot_be_fetched_again() {
    let key = SigningKey::ec("first");
    let keys = JwksServer::start(Reply::Status("503 Service Unavailable", String::new())).await;
    let server = Guarded::of(config(keys.location())).await;
    server.answer(&token(&key)).await.problem(503, "issuer-keys-unknown");
    keys.set(Reply::Keys(jwks(&[&key])));
    until("the keys are known", async || server.status(&token(&key)).await == 200).await;
    let fetched = keys.asked();
    keys.set(Reply::Nothing);
    let unknown = key.sign(&with(key.header(), "kid", "x").to_string(), &claims(&["read:a.*"]).to_string());
    until("it is asked again", async || {
        server.status(&unknown).await;
        keys.asked() > fetched
    })
    .await;
    // That one still waits for its answer.
    let began = Instant::now();
    assert_eq!(server.status(&token(&key)).await, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Its key may be a new one, so it is not refused for good.
    server.answer(&unknown).await.problem(503, "issuer-keys-unknown");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    // A fetch that hangs is given up, and the next one brings what there is.
    let second = SigningKey::ed("second");
    keys.set(Reply::Keys(jwks(&[&second])));
    until("the new keys are known", async || server.status(&token(&second)).await == 200).await;
    assert_eq!(server.status(&token(&key)).await, 401);
    server.stop().await;
}
