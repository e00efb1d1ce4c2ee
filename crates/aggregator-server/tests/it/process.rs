//! The program: its first line, its signals, its exit codes, and what a kill leaves behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::signal;
use crate::support::{Process, events, refused};

#[tokio::test]
async fn the_first_line_says_where_which_store_and_how_durable() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/events.db");
    let server = Process::start(&path, &[]);
    let expected =
        format!("listening on {}, store sqlite:{}, durability fsync\n", server.url, path.display());
    assert_eq!(server.first_line, expected);
    assert_eq!(server.get("/readyz").await, json!({"status": "ready"}));
}

#[tokio::test]
async fn an_acknowledged_event_survives_kill_9_and_its_repeat_is_a_duplicate() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Process::start(&path, &[]);
    assert_eq!(server.publish(&events("t", 0..500)).await["stored"], 500);
    let page = server.get("/events?topic=t&limit=1000").await;
    server.kill();

    let server = Process::start(&path, &[]);
    let stats = server.get("/stats").await;
    assert_eq!((&stats["received"], &stats["unique_processed"]), (&json!(500), &json!(500)));
    assert_eq!(server.publish(&events("t", 0..500)).await["duplicates"], 500);
    assert_eq!(server.get("/events?topic=t&limit=1000").await["events"], page["events"]);
    assert_eq!(server.get("/stats").await["unique_processed"], 500);
}

/// What is wrong with a body can take many times its size, so few of them are decoded at a time.
#[test]
fn many_large_and_wrong_bodies_at_once_take_little_memory() {
    const REQUESTS: usize = 40;
    let directory = TempDir::new().unwrap();
    let server = Process::start(&directory.path().join("events.db"), &["--response-bytes", "64MiB"]);
    let wrong = r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1}"#;
    let body = format!("[{}]", vec![wrong; 9_999].join(","));
    let address = server.url.strip_prefix("http://").unwrap();
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let (most, last) = body.split_at(body.len() - 1);
    let connections: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(head.as_bytes()).unwrap();
            connection.write_all(most.as_bytes()).unwrap();
            connection
        })
        .collect();
    let before = server.peak_memory();
    for mut connection in &connections {
        connection.write_all(last.as_bytes()).unwrap();
    }
    for mut connection in connections {
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).unwrap();
        // Or there is no room for so many long answers.
        assert!([b"HTTP/1.1 422", b"HTTP/1.1 503"].contains(&&answer), "{}", answer.escape_ascii());
    }
    let grown = server.peak_memory() - before;
    assert!(grown < 250 << 10, "{grown} KiB for {REQUESTS} requests of {} bytes", body.len());
}

#[tokio::test]
async fn both_signals_drain_and_end_with_0() {
    for signal in ["-TERM", "-INT"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let server = Process::start(&path, &[]);
        for batch in 0..20 {
            let answer =
                server.publish_with("?ack=queued", &events("t", batch * 100..batch * 100 + 100)).await;
            assert_eq!(answer["queued"], 100);
        }
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        let server = Process::start(&path, &[]);
        assert_eq!(server.get("/stats").await["unique_processed"], 2_000, "{signal}");
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_does_not_hold_up_the_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Process::start(&path, &["--drain-timeout", "300ms"]);
    let intruder = rusqlite::Connection::open(&path).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(server.publish_with("?ack=queued", &events("t", 0..10)).await["queued"], 10);
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(1), "what was queued could not be committed, and that is told");
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_the_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Process::start(&path, &["--drain-timeout", "400ms"]);
    let address = server.url.strip_prefix("http://").unwrap();
    let mut half_a_head = TcpStream::connect(address).unwrap();
    half_a_head.write_all(b"POST /publish HTTP/1.1\r\nhos").unwrap();
    let mut half_a_body = TcpStream::connect(address).unwrap();
    half_a_body
        .write_all(b"POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n[")
        .unwrap();
    assert_eq!(server.publish_with("?ack=queued", &events("t", 0..10)).await["queued"], 10);
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let server = Process::start(&path, &[]);
    assert_eq!(server.get("/stats").await["unique_processed"], 10);
}

#[test]
fn a_second_process_on_the_same_file_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let first = Process::start(&path, &[]);
    let store = format!("sqlite:{}", path.display());
    let (code, message) = refused(&["--listen", "127.0.0.1:0", "--store", &store]);
    assert_eq!(code, 1);
    assert!(message.contains("open in another process") && message.lines().count() == 1, "{message}");
    first.kill();
    Process::start(&path, &[]);
}

#[test]
fn what_cannot_be_right_is_refused_in_one_line() {
    let directory = TempDir::new().unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "dear diary").unwrap();
    let notes = format!("sqlite:{}", text.display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, code, part) in [
        (&["--listen", "0.0.0.0:0", "--store", "memory:"][..], 2, "--allow-anonymous"),
        (&["--queue-events", "5", "--store", "memory:"], 2, "--max-batch-events"),
        (&["--log", "=/=", "--store", "memory:"], 2, "--log"),
        (&["--listen", "127.0.0.1:0", "--store", &notes], 1, "not an SQLite database"),
        (&["--listen", &taken, "--store", "memory:"], 1, "--listen"),
    ] {
        let (status, message) = refused(args);
        assert_eq!(status, code, "{args:?}: {message}");
        assert!(message.contains(part) && message.trim_end().lines().count() == 1, "{args:?}: {message}");
    }
    for args in [&["--store", "nonsense"][..], &["--listen", "nowhere"], &["--workers", "0"], &["--what"]] {
        let (status, message) = refused(args);
        assert_eq!(status, 2, "{args:?}: {message}");
    }
    assert_eq!(fs::read(&text).unwrap(), b"dear diary");
}

#[test]
fn options_come_from_the_environment_too() {
    let mut command = Process::command(&["--log", "info"]);
    command.env("AGGREGATOR_LISTEN", "0.0.0.0:0").env("AGGREGATOR_STORE", "memory:");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--allow-anonymous"));
    let mut command = Process::command(&["--listen", "0.0.0.0:0", "--store", "memory:", "--log", "=/="]);
    let output = command.env("AGGREGATOR_ALLOW_ANONYMOUS", "1").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--log"), "it got beyond the listen address");
}

#[test]
fn the_help_shows_every_default() {
    let output = Process::command(&["--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for default in [
        "127.0.0.1:8080",
        "sqlite:data/aggregator.db",
        "65536",
        "64MiB",
        "16MiB",
        "10s",
        "[env: AGGREGATOR_WORKERS=",
    ] {
        assert!(help.contains(default), "{default}");
    }
}

#[test]
fn the_health_check_asks_the_server_that_listens_there() {
    let directory = TempDir::new().unwrap();
    let server = Process::start(&directory.path().join("events.db"), &[]);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let port = address.rsplit(':').next().unwrap();
    for listen in [&address, &format!("0.0.0.0:{port}")] {
        assert_eq!(refused(&["healthcheck", "--listen", listen]), (0, String::new()));
    }
    server.kill();
    let (code, message) = refused(&["--listen", &address, "healthcheck"]);
    assert!(code == 1 && message.contains("not ready"), "{message}");
}

#[tokio::test]
async fn a_failure_ends_the_program_with_its_own_code_if_it_is_told_to() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Process::start(&path, &["--exit-on-failure"]);
    server.publish(&events("t", 0..1)).await;
    // What every append counts in, and so meets: the events themselves are in memory, as new as they are.
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM partitions", []).unwrap();
    let answer = server.publish(&events("t", 0..1)).await;
    assert_eq!(answer["type"], "urn:aggregator:problem:failed");
    assert_eq!(server.wait().code(), Some(3));
}

#[tokio::test]
async fn the_check_finds_what_is_wrong_with_a_store() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = format!("sqlite:{}", path.display());
    let check = |more: &[&str]| {
        let output = Process::command(&["check", "--store", &store]).args(more).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let server = Process::start(&path, &[]);
    server.publish(&events("t", 0..20)).await;
    assert_eq!(check(&[]).0, 1, "a store that is in use cannot be checked");
    server.kill();
    let sound = (0, format!("{store} is sound: 20 events, 0 stubs\n"));
    assert_eq!(check(&[]), sound);
    let damage = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute(sql, []).unwrap();
    damage("UPDATE index_manifest SET checksum = checksum + 1");
    let (code, faults) = check(&[]);
    assert!(code == 1 && faults.contains("check --rebuild-index"), "{faults}");
    assert_eq!(check(&["--rebuild-index"]), sound);
    assert_eq!(check(&[]), sound);
    damage("UPDATE events SET payload = '{}' WHERE seq = 7");
    assert_eq!(check(&["--rebuild-index"]).0, 1, "an index cannot be made of what is damaged");
    assert_eq!(check(&[]), (1, "the event at offset 7 does not match its checksum\n".to_owned()));
}

/// Starts the server with logs captured, stops it, and returns the logs.
fn logs(store: &Path, args: &[&str]) -> String {
    let store = format!("sqlite:{}", store.display());
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store]);
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    signal::send("-TERM", &child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn logs_are_json_where_nobody_watches_and_human_on_request() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let lines = logs(&path, &[]);
    assert!(lines.lines().count() >= 2, "{lines}");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        // The file system may be one to warn of.
        let level = line["level"].as_str().unwrap();
        assert!(["INFO", "WARN"].contains(&level), "{line}");
        assert!(line["timestamp"].is_string() && line["message"].is_string(), "{line}");
    }
    let lines = logs(&path, &["--log-format", "human"]);
    assert!(lines.contains("INFO draining") && !lines.contains('{'), "{lines}");
    assert_eq!(logs(&path, &["--log", "error"]), "");
}
