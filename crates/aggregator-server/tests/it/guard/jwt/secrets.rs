//! No token is written anywhere, whatever becomes of it.

use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use super::issuer::{AUDIENCE, ISSUER, Issuer, SigningKey, claims, now};
use super::with;
use crate::guard::secrets::told_everywhere;
use crate::support::Process;

#[tokio::test]
async fn no_answer_no_line_of_the_log_and_no_file_has_a_token() {
    let (issuer, directory) = (Issuer::new(), TempDir::new().unwrap());
    let store = format!("sqlite:{}", directory.path().join("a.db").display());
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store, "--log", "trace"]);
    let path = issuer.path();
    command
        .args(["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-jwks", path.to_str().unwrap()])
        .args(["--log-queue-bytes", "64MiB"])
        .stderr(Stdio::from(std::fs::File::create(directory.path().join("log")).unwrap()));
    let server = Process::spawn(command);
    let good = claims(&["publish:*", "read:*", "metrics", "admin"]);
    let tokens = [
        issuer.key.token(&good),
        issuer.key.token(&with(good.clone(), "scope", "read:a.*")),
        issuer.key.token(&with(good.clone(), "exp", now() - 600)),
        issuer.key.token(&with(good.clone(), "exp", "soon")),
        issuer.key.token(&with(good.clone(), "scope", json!({"CanaryCanary": 1}))),
        issuer.key.sign(&with(issuer.key.header(), "kid", "CanaryCanary").to_string(), &good.to_string()),
        SigningKey::ec("first").token(&good),
        SigningKey::ec("other").token(&good),
    ];
    let credentials: Vec<_> = tokens.iter().map(String::as_str).collect();
    let told = told_everywhere(&server, &credentials).await;
    server.signal("-TERM");
    server.wait();
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(log.lines().count() > 100, "the log is as chatty as it can be");
    let mut places = vec![("an answer".to_owned(), told.into_bytes())];
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let path = file.unwrap().path();
        places.push((path.display().to_string(), std::fs::read(&path).unwrap()));
    }
    assert!(places.len() > 2, "{}", places.len());
    for (place, bytes) in &places {
        let has = |secret: &str| memchr::memmem::find(bytes, secret.as_bytes()).is_some();
        for token in &tokens {
            let mut parts = token.split('.').skip(1);
            assert!(!parts.any(has), "{place} has a part of a token");
        }
        assert!(!has("CanaryCanary"), "{place} has what a token says");
    }
}
