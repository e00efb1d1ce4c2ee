//! What one read may take from the others: a place, for a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator_core::store::{OnReadSteps, TestHooks};
use aggregator_core::{SqliteOptions, SqliteStore};
use aggregator_server::Config;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Answer, Server, events};

/// Looks at all of the events, and finds none.
const LONG_READ: &str = "/events?topic=t&source=nobody";

/// A server whose reads call `on_read_steps` a few hundred times if they are long, and hardly ever if they are short.
async fn server(directory: &TempDir, config: Config, on_read_steps: OnReadSteps) -> Server {
    let test_hooks = TestHooks { on_read_steps: Some(on_read_steps), ..TestHooks::default() }.into();
    let options = SqliteOptions { readers: config.readers, test_hooks, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
    let server = Server::start(Arc::new(store), config).await;
    assert_eq!(server.publish(&events("t", 0..8_000)).await.status, 202);
    server
}

fn assert_late(answer: &Answer, detail: &str) {
    answer.problem(503, "read-timeout");
    assert!(answer.json["detail"].as_str().unwrap().contains(detail), "{}", answer.json);
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_ended_and_others_are_served_meanwhile() {
    let directory = TempDir::new().unwrap();
    let slow = Arc::<AtomicBool>::default();
    let on_read_steps = {
        let slow = Arc::clone(&slow);
        move || {
            if slow.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    let config = Config { readers: 2, read_timeout: Duration::from_secs(1), ..Config::default() };
    let server = server(&directory, config, Arc::new(on_read_steps)).await;
    assert_eq!(server.get(LONG_READ).await.json["count"], 0);
    slow.store(true, Ordering::SeqCst);
    let others = async {
        loop {
            for path in ["/stats", "/readyz", "/topics", "/events?limit=1"] {
                assert_eq!(server.get(path).await.status, 200, "{path}");
            }
        }
    };
    let late = tokio::select! {
        late = server.get(LONG_READ) => late,
        () = others => unreachable!("they never end"),
    };
    assert_late(&late, "the read did not end within --read-timeout 1s");
    // Both places taken, and given back although there is much left to read.
    let late = tokio::join!(server.get(LONG_READ), server.get(LONG_READ));
    assert_late(&late.0, "--read-timeout 1s");
    assert_late(&late.1, "--read-timeout 1s");
    assert_eq!(server.get("/stats").await.status, 200);
    slow.store(false, Ordering::SeqCst);
    // On both connections, which were interrupted.
    let again = tokio::join!(server.get(LONG_READ), server.get(LONG_READ));
    assert_eq!((again.0.status, again.1.status), (200.try_into().unwrap(), 200.try_into().unwrap()));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_read_that_is_stuck_is_answered_and_so_is_one_that_waits_for_its_turn() {
    let directory = TempDir::new().unwrap();
    let (stuck, end) = channel::<()>();
    let end = Mutex::new(end);
    // Until the sender is dropped.
    let on_read_steps = move || assert!(end.lock().unwrap().recv().is_err());
    let config = Config { readers: 1, read_timeout: Duration::from_millis(500), ..Config::default() };
    let server = server(&directory, config, Arc::new(on_read_steps)).await;
    assert_late(&server.get(LONG_READ).await, "the read did not end within --read-timeout 500ms");
    // Its place is not free yet: it would be two at a time.
    assert_late(&server.get("/stats").await, "none of the --readers was free within --read-timeout 500ms");
    let ids = json!({"ids": [{"topic": "t", "event_id": "1"}]}).to_string();
    assert_late(&server.post("/lookup", ids).await, "--readers");
    assert_eq!(server.get("/readyz").await.status, 200);
    drop(stuck);
    while server.get("/stats").await.status != 200 {}
    while server.get(LONG_READ).await.status != 200 {}
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_has_ended_has_let_go_of_the_store_whatever_was_read() {
    let directory = TempDir::new().unwrap();
    let (stuck, end) = channel::<()>();
    let end = Mutex::new(end);
    let on_read_steps = move || {
        assert!(end.lock().unwrap().recv().is_err());
        // As long as it takes to open the store several times.
        std::thread::sleep(Duration::from_millis(300));
    };
    let config = Config { readers: 1, read_timeout: Duration::from_millis(500), ..Config::default() };
    let server = server(&directory, config, Arc::new(on_read_steps)).await;
    assert_late(&server.get(LONG_READ).await, "the read did not end within --read-timeout 500ms");
    drop(stuck);
    server.stop().await.unwrap();
    SqliteStore::open(directory.path().join("events.db")).unwrap();
}
