//! Erasures whose client leaves, or whose server ends.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{SECRET, command, files_with, run, secret, stop};
use crate::support::{Process, in_time};

/// A store that takes a while to be looked through: secrets, and much beside them.
async fn fill(server: &Process, secrets: u32) {
    for first in 0..20_u32 {
        let padding = "p".repeat(2_000);
        let batch: Vec<_> = (first * 500..(first + 1) * 500)
            .map(|id| json!({"topic": "other", "event_id": id.to_string(), "payload": padding}))
            .collect();
        assert_eq!(server.publish(&json!(batch)).await["stored"], 500);
    }
    let batch: Vec<_> = (0..secrets).map(|id| secret(&id.to_string())).collect();
    assert_eq!(server.publish(&json!(batch)).await["stored"], secrets);
}

async fn erase(store: &Path, id: u32) -> (i32, String) {
    let (code, out, error) = run(command(store, &["erase", "t", &id.to_string()])).await;
    (code, out + &error)
}

/// Until the one before was given up.
async fn erase_again(store: &Path, id: u32) {
    for _ in 0..1_000 {
        let (code, said) = erase(store, id).await;
        if code == 0 {
            return;
        }
        assert!(said.contains("payloads are being erased"), "{said}");
    }
    panic!("the erasure is never given up");
}

#[tokio::test]
async fn an_erasure_whose_server_is_killed_is_complete_once_it_is_repeated() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let mut server = Process::start(&store, &[]);
    fill(&server, 8).await;
    let (mut cut_off, mut whole) = (0, 0);
    for id in 0..8_u32 {
        let mut erasing = command(&store, &["erase", "t", &id.to_string()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(id * id * 8))).await;
        server.kill();
        let ended = tokio::task::spawn_blocking(move || erasing.wait().unwrap()).await.unwrap();
        if ended.success() {
            whole += 1;
        } else {
            cut_off += 1;
        }
        server = Process::start(&store, &[]);
        let (code, said) = erase(&store, id).await;
        assert_eq!(code, 0, "{said}");
        let answer = server.publish(&secret(&id.to_string())).await;
        assert_eq!(answer["results"][0]["outcome"], "duplicate", "{answer}");
    }
    assert!(cut_off > 0, "{cut_off} killed in time, {whole} too late");
    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
    stop(server).await;
    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
    let (code, _, said) = run(command(&store, &["check"])).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn an_erasure_is_given_up_when_its_client_leaves_or_the_server_ends_and_says_so() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let server = Process::start(&store, &[]);
    fill(&server, 3).await;
    let begin = async |id: u32| {
        let stream = UnixStream::connect(directory.path().join("events.db-admin")).await.unwrap();
        let mut stream = BufReader::new(stream);
        let body = json!({"identities": [{"topic": "t", "event_id": id.to_string()}]}).to_string();
        let head = "POST /admin/erase HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    drop(begin(0).await);
    erase_again(&store, 1).await;
    erase_again(&store, 0).await;

    let mut last = begin(2).await;
    let mut answer = String::new();
    while !answer.contains("\"state\"") {
        in_time("a line", last.read_line(&mut answer)).await.unwrap();
    }
    server.signal("-TERM");
    while in_time("the end of the answer", last.read_line(&mut answer)).await.unwrap() > 0 {}
    assert!(tokio::task::spawn_blocking(move || server.wait()).await.unwrap().success());
    // The server may have been done before it was asked to end.
    let given_up = answer.contains("\"state\":\"failed\"") && answer.contains("erase them again");
    assert!(given_up || answer.contains("\"state\":\"done\""), "{answer}");
    let (_, out, _) = run(command(&store, &["key", "audit"])).await;
    assert!(!out.contains("not ended"), "{out}");
    let (code, said) = erase(&store, 2).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
}
