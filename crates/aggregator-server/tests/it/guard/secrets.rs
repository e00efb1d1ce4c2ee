//! No secret is written anywhere: a canary goes every way that there is, and is looked for in all that comes out.

use std::process::Stdio;

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::support::Process;

const ROUTES: [(Method, &str); 21] = [
    (Method::POST, "/publish"),
    (Method::GET, "/events"),
    (Method::GET, "/events?after=x"),
    (Method::GET, "/events/stream?topic=a&after=x"),
    (Method::POST, "/lookup"),
    (Method::GET, "/topics"),
    (Method::GET, "/stats"),
    (Method::GET, "/stats/series"),
    (Method::GET, "/insight?topic=a"),
    (Method::GET, "/duplicates?topic=a"),
    (Method::GET, "/retention"),
    (Method::GET, "/metrics"),
    (Method::GET, "/admin/keys"),
    (Method::POST, "/admin/keys"),
    (Method::DELETE, "/admin/keys/0123456789ab"),
    (Method::POST, "/admin/backup"),
    (Method::POST, "/admin/erase"),
    (Method::POST, "/admin/release"),
    (Method::GET, "/admin/audit"),
    (Method::GET, "/health"),
    (Method::PATCH, "/nothing"),
];

/// All that is answered to these credentials, wherever they can be shown, in their right form and in wrong ones.
pub(super) async fn told_everywhere(server: &Process, credentials: &[&str]) -> String {
    let client = crate::support::client();
    let mut told = String::new();
    for (method, path) in ROUTES {
        for credential in credentials {
            for header in
                [format!("Bearer {credential}"), format!("Basic {credential}"), (*credential).to_owned()]
            {
                let request = client.request(method.clone(), format!("{}{path}", server.url));
                let request = request.header("authorization", header).header("accept", "application/json");
                let answer = request.json(&json!({"topic": "a", "nonsense": 1})).send().await.unwrap();
                told.push_str(&format!("{} {:?}\n", answer.status(), answer.headers()));
                if answer.headers()["content-type"] != "text/event-stream" {
                    told.push_str(&answer.text().await.unwrap());
                }
            }
        }
    }
    told
}

#[tokio::test]
async fn no_answer_and_no_line_of_the_log_has_a_secret() {
    let directory = TempDir::new().unwrap();
    let store = format!("sqlite:{}", directory.path().join("a.db").display());
    let key = |scopes: &[&str]| {
        let mut command = Process::command(&["key", "new", "--name", "canary", "--store", &store]);
        for scope in scopes {
            command.args(["--scope", scope]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let keys = [key(&["publish:*", "read:*", "metrics", "admin"]), key(&["read:a.*"])];
    // One that was never good, and is not to be repeated either.
    let unknown = format!("agg_{}_{}", "z".repeat(12), "Canary".repeat(8).split_at(43).0);
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store, "--log", "trace"]);
    command
        .args(["--log-queue-bytes", "64MiB"])
        .stderr(Stdio::from(std::fs::File::create(directory.path().join("log")).unwrap()));
    let server = Process::spawn(command);
    let credentials: Vec<_> = keys.iter().chain([&unknown]).map(String::as_str).collect();
    let told = told_everywhere(&server, &credentials).await;
    server.signal("-TERM");
    server.wait();
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(log.contains("/admin/keys") || log.lines().count() > 100, "the log is as chatty as it can be");
    let made = key(&["metrics"]);
    for key in keys.iter().chain([&unknown]) {
        let secret = key.rsplit('_').next().unwrap();
        assert!(!told.contains(secret), "an answer has a secret");
        assert!(!log.contains(secret), "the log has a secret");
    }
    assert_ne!(made, keys[0]);
    // Nor has the store, whose free pages have what was ever written to it.
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for key in &keys {
            let secret = key.rsplit('_').next().unwrap().as_bytes();
            assert!(memchr::memmem::find(&bytes, secret).is_none(), "{} has a secret", path.display());
        }
    }
}
