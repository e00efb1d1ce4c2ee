//! Standard error and standard output that cannot be written: nobody may be reading, and that is no reason to stop.

use std::fs::File;
use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use reqwest::Client;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::signal;
use crate::support::{Process, event, events};

/// Nothing here takes nearly as long; what does is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader is gone.
fn closed() -> Stdio {
    pipe().unwrap().1.into()
}

/// A pipe that is full, and whose reader does not read.
fn stuck() -> (PipeReader, Stdio) {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(&[b' '; 64 << 10]).unwrap();
    (reader, writer.into())
}

fn serve(store: &str, args: &[&str], stderr: Stdio) -> Process {
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", store]);
    command.args(args).stdin(Stdio::null()).stderr(stderr);
    Process::spawn(command)
}

fn client() -> Client {
    crate::http_client::builder().timeout(PATIENCE).build().unwrap()
}

async fn publish(client: &Client, server: &Process, query: &str, body: &Value) -> (u16, Value) {
    let request = client.post(format!("{}/publish{query}", server.url)).json(body);
    let answer = request.send().await.expect("the server answers");
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn stored(server: &Process) -> Value {
    let stats = client().get(format!("{}/stats", server.url)).send().await.unwrap();
    stats.json::<Value>().await.unwrap()["unique_processed"].clone()
}

/// Fails once, goes on, is told to end with 10,000 events queued, and has them all afterwards.
async fn lives_a_whole_life(stderr: Stdio) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = format!("sqlite:{}", path.display());
    let server = serve(&store, &["--log", "debug"], stderr);
    let client = client();
    let intruder = Connection::open(&path).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, answer) = publish(&client, &server, "", &event("t", "busy")).await;
    assert_eq!((status, &answer["type"]), (503, &json!("urn:aggregator:problem:store-unavailable")));
    intruder.execute_batch("ROLLBACK").unwrap();
    let (status, answer) = publish(&client, &server, "", &event("t", "stored")).await;
    assert_eq!(status, 202, "{answer}");

    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for batch in 0..10 {
        let body = events("queued", batch * 1_000..(batch + 1) * 1_000);
        assert_eq!(publish(&client, &server, "?ack=queued", &body).await.0, 202);
    }
    server.signal("-TERM");
    // Once the port is closed, the drain has begun.
    let address = server.url.strip_prefix("http://").unwrap();
    while TcpStream::connect(address).is_ok() {}
    intruder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(stored(&Process::start(&path, &[])).await, 10_001);
}

#[tokio::test]
async fn a_standard_error_on_a_full_disk_neither_ends_the_server_nor_loses_what_is_queued() {
    lives_a_whole_life(full()).await;
}

#[tokio::test]
async fn a_standard_error_that_nobody_reads_any_more_neither_ends_the_server_nor_loses_what_is_queued() {
    lives_a_whole_life(closed()).await;
}

/// Starts a server that logs a line per publish to a pipe that nobody reads, until there are far more lines than
/// the pipe and the queue can hold.
async fn talk_past_a_reader(publishes: usize) -> (PipeReader, Process) {
    let (reader, stderr) = stuck();
    let server = serve("memory:", &["--log", "debug", "--log-queue-bytes", "64KiB"], stderr);
    let client = client();
    for id in 0..publishes {
        assert_eq!(publish(&client, &server, "", &event("t", id)).await.0, 202, "publish {id}");
    }
    (reader, server)
}

#[tokio::test]
async fn a_log_reader_that_does_not_read_stalls_no_request_and_is_told_later_what_it_missed() {
    const PUBLISHES: usize = 3_000;
    let (mut reader, server) = talk_past_a_reader(PUBLISHES).await;
    let read = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let log = read.join().unwrap();
    let log = log.trim_start();
    // The pipe, what was being written, what waited, and a little for the end.
    assert!(log.len() < 3 * (64 << 10) + 4096, "{} bytes were kept", log.len());
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let committed = lines.iter().filter(|line| line["message"] == "committed").count();
    let lost: u64 = lines.iter().filter_map(|line| line["lines"].as_u64()).sum();
    assert!(committed < PUBLISHES && lost > 0, "{committed} of {PUBLISHES} lines were kept, {lost} lost");
    assert!(committed as u64 + lost >= PUBLISHES as u64, "{committed} were kept, {lost} lost");
    let told = lines.iter().find(|line| line["lines"].is_u64()).unwrap();
    assert_eq!(told["level"], "WARN");
    assert!(told["message"].as_str().unwrap().contains("log lines were lost"), "{told}");
}

#[tokio::test]
async fn a_log_reader_that_never_reads_does_not_hold_up_the_end() {
    let (_reader, server) = talk_past_a_reader(1_500).await;
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// A panic speaks on standard error, too, before anybody hears of it otherwise.
#[tokio::test]
async fn a_panic_that_cannot_be_written_stops_acknowledgements_and_nothing_else() {
    let (_reader, stuck) = stuck();
    for stderr in [full(), closed(), stuck] {
        let directory = TempDir::new().unwrap();
        let store = format!("sqlite:{}", directory.path().join("events.db").display());
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store]);
        // What does not name a fail point is a panic where it is first reached.
        command.env(aggregator_core::fail_point::VARIABLE, "nonsense").stderr(stderr);
        let server = Process::spawn(command);
        let (status, answer) = publish(&client(), &server, "", &event("t", 1)).await;
        assert_eq!((status, &answer["type"]), (503, &json!("urn:aggregator:problem:failed")));
        let ready = client().get(format!("{}/readyz", server.url)).send().await.unwrap();
        assert_eq!(ready.status(), 503);
    }
}

/// Where the process listens, which tells nobody.
fn address_of(child: &Child) -> String {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", child.id()))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", child.id())).unwrap();
    let port = table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listens = fields[3] == "0A" && sockets.contains(&format!("socket:[{}]", fields[9]));
        let port = fields[1].split(':').nth(1)?;
        listens.then(|| u16::from_str_radix(port, 16).unwrap())
    });
    port.map_or_else(String::new, |port| format!("http://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_standard_output_that_cannot_be_written_is_no_reason_not_to_serve() {
    let (reader, stuck) = stuck();
    for (what, stdout) in
        [("full", Some(full())), ("nobody reads", Some(closed())), ("stuck", Some(stuck)), ("closed", None)]
    {
        let args = ["--listen", "127.0.0.1:0", "--store", "memory:"];
        let mut command = match stdout {
            Some(stdout) => {
                let mut command = Process::command(&args);
                command.stdout(stdout);
                command
            }
            None => {
                let mut command = Command::new("sh");
                command.args(["-c", "exec \"$0\" \"$@\" >&-", env!("CARGO_BIN_EXE_aggregator-server")]);
                command.args(args);
                command
            }
        };
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let url = loop {
            let url = address_of(&child);
            if !url.is_empty() || child.try_wait().unwrap().is_some() {
                break url;
            }
        };
        let ready = client().get(format!("{url}/readyz")).send().await;
        assert_eq!(ready.unwrap_or_else(|error| panic!("{what}: {error}")).status(), 200);
        signal::send("-TERM", &child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{what}");
    }
    drop(reader);
}

/// A file of a store with one event in it.
fn store(directory: &Path) -> String {
    let path = directory.join("events.db");
    let store = aggregator_core::SqliteStore::open(&path).unwrap();
    let event = aggregator_core::Event::new("t", "1").unwrap();
    aggregator_core::DedupStoreExt::append_one(&store, &event).unwrap();
    format!("sqlite:{}", path.display())
}

fn run(args: &[&str], stdout: Stdio, stderr: Stdio) -> (i32, String) {
    let mut command = Process::command(args);
    let Output { status, stderr, .. } = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stderr).unwrap())
}

#[test]
fn errors_keep_their_exit_codes_where_they_cannot_be_told() {
    let directory = TempDir::new().unwrap();
    let notes = directory.path().join("notes.txt");
    std::fs::write(&notes, "dear diary").unwrap();
    let notes = format!("sqlite:{}", notes.display());
    for (args, code) in [
        (&["--what"][..], 2),
        (&["--listen", "0.0.0.0:0", "--store", "memory:"], 2),
        (&["--log", "=/=", "--store", "memory:"], 2),
        (&["--listen", "127.0.0.1:0", "--store", &notes], 1),
        (&["check", "--store", &notes], 1),
        (&["export", "--store", &notes, "--out", "-"], 1),
        (&["import", "--store", "memory:", "--in", "/nowhere"], 1),
        (&["healthcheck", "--listen", "127.0.0.1:1"], 1),
    ] {
        for stderr in [full(), closed()] {
            assert_eq!(run(args, Stdio::null(), stderr).0, code, "{args:?}");
        }
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error_with_words() {
    let directory = TempDir::new().unwrap();
    let store = store(directory.path());
    for args in [
        &["check", "--store", &store][..],
        &["export", "--store", &store, "--out", "-"],
        &["--help"],
        &["--version"],
    ] {
        let (code, message) = run(args, full(), Stdio::piped());
        assert_eq!((code, message.lines().count()), (1, 1), "{args:?}: {message}");
        assert!(message.contains("standard output: No space left on device"), "{args:?}: {message}");
    }
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let directory = TempDir::new().unwrap();
    let store = store(directory.path());
    for (args, code) in [
        (&["check", "--store", &store][..], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        // What it was to write is not whole: as the shell says it of whatever SIGPIPE ends.
        (&["export", "--store", &store, "--out", "-"], 141),
    ] {
        assert_eq!(run(args, closed(), Stdio::piped()), (code, String::new()), "{args:?}");
    }
    // What is wrong is said in the exit code all the same.
    let path = store.strip_prefix("sqlite:").unwrap();
    Connection::open(path).unwrap().execute("UPDATE events SET payload = '[0]'", []).unwrap();
    let (code, message) = run(&["check", "--store", &store], closed(), Stdio::piped());
    assert!(code == 1 && message.contains("is not sound"), "{message}");
}
