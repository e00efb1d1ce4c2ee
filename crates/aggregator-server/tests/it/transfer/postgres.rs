//! Stores that move to PostgreSQL and back, with the real program.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use aggregator_core::{DedupStore, DedupStoreExt, Event, MemoryStore, Outcome, Receipt, SqliteStore};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use super::forgotten::{fill, forgetful, moves_whole};
use super::lab::{Contents, Lab, append, contents, event, of_file, succeed};
use crate::support::Process;

/// A database of a test's own.
struct Database {
    url: String,
}

impl Database {
    fn new(server: &TestServer, name: &str) -> Self {
        server.sql(&format!("CREATE DATABASE {name}"));
        let url = server.url();
        let url = url.strip_suffix("postgres").unwrap();
        Self { url: format!("{url}{name}") }
    }

    fn open(&self) -> PostgresStore {
        PostgresStore::open_with(&self.url.parse().unwrap(), PostgresOptions::default()).unwrap()
    }
}

/// Between topics there is no order.
fn by_topic((mut rows, topics, stats): Contents) -> Contents {
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    (rows, topics, stats)
}

/// Every event is told as a repeat, with the seq it had first.
fn assert_repeats(store: &dyn DedupStore, first: &[Receipt]) {
    let count = u32::try_from(first.len()).unwrap();
    let again = append(store, &(0..count).map(event).collect::<Vec<_>>());
    for (again, first) in again.iter().zip(first) {
        assert_eq!((again.outcome, again.seq), (Outcome::Duplicate, first.seq));
        assert_eq!(again.processed_at, first.processed_at);
    }
    assert_eq!(append(store, &[event(0).with_payload("7").unwrap()])[0].outcome, Outcome::Conflict);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn a_store_moves_to_postgres_and_back() {
    let Some(server) = TestServer::shared_own() else { return };
    const EVENTS: u32 = 2_000;
    let (lab, database) = (Lab::new(EVENTS), Database::new(server, "there_and_back"));
    succeed(lab.export("export", &[]));
    // The partitions are those of the new store.
    let message =
        succeed(lab.import_into(&database.url, "export", &["--batch-rows", "300", "--partitions", "4"]));
    assert!(message.contains("imported 2000 rows, 0 were there already"), "{message}");
    let message = succeed(lab.import_into(&database.url, "export", &[]));
    assert!(message.contains("imported 0 rows, 2000 were there already"), "{message}");
    succeed(Process::command(&["check", "--store", &database.url]));
    let source = by_topic(of_file(&lab.path("source.db")));
    assert_eq!(by_topic(contents(&database.open())), source);

    succeed(lab.export_of(&database.url, "export-back", &[]));
    succeed(lab.import("export-back", "back.db", &["--batch-rows", "170"]));
    succeed(Process::command(&["check", "--store", &lab.store("back.db")]));
    assert_eq!(by_topic(of_file(&lab.path("back.db"))), source);

    let origin = SqliteStore::open(lab.path("source.db")).unwrap();
    let first = append(&origin, &(0..EVENTS).map(event).collect::<Vec<_>>());
    assert_repeats(&database.open(), &first);
    assert_repeats(&SqliteStore::open(lab.path("back.db")).unwrap(), &first);
    assert_eq!(append(&database.open(), &[Event::new("stock", "new").unwrap()])[0].seq, Some(668));
}

#[test]
fn an_import_into_postgres_that_is_killed_goes_on() {
    let Some(server) = TestServer::shared_own() else { return };
    const EVENTS: u32 = 6_000;
    let (lab, database) = (Lab::new(EVENTS), Database::new(server, "killed"));
    succeed(lab.export("export", &[]));
    let export = fs::read(lab.path("export")).unwrap();
    let import = ["import", "--store", &database.url, "--in", "-", "--batch-rows", "50", "--partitions", "4"];
    for part in 1..=3 {
        let mut import = Process::command(&import);
        let mut import = import.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Once this returns, all but what the pipe and two batches hold was committed, or is being.
        import.stdin.as_mut().unwrap().write_all(&export[..export.len() * part / 4]).unwrap();
        crate::signal::send("-KILL", &import);
        assert!(!import.wait().unwrap().success());
        let there = database.open().stats().unwrap().stored;
        assert!((1..u64::from(EVENTS)).contains(&there), "{there}");
    }
    succeed(lab.import_into(&database.url, "export", &[]));
    let source = by_topic(of_file(&lab.path("source.db")));
    assert_eq!(by_topic(contents(&database.open())), source);
    assert_eq!(database.open().verify().unwrap().faults, [""; 0]);
}

#[test]
fn identities_alone_seed_a_store_in_postgres() {
    let Some(server) = TestServer::shared_own() else { return };
    let (lab, database) = (Lab::new(10), Database::new(server, "identities_alone"));
    let ids = "{\"topic\":\"t\",\"event_id\":\"1\",\"processed_at\":\"2020-01-01T00:00:00Z\"}\n\
               {\"topic\":\"u\",\"event_id\":\"1\",\"source\":\"x\",\"scope\":\"source\"}\n";
    fs::write(lab.path("ids"), ids).unwrap();
    let message = succeed(lab.import_into(&database.url, "ids", &["--ids-only"]));
    assert!(message.contains("imported 2 identities, 0 were there already"), "{message}");
    let message = succeed(lab.import_into(&database.url, "ids", &["--ids-only"]));
    assert!(message.contains("imported 0 identities, 2 were there already"), "{message}");

    let node = Process::start_with(&database.url, &[]);
    let publish = |id: &str| {
        let body = format!(r#"{{"topic":"t","event_id":"{id}","payload":{{"any":1}}}}"#);
        let client = crate::support::client().post(format!("{}/publish", node.url));
        let request = client.header("content-type", "application/json").body(body);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { request.send().await.unwrap().json::<serde_json::Value>().await.unwrap() })
    };
    assert_eq!(publish("1")["results"][0]["outcome"], "duplicate");
    assert_eq!(publish("1")["results"][0]["seq"], serde_json::Value::Null);
    let new = publish("2");
    assert_eq!((&new["results"][0]["outcome"], &new["results"][0]["seq"]), (&"stored".into(), &1.into()));
    node.kill();
    let of_source = |source| Event::new("u", "1").unwrap().with_source(source).unwrap();
    let receipts = append(&database.open(), &[of_source("x"), of_source("y")]);
    assert_eq!((receipts[0].outcome, receipts[1].outcome), (Outcome::Duplicate, Outcome::Stored));
    succeed(Process::command(&["check", "--store", &database.url]));
}

#[test]
fn a_store_that_has_forgotten_identities_moves_to_postgres_and_back() {
    let Some(server) = TestServer::shared_own() else { return };
    let there = Database::new(server, "forgotten_there").open();
    moves_whole(&forgetful(2), &there);
    let own = Database::new(server, "forgotten_own").open();
    fill(&own);
    moves_whole(&own, &MemoryStore::default());
}
