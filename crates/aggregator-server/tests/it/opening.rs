//! A start that has to wait for its store.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::signal;
use crate::support::{Answer, Process, refused, until};

/// Ends with the test.
struct Starting(Child);

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn ask(port: u16, path: &str) -> (u16, Value) {
    match crate::support::client().get(format!("http://127.0.0.1:{port}{path}")).send().await {
        Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)),
        Err(_) => (0, Value::Null),
    }
}

fn start(store: &str, port: u16) -> Starting {
    let listen = format!("127.0.0.1:{port}");
    let mut command = Process::command(&["--listen", &listen, "--store", store, "--lock-wait", "50s"]);
    Starting(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
}

#[tokio::test]
async fn a_start_answers_while_it_waits_for_the_store_that_another_process_has() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    let store = format!("sqlite:{}", path.display());
    let first = Process::start(&path, &[]);
    let port = free_port();
    let mut second = start(&store, port);
    until("it lives", async || ask(port, "/livez").await.0 == 200).await;
    for path in ["/readyz", "/health", "/events", "/publish", "/nothing"] {
        let (status, problem) = ask(port, path).await;
        assert_eq!((status, &problem["type"]), (503, &"urn:aggregator:problem:opening".into()), "{path}");
        assert_eq!(problem["retryable"], true);
    }
    for path in ["/livez", "/readyz"] {
        let request = crate::support::client().get(format!("http://127.0.0.1:{port}{path}"));
        let answer = Answer::of(request.header("x-request-id", "mine").send().await.unwrap()).await;
        assert_eq!(answer.headers["x-request-id"], "mine", "{path}");
    }
    first.signal("-TERM");
    assert!(first.wait().success());
    let mut line = String::new();
    BufReader::new(second.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on "), "{line}");
    until("it is ready", async || ask(port, "/readyz").await.0 == 200).await;
    let socket = directory.path().join("a.db-admin");
    assert!(socket.exists(), "the second server has a socket of its own");
}

#[tokio::test]
async fn a_start_that_waits_can_be_ended() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    let _first = Process::start(&path, &[]);
    let port = free_port();
    let mut second = start(&format!("sqlite:{}", path.display()), port);
    until("it lives", async || ask(port, "/livez").await.0 == 200).await;
    signal::send("-TERM", &second.0);
    assert!(second.0.wait().unwrap().success());
}

#[test]
fn a_start_that_may_not_wait_is_refused_at_once() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    let store = format!("sqlite:{}", path.display());
    let _first = Process::start(&path, &[]);
    let began = Instant::now();
    let (code, told) = refused(&["--listen", "127.0.0.1:0", "--store", &store]);
    assert!(code == 1 && told.contains("is open in another process"), "{told}");
    let (code, _) = refused(&["--listen", "127.0.0.1:0", "--store", &store, "--lock-wait", "1s"]);
    assert!(code == 1 && began.elapsed().as_millis() >= 800, "{:?}", began.elapsed());
    // What waiting cannot mend is not waited for.
    std::fs::write(directory.path().join("b.db"), "dear diary").unwrap();
    let store = format!("sqlite:{}", directory.path().join("b.db").display());
    let began = Instant::now();
    let (code, told) = refused(&["--listen", "127.0.0.1:0", "--store", &store, "--lock-wait", "50s"]);
    assert!(code == 1 && began.elapsed().as_secs() < 40, "{told}");
}
