//! `erase` and `release`: the real program, with a server that has the store open and without one.

mod interrupted;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Process, client, event, events, until};
use crate::tails::event_source::EventSource;

/// In no other payload, topic or id.
const SECRET: &str = "canary-4f1c-of-a-payload";

fn command(store: &Path, arguments: &[&str]) -> Command {
    let mut command = Process::command(arguments);
    command.args(["--store", &format!("sqlite:{}", store.display())]).stdin(Stdio::null());
    command
}

/// The exit code, standard output, standard error.
async fn run(mut command: Command) -> (i32, String, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stdout, stderr } = output;
    let [out, error] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (status.code().unwrap(), out, error)
}

async fn stop(server: Process) {
    server.signal("-TERM");
    let ended = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

fn secret(id: &str) -> Value {
    json!({"topic": "t", "event_id": id, "payload": {"name": SECRET, "padding": "x".repeat(2_000)}})
}

/// The files of the directory that have these bytes.
fn files_with(directory: &Path, needle: &str) -> Vec<String> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.file_type().unwrap().is_file());
    let has = |path: &Path| memchr::memmem::find(&fs::read(path).unwrap(), needle.as_bytes()).is_some();
    files.map(|entry| entry.path()).filter(|path| has(path)).map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn what_is_erased_beside_a_server_is_in_none_of_its_files_and_answers() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let server = Process::start(&store, &[]);
    server.publish(&events("t", 0..300)).await;
    // Somebody waits at the end of the stream, so the newest events are in memory.
    let url = format!("{}/events/stream?topic=t", server.url);
    let mut waiting = EventSource::open(&format!("{url}&after=latest"), "").await;
    waiting.caught_up().await;
    server.publish(&event("t", "before")).await;
    let before = waiting.event().await.id;
    // More than a page has: a reader that begins before them comes to the newest events in memory.
    server.publish(&events("t", 1_000..1_600)).await;
    waiting.event_ids(600).await;
    server.publish(&secret("secret")).await;
    assert_eq!(waiting.event().await.data["payload"]["name"], SECRET);
    server.publish(&events("t", 300..600)).await;
    assert!(!files_with(directory.path(), SECRET).is_empty());

    let erase = command(&store, &["erase", "t", "secret", "--reason", "a request of Monday"]);
    let (code, out, error) = run(erase).await;
    assert_eq!((code, &*out), (0, "t secret: erased, seq 902\n"), "{error}");
    assert!(error.contains("erase: 1 of 1 identity found, 1 payload erased in "), "{error}");
    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
    assert_eq!(server.publish(&secret("secret")).await["results"][0]["outcome"], "duplicate");
    assert_eq!(files_with(directory.path(), SECRET), [""; 0], "a repeat is not stored");

    // Readers that come back, and new ones.
    for after in [&before, ""] {
        let mut reader = EventSource::open(&url, after).await;
        let erased = loop {
            let event = reader.event().await.data;
            if event["event_id"] == "secret" {
                break event;
            }
        };
        assert_eq!(erased["payload"], json!({"erased": true}), "after {after:?}");
        assert_eq!((&erased["seq"], &erased["topic"]), (&json!(902), &json!("t")));
    }
    drop(waiting);
    let page = client().get(format!("{}/events?topic=t&limit=1000", server.url)).send().await.unwrap();
    assert!(!page.text().await.unwrap().contains(SECRET));
    let (code, out, error) = run(command(&store, &["key", "audit"])).await;
    assert!(
        code == 0 && out.contains("a request of Monday") && out.contains("1 of 1 found: t secret"),
        "{out}{error}"
    );
    stop(server).await;

    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
    let exported = directory.path().join("export.ndjson");
    let (code, _, error) = run(command(&store, &["export", "--out", exported.to_str().unwrap()])).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
    assert_eq!(files_with(directory.path(), r#"{"erased":true}"#).len(), 2, "the store and the export");
    let (code, _, error) = run(command(&store, &["check"])).await;
    assert_eq!(code, 0, "{error}");
    let other = directory.path().join("other.db");
    let (code, _, error) = run(command(&other, &["import", "--in", exported.to_str().unwrap()])).await;
    assert_eq!(code, 0, "{error}");
    let server = Process::start(&other, &[]);
    assert_eq!(server.publish(&secret("secret")).await["results"][0]["outcome"], "duplicate");
}

#[tokio::test]
async fn where_no_server_runs_the_commands_open_the_store_and_say_what_is_not_there() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let server = Process::start(&store, &[]);
    server.publish(&json!([secret("1"), event("t", "2")])).await;
    stop(server).await;
    let (code, out, error) = run(command(&store, &["erase", "t", "1", "--source", "any"])).await;
    assert_eq!((code, &*out), (0, "t 1 of any: erased, seq 1\n"), "{error}");
    assert_eq!(files_with(directory.path(), SECRET), [""; 0]);
    let (code, out, error) = run(command(&store, &["erase", "t", "no"])).await;
    assert_eq!((code, &*out), (1, "t no: no such event\n"));
    assert!(error.contains("aggregator-server: nothing is erased: there is no such event"), "{error}");

    let (code, out, error) = run(command(&store, &["release", "t", "1"])).await;
    assert_eq!(code, 0, "{error}");
    assert!(out.starts_with("t 1: released, was seq 1 of 20"), "{out}");
    assert!(error.contains("release: 1 of 1 identity released in "), "{error}");
    let (code, out, error) = run(command(&store, &["release", "t", "1"])).await;
    assert_eq!((code, &*out), (1, "t 1: never seen, or released already\n"));
    assert!(error.contains("nothing is released"), "{error}");
    let exported = directory.path().join("export.ndjson");
    run(command(&store, &["export", "--out", exported.to_str().unwrap()])).await;
    assert!(fs::read_to_string(&exported).unwrap().contains(r#""released":true"#));
    let (_, out, _) = run(command(&store, &["key", "audit"])).await;
    let by: Vec<_> = out.lines().skip(1).map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(by, ["command"; 4], "{out}");

    let server = Process::start(&store, &[]);
    let answer = server.publish(&json!([secret("1"), secret("2")])).await;
    assert_eq!(
        (&answer["results"][0]["outcome"], &answer["results"][0]["seq"]),
        (&json!("stored"), &json!(3))
    );
    assert_eq!(answer["results"][1]["outcome"], "conflict");
    let (code, out, _) = run(command(&store, &["erase", "t", "1"])).await;
    assert_eq!((code, &*out), (0, "t 1: erased, seqs 1 3\n"));
    assert_eq!(server.get("/events?topic=t").await["events"][2]["payload"], json!({"erased": true}));
}

#[tokio::test]
async fn a_file_of_identities_is_checked_first_and_taken_in_batches() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let names = directory.path().join("names.ndjson");
    let line = |id: u32| format!("{{\"topic\":\"t\",\"event_id\":\"{id}\"}}\n");
    let server = Process::start(&store, &[]);
    for first in [0, 1_000] {
        server.publish(&events("t", first..first + 1_000)).await;
    }
    let from_file = ["erase", "--file", names.to_str().unwrap()];
    let wrong = (0..1_100).map(line).chain(["{\"topic\":\"t\"}\n".to_owned()]).collect::<String>();
    fs::write(&names, wrong).unwrap();
    let (code, out, error) = run(command(&store, &from_file)).await;
    assert_eq!((code, &*out), (1, ""));
    assert!(error.contains("names.ndjson, line 1101: missing field `event_id`"), "{error}");
    assert_eq!(server.get("/events?topic=t&limit=1").await["events"][0]["payload"], json!({"id": "0"}));

    fs::write(&names, (900..2_100).map(line).collect::<String>()).unwrap();
    let (code, out, error) = run(command(&store, &from_file)).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!((out.lines().count(), out.matches("no such event").count()), (1_200, 100));
    assert!(error.contains("erase: 1100 of 1200 identities found, 1100 payloads erased in "), "{error}");
    let kept = server.get("/events?topic=t&limit=1000").await["events"].clone();
    let kept = kept.as_array().unwrap().iter().filter(|event| event["payload"] != json!({"erased": true}));
    assert_eq!(kept.count(), 900);

    let mut release = command(&store, &["release", "--file", "-"]);
    release.stdin(fs::File::open(&names).unwrap());
    let (code, out, error) = run(release).await;
    assert_eq!((code, out.matches("released, was seq").count()), (0, 1_100), "{error}");
    assert_eq!(server.publish(&event("t", 1_500)).await["results"][0]["outcome"], "stored");

    fs::write(&names, "\n").unwrap();
    let missing = directory.path().join("none.db");
    for (store, arguments, code, says) in [
        (&store, &from_file[..], 1, "names.ndjson names no event"),
        (&store, &["erase", "--file", "/nonexistent"], 1, "--file /nonexistent: No such file"),
        (&store, &["erase", "a b", "1"], 1, "topic: "),
        (&store, &["erase", "t", "1", "--reason", ""], 2, "must be 1 to 200 characters"),
        (&store, &["erase", "t"], 2, "EVENT_ID"),
        (&store, &["release"], 2, "TOPIC"),
        (&store, &["erase", "t", "1", "--file", "x"], 2, "cannot be used with"),
        (&missing, &["erase", "t", "1"], 1, "none.db does not exist"),
    ] {
        let (exit, out, error) = run(command(store, arguments)).await;
        assert_eq!((exit, &*out), (code, ""), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    assert!(!missing.exists());
    let (code, _, error) = run(Process::command(&["release", "t", "1", "--store", "memory:"])).await;
    assert!(code == 1 && error.contains("--admin-socket PATH"), "{error}");
}

/// A server whose store is in memory is asked over its socket.
#[tokio::test]
async fn a_store_in_memory_is_asked_over_the_socket_of_its_server() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("admin");
    let server = Process::start_with("memory:", &["--admin-socket", socket.to_str().unwrap()]);
    server.publish(&secret("1")).await;
    let here = ["--store", "memory:", "--admin-socket", socket.to_str().unwrap()];
    let (code, out, error) = run(Process::command(&[&["erase", "t", "1"], &here[..]].concat())).await;
    assert_eq!((code, &*out), (0, "t 1: erased, seq 1\n"), "{error}");
    until("it is gone", async || !server.get("/events?topic=t").await.to_string().contains(SECRET)).await;
}
