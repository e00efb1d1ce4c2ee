//! The store's files, deleted or copied behind the server's back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Answer, Process, events};

fn beside(path: &Path, suffix: &str) -> PathBuf {
    path.with_extension(format!("db{suffix}"))
}

async fn publish(server: &Process, ids: std::ops::Range<u32>) -> Answer {
    let request = crate::support::client().post(format!("{}/publish", server.url)).json(&events("t", ids));
    Answer::of(request.send().await.unwrap()).await
}

async fn get(server: &Process, path: &str) -> Response {
    crate::support::client().get(format!("{}{path}", server.url)).send().await.unwrap()
}

/// Runs the program until it ends; its exit code, and what it wrote.
fn run(args: &[&str]) -> (i32, String) {
    let output = Process::command(args).output().unwrap();
    let written = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(written).unwrap())
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_files_were_deleted() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Process::start(&path, &[]);
    assert_eq!(publish(&server, 0..10).await.status, 202);
    fs::remove_file(&path).unwrap();
    let answer = publish(&server, 10..20).await;
    answer.problem(503, "failed");
    let detail = answer.json["detail"].as_str().unwrap();
    assert!(detail.contains("events.db was deleted or renamed") && detail.contains("/proc/"), "{detail}");
    assert_eq!(get(&server, "/readyz").await.status(), 503);
}

#[tokio::test]
async fn a_server_whose_files_were_deleted_is_not_ready_although_nothing_is_published() {
    for suffix in ["", "-wal"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let server = Process::start(&path, &[]);
        assert_eq!(publish(&server, 0..10).await.status, 202);
        fs::remove_file(beside(&path, suffix)).unwrap();
        let not_ready = async { while get(&server, "/readyz").await.status() == 200 {} };
        tokio::time::timeout(Duration::from_secs(60), not_ready).await.expect("it is noticed");
        let answer: Value = get(&server, "/readyz").await.json().await.unwrap();
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("events.db{suffix} was deleted or renamed")), "{detail}");
    }
}

#[tokio::test]
async fn a_start_without_the_log_of_a_killed_server_is_refused_and_says_the_way_on() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = format!("sqlite:{}", path.display());
    let server = Process::start(&path, &[]);
    assert_eq!(publish(&server, 0..51).await.status, 202);
    server.kill();
    fs::remove_file(beside(&path, "-wal")).unwrap();

    let start = run(&["--listen", "127.0.0.1:0", "--store", &store]);
    for (code, message) in [start, run(&["check", "--store", &store])] {
        assert_eq!(code, 1, "{message}");
        assert!(message.contains("was not closed") && message.contains("is missing"), "{message}");
        assert!(!message.contains("sound"), "{message}");
    }
    let (_, message) = run(&["check", "--store", &store]);
    let way_on = message.split("aggregator-server ").last().unwrap().trim_end();
    assert_eq!(way_on, format!("check --accept-lost-log --store {store}"));
    let (code, message) = run(&way_on.split(' ').collect::<Vec<_>>());
    assert_eq!((code, message), (0, format!("{store} is sound: 0 events, 0 stubs\n")));
    let server = Process::start(&path, &[]);
    assert_eq!(publish(&server, 0..51).await.json["stored"], 51);
}

#[test]
fn a_lost_log_is_accepted_only_of_a_store_that_has_one() {
    let (code, message) = run(&["check", "--accept-lost-log", "--store", "memory:"]);
    assert!(code == 1 && message.contains("--accept-lost-log is for sqlite: stores"), "{message}");
}

#[test]
fn an_export_is_for_its_owner_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let out = directory.path().join("events.ndjson");
    drop(aggregator_core::SqliteStore::open(&path).unwrap());
    let store = format!("sqlite:{}", path.display());
    let (code, message) = run(&["export", "--store", &store, "--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{message}");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_check_of_what_is_not_there_makes_nothing() {
    let directory = TempDir::new().unwrap();
    let store = format!("sqlite:{}", directory.path().join("deep/nope.db").display());
    let (code, message) = run(&["check", "--store", &store]);
    assert!(code == 1 && message.contains("does not exist"), "{message}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
