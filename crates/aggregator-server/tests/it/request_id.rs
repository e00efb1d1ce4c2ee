//! Every answer, whichever layer or route gave it, carries the id of its request.

use std::process::Stdio;
use std::sync::Arc;

use aggregator_core::MemoryStore;
use aggregator_server::Config;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::{Answer, Process, Server, event, in_time};

/// The value of `x-request-id`.
fn id(answer: &Answer) -> &str {
    answer.headers["x-request-id"].to_str().unwrap()
}

/// A ULID, in Crockford's base 32.
fn is_new(id: &str) -> bool {
    id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

async fn send(server: &Server, method: Method, path: &str, body: &str, ids: &[&[u8]]) -> Answer {
    let mut request = server
        .client
        .request(method, format!("{}{path}", server.url))
        .header("content-type", "application/json");
    for id in ids {
        request = request.header("x-request-id", *id);
    }
    Answer::of(request.body(body.to_owned()).send().await.unwrap()).await
}

#[tokio::test]
async fn every_answer_has_the_id_that_its_client_chose() {
    let server = Server::volatile().await;
    let good = event("t", 1).to_string();
    let lookup = json!({"ids": [{"topic": "t", "event_id": "1"}]}).to_string();
    for (method, path, body, status) in [
        (Method::POST, "/publish", good.as_str(), 202),
        (Method::POST, "/publish?ack=queued", &good, 202),
        (Method::POST, "/publish", "{", 400),
        (Method::POST, "/publish", "{}", 422),
        (Method::POST, "/publish?colour=red", &good, 400),
        (Method::GET, "/publish", "", 405),
        (Method::GET, "/events", "", 200),
        (Method::GET, "/events?limit=0", "", 400),
        (Method::POST, "/lookup", &lookup, 200),
        (Method::GET, "/topics", "", 200),
        (Method::GET, "/stats", "", 200),
        (Method::DELETE, "/stats", "", 405),
        (Method::GET, "/", "", 200),
        (Method::GET, "/livez", "", 200),
        (Method::GET, "/readyz", "", 200),
        (Method::GET, "/nowhere", "", 404),
    ] {
        // `Answer::of` asserts that a problem has it in its body, too.
        let answer = send(&server, method, path, body, &[br#"me/1"\!~"#]).await;
        assert_eq!((answer.status.as_u16(), id(&answer)), (status, r#"me/1"\!~"#), "{path}");
    }
    let longest = "x".repeat(128);
    assert_eq!(id(&send(&server, Method::GET, "/livez", "", &[longest.as_bytes()]).await), longest);
}

#[tokio::test]
async fn a_request_without_a_usable_id_gets_a_new_one() {
    let server = Server::volatile().await;
    let too_long = [b'x'; 129];
    let none: &[&[u8]] = &[];
    let mut seen = Vec::new();
    for ids in [none, none, &[b""], &[b"a b"], &["ä".as_bytes()], &[&too_long], &[b"a", b"a"]] {
        for (method, path) in [(Method::POST, "/publish"), (Method::GET, "/nowhere")] {
            let answer = send(&server, method, path, &event("t", 1).to_string(), ids).await;
            assert!(is_new(id(&answer)), "{ids:?}: {}", id(&answer));
            seen.push(id(&answer).to_owned());
        }
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "no id is given twice");
}

#[tokio::test]
async fn a_request_that_is_refused_before_its_route_has_one_too() {
    let server = Server::volatile().await;
    let answer = server.raw(b"GET /livez HTTP/1.1\r\nx-request-id: mine\r\n\r\n").await;
    assert!(answer.contains("bad-host") && answer.contains("\r\nx-request-id: mine\r\n"), "{answer}");
    assert!(answer.contains(r#""request_id":"mine""#), "{answer}");
}

#[tokio::test]
async fn a_connection_over_the_limit_has_one_too() {
    let config = Config { max_connections: 1.try_into().unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    // Its connection stays open, and takes the only place.
    server.get("/livez").await;
    let mut refused = TcpStream::connect(server.address()).await.unwrap();
    let mut answer = String::new();
    in_time("an answer", refused.read_to_string(&mut answer)).await.unwrap();
    let (_, rest) = answer.split_once("\r\nx-request-id: ").unwrap();
    let (id, _) = rest.split_once("\r\n").unwrap();
    assert!(is_new(id) && answer.contains(&format!(r#""request_id":"{id}""#)), "{answer}");
}

#[tokio::test]
async fn the_log_names_the_request_that_it_is_about() {
    let mut command = Process::command(&[
        "--listen",
        "127.0.0.1:0",
        "--store",
        "memory:",
        "--log",
        "aggregator_server=debug",
    ]);
    command.stderr(Stdio::piped());
    let process = Process::spawn(command);
    let client = crate::support::client();
    let request = client.get(format!("{}/nowhere", process.url)).header("x-request-id", "mine-1");
    assert_eq!(request.send().await.unwrap().status(), 404);
    let log = process.stop_and_read_stderr();
    let line = log.lines().find(|line| line.contains(r#""request_id":"mine-1""#)).expect(&log);
    assert!(line.contains(r#""status":404"#), "{line}");
}

#[tokio::test]
async fn the_log_names_the_request_whose_stream_it_ends() {
    let directory = TempDir::new().unwrap();
    let store = format!("sqlite:{}", directory.path().join("a.db").display());
    let key = |args: &[&str]| {
        let output = Process::command(&["key"]).args(args).args(["--store", &store]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let made = key(&["new", "--name", "short", "--scope", "read:*"]);
    let mut command =
        Process::command(&["--listen", "127.0.0.1:0", "--store", &store, "--log", "aggregator_server=debug"]);
    command.stderr(Stdio::piped());
    let mut process = Process::spawn(command);
    let request = crate::support::client().get(format!("{}/events/stream", process.url));
    let mut stream =
        request.header("x-request-id", "mine-1").bearer_auth(made.trim_end()).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    key(&["revoke", &made[4..16]]);
    in_time("the stream ends", async { while let Ok(Some(_)) = stream.chunk().await {} }).await;
    let line = process.line_of_stderr("a stream of events ends");
    assert!(line.contains(r#""request_id":"mine-1""#), "{line}");
}
