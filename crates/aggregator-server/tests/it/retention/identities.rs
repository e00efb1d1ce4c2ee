//! Rules that forget identities: what becomes of repeats then, and what is told.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{DedupStore, MemoryStore, SqliteStore};
use aggregator_server::{Config, RunError};
use serde_json::json;
use tempfile::TempDir;

use super::{OFTEN, config, rule};
use crate::support::asked::Asked;
use crate::support::{Process, Server, event, events, until};

/// Forgets what is a moment old, but for the newest ten of each topic.
const SOON: &str = "t.*=count:10,identities:1ms";

/// At least so many: a rule goes on with what comes later.
async fn until_forgotten(server: &Server, pattern: &str, identities: u64) {
    let told = async || rule(&server.get("/retention").await.json, pattern).clone();
    let are_forgotten = async || told().await["forgotten_identities"].as_u64() >= Some(identities);
    until(&format!("{identities} identities of {pattern} are forgotten"), are_forgotten).await;
}

async fn seen(server: &Server, topic: &str, ids: &[&str]) -> Vec<bool> {
    let ids: Vec<_> = ids.iter().map(|id| json!({"topic": topic, "event_id": id})).collect();
    let answer = server.post("/lookup", json!({"ids": ids}).to_string()).await.json;
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    results.iter().map(|result| result["seen"].as_bool().unwrap()).collect()
}

async fn identities_go_and_their_events_come_again(store: Arc<dyn DedupStore>) {
    let server = Server::start(Arc::clone(&store), config(&[SOON, "kept=count:10"])).await;
    for topic in ["t.a", "t.b", "kept"] {
        server.publish(&events(topic, 0..1_500)).await;
    }
    until_forgotten(&server, "t.*", 2 * 1_490).await;
    let told = server.get("/retention").await.json;
    let (with, without) = (rule(&told, "t.*"), rule(&told, "kept"));
    assert_eq!((&with["purged_events"], &with["identities_seconds"]), (&json!(2_980), &json!(0.001)));
    assert!(without["identities_seconds"].is_null(), "{told}");
    assert_eq!(without["forgotten_identities"], 0);
    assert_eq!(server.scrape().await.get("aggregator_retention_forgotten_identities_total"), 2_980.0);

    assert_eq!(seen(&server, "t.a", &["1489", "1490"]).await, [false, true]);
    assert_eq!(seen(&server, "kept", &["0", "1490"]).await, [true, true], "its stubs are for ever");
    let repeats = server.publish(&events("kept", 0..1_500)).await.json;
    assert_eq!(repeats["duplicates"], 1_500, "{repeats}");
    // A repeat of what is forgotten is a new event: also a changed one, which nobody can tell from the first.
    let changed = json!({"topic": "t.a", "event_id": "3", "payload": "another"});
    let again = server.publish(&json!([changed, event("t.a", 1_490), event("t.a", 4)])).await.json;
    let results = again["results"].as_array().unwrap();
    let told: Vec<_> = results.iter().map(|result| (&result["outcome"], &result["seq"])).collect();
    assert_eq!(
        told,
        [
            (&json!("stored"), &json!(1_501)),
            (&json!("duplicate"), &json!(1_491)),
            (&json!("stored"), &json!(1_502))
        ]
    );
    let page = server.get("/events?topic=t.a&limit=1000").await.json;
    let seqs: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| &event["seq"]).collect();
    assert_eq!((seqs.first(), seqs.last()), (Some(&&json!(1_491)), Some(&&json!(1_502))), "seqs go on");
    server.stop().await.unwrap();

    // What was forgotten since ever outlives the process.
    let server =
        Server::start(store, Config { retain_every: Duration::from_secs(3_600), ..config(&[SOON]) }).await;
    until_forgotten(&server, "t.*", 2_980).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn identities_go_from_memory_and_their_events_come_again() {
    identities_go_and_their_events_come_again(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn identities_go_from_a_file_and_their_events_come_again() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    identities_go_and_their_events_come_again(Arc::new(store)).await;
}

async fn is_seen(url: &str, id: u32) -> bool {
    let ids = json!({"ids": [{"topic": "t", "event_id": id.to_string()}]});
    let answer = crate::support::client().post(format!("{url}/lookup")).json(&ids).send().await.unwrap();
    answer.json::<serde_json::Value>().await.unwrap()["results"][0]["seen"].as_bool().unwrap()
}

/// With the real program, a crash, and the check of the file.
#[tokio::test]
async fn a_file_that_has_forgotten_identities_is_sound_after_a_crash() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let options = [&["--retain", "*=age:1ms,identities:1ms"][..], &OFTEN].concat();
    let mut server = Process::start(&path, &options);
    for begin in (0..3_000).step_by(500) {
        server.publish(&events("t", begin..begin + 500)).await;
        // Killed in the middle, or a moment later.
        let first = async || is_seen(&server.url, begin).await;
        until("the oldest one is forgotten", async || !first().await).await;
        server.kill();
        server = Process::start(&path, &options);
    }
    // Only the newest row of the store stays.
    until("all others are forgotten", async || !is_seen(&server.url, 2_998).await).await;
    let again = server.publish(&events("t", 0..3_000)).await;
    assert_eq!((&again["stored"], &again["duplicates"]), (&json!(2_999), &json!(1)));
    assert_eq!(again["results"][0]["seq"], 3_001);
    server.signal("-TERM");
    assert!(server.wait().success());
    let store = format!("sqlite:{}", path.display());
    let check = Process::command(&["check", "--store", &store]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[tokio::test]
async fn a_dry_run_counts_identities_and_forgets_none() {
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::default());
    let server = Server::start(Arc::clone(&store), config(&["t.*=count:10"])).await;
    server.publish(&events("t.a", 0..100)).await;
    super::until_purged(&server, "t.*", 90).await;
    server.stop().await.unwrap();
    let dry = Config { retain_dry_run: true, ..config(&["t.*=count:5,identities:1ms"]) };
    let server = Server::start(store, dry).await;
    let told = async || rule(&server.get("/retention").await.json, "t.*").clone();
    until("it was worked out", async || told().await["pending_identities"] == 90).await;
    let told = told().await;
    assert_eq!((&told["pending_events"], &told["forgotten_identities"]), (&json!(5), &json!(0)));
    assert_eq!(server.publish(&events("t.a", 0..100)).await.json["duplicates"], 100);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_forget_is_refused_before_anything_is_served() {
    let server = Server::start(Arc::new(Asked::default()), config(&["a=count:1", SOON])).await;
    let refused = server.stop().await.unwrap_err();
    let RunError::Settings(says) = refused else { panic!("{refused}") };
    assert!(
        says.contains("--retain t.*=count:10,identities:1ms") && says.contains("cannot forget"),
        "{says}"
    );
    assert!(says.contains("leave identities out"), "{says}");
}

#[test]
fn identities_that_would_never_go_or_too_early_are_refused_in_words() {
    for (value, says) in [
        ("a=identities:365d", "a=identities:365d' for '--retain"),
        ("a=identities:365d", "without age, count or bytes"),
        ("a=age:30d,identities:7d", "shorter than its age:30d"),
        ("a=count:1,identities:0s", "identities:0s, which would keep nothing"),
        ("a=count:1,identities:365", "must be a number with a unit"),
    ] {
        let args = ["--store", "memory:", "--listen", "127.0.0.1:0", "--retain", value];
        let (code, message) = crate::support::refused(&args);
        assert!(code == 2 && message.contains(says), "{value}: {code} {message}");
    }
}

#[tokio::test]
async fn the_log_says_how_many_were_forgotten() {
    let args = ["--store", "memory:", "--listen", "127.0.0.1:0", "--retain", SOON, "--log-format", "human"];
    let mut command = Process::command(&[&args[..], &OFTEN].concat());
    command.stderr(std::process::Stdio::piped());
    let server = Process::spawn(command);
    server.publish(&events("t.a", 0..200)).await;
    let told = async || rule(&server.get("/retention").await, "t.*").clone();
    until("they are forgotten", async || told().await["forgotten_identities"] == 190).await;
    let log = tokio::task::spawn_blocking(move || server.stop_and_read_stderr()).await.unwrap();
    let line = log.lines().find(|line| line.contains("forgotten")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("t.*=count:10,identities:1ms") && line.contains("identities="), "{line}");
}
