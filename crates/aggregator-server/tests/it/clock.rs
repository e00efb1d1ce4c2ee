//! Clocks that are wrong, or were.

use std::process::Stdio;
use std::sync::Arc;

use aggregator_core::{MemoryStore, SqliteOptions, SqliteStore, Timestamp};
use aggregator_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Process, Server, event, events};

/// A time that no clock of a test says.
const FAR: &str = "2093-04-05T06:07:08.000009Z";

fn ahead_seconds(stats: &Value) -> u64 {
    stats["clock"]["ahead_seconds"].as_u64().unwrap()
}

/// Of a store whose clock is ahead.
fn options_ahead() -> SqliteOptions {
    SqliteOptions { clock: Arc::new(|| FAR.parse().unwrap()), ..SqliteOptions::default() }
}

#[tokio::test]
async fn the_statistics_say_how_far_the_store_is_ahead_of_the_clock() {
    let server = Server::start(Arc::new(MemoryStore::default()), Config::default()).await;
    let stats = server.stats().await;
    assert_eq!((&stats["clock"]["newest_processed_at"], ahead_seconds(&stats)), (&Value::Null, 0));
    let before = Timestamp::now();
    server.publish(&event("t", 1)).await;
    let stats = server.stats().await;
    let time = |name: &str| stats["clock"][name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(before <= time("newest_processed_at") && time("newest_processed_at") <= time("now"), "{stats}");
    assert_eq!(ahead_seconds(&stats), 0);
    server.stop().await.unwrap();

    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("a.db"), options_ahead()).unwrap();
    let server = Server::start(Arc::new(store), Config::default()).await;
    server.publish(&event("t", 1)).await;
    let stats = server.stats().await;
    assert_eq!(stats["clock"]["newest_processed_at"], FAR);
    assert!(ahead_seconds(&stats) > 20 * 365 * 86_400, "{stats}");
    server.stop().await.unwrap();
}

#[test]
fn a_start_warns_of_a_store_that_is_ahead_of_the_clock() {
    use aggregator_core::DedupStoreExt as _;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    let store = SqliteStore::open_with(&path, options_ahead()).unwrap();
    store.append_one(&aggregator_core::Event::new("t", "1").unwrap()).unwrap();
    drop(store);
    let store = format!("sqlite:{}", path.display());
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store]);
    command.stderr(Stdio::piped());
    let mut server = Process::spawn(command);
    let warning: Value = serde_json::from_str(&server.line_of_stderr("ahead_seconds")).unwrap();
    assert_eq!((&warning["level"], &warning["newest_processed_at"]), (&json!("WARN"), &json!(FAR)));
    assert!(warning["ahead_seconds"].as_u64().unwrap() > 20 * 365 * 86_400, "{warning}");
}

#[tokio::test]
async fn a_clock_at_either_end_of_time_keeps_every_route_answering() {
    for (micros, shown) in [
        (i64::MIN, "0001-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (i64::MAX, "9999-12-31T23:59:59.999999Z"),
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a.db");
        let clock = Arc::new(move || Timestamp::from_micros(micros));
        let store =
            SqliteStore::open_with(&path, SqliteOptions { clock, ..SqliteOptions::default() }).unwrap();
        let server = Server::start(Arc::new(store), Config::default()).await;
        let answer = server.publish(&events("t", 0..3)).await;
        assert_eq!(answer.json["stored"], 3, "{:?}", answer.json);
        let repeat = server.post("/publish?results=all", event("t", 0).to_string()).await;
        assert_eq!(repeat.json["results"][0]["processed_at"], shown);
        for path in ["/events?topic=t", "/events?topic=*", "/events?topic=t&order=desc"] {
            let page = server.get(path).await.json;
            assert_eq!(page["events"][2]["processed_at"], shown, "{path}");
        }
        let since = server.get(&format!("/events?topic=t&since={shown}")).await.json;
        assert_eq!(since["events"].as_array().unwrap().len(), 3);
        let ids = json!({"ids": [{"topic": "t", "event_id": "1"}]}).to_string();
        assert_eq!(server.post("/lookup", ids).await.json["results"][0]["processed_at"], shown);
        for path in ["/stats", "/topics", "/readyz", "/health"] {
            assert_eq!(server.get(path).await.status, 200, "{path}");
        }
        server.stop().await.unwrap();
        let view: String = rusqlite::Connection::open(&path)
            .unwrap()
            .query_row("SELECT processed_at FROM processed_events LIMIT 1", [], |row| row.get(0))
            .unwrap();
        assert_eq!(view, shown, "the view says the same");
    }
}

/// A library that shifts the wall clock of the program it is loaded into.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn clock_shifter(directory: &std::path::Path) -> Option<std::path::PathBuf> {
    const SOURCE: &str = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdlib.h>
        #include <time.h>
        int clock_gettime(clockid_t clock, struct timespec *now) {
            int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
            int failed = real(clock, now);
            if (!failed && clock == CLOCK_REALTIME) now->tv_sec += atoll(getenv("SHIFT_SECONDS"));
            return failed;
        }
    "#;
    let (source, library) = (directory.join("shift.c"), directory.join("shift.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let mut compile = std::process::Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    match compile.status() {
        Ok(status) => assert!(status.success(), "the library does not compile"),
        Err(error) => {
            test_skip::skip(&format!("there is no C compiler ({error})"), "AGGREGATOR_REQUIRE_CC");
            return None;
        }
    }
    Some(library)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_clock_that_http_has_no_date_for_is_refused_in_one_line_and_nothing_is_left_behind() {
    let tools = TempDir::new().unwrap();
    let Some(library) = clock_shifter(tools.path()) else { return };
    let directory = TempDir::new().unwrap();
    for (years, said) in [(-100_i64, "before the year 1970"), (9_000, "after the year 9999")] {
        let store = format!("sqlite:{}/a.db", directory.path().display());
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store]);
        command.env("LD_PRELOAD", &library).env("SHIFT_SECONDS", (years * 31_556_952).to_string());
        let (code, message) = Process::run(command);
        assert_eq!(code, 1, "{message}");
        assert!(message.contains(said) && message.lines().count() == 1, "{message}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
