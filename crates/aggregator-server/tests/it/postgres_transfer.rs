//! Stores that move to PostgreSQL and back, with the real program.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aggregator_core::store::Rows;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Outcome, Receipt, Record, Scope, SqliteStore, StoreStats, Topic,
    TopicInfo,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};
use tempfile::TempDir;

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

struct Lab {
    directory: TempDir,
}

impl Lab {
    /// A directory with a store `source.db` in it that has some of everything.
    fn new(events: u32) -> Self {
        let lab = Self { directory: TempDir::new().unwrap() };
        let store = SqliteStore::open(lab.path("source.db")).unwrap();
        let all: Vec<_> = (0..events).map(event).collect();
        for batch in all.chunks(1_000) {
            append(&store, batch);
        }
        append(&store, &all[..10]);
        append(&store, &[event(0).with_payload("[]").unwrap()]);
        store.purge(&Topic::new("orders.eu").unwrap(), u64::from(events) / 10).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sqlite(&self, name: &str) -> String {
        format!("sqlite:{}", self.path(name).display())
    }

    fn export(&self, store: &str, out: &str) {
        succeed(Process::command(&["export", "--store", store, "--out", self.path(out).to_str().unwrap()]));
    }

    fn import(&self, input: &str, store: &str, more: &[&str]) -> Command {
        let input = self.path(input);
        let mut command = Process::command(&["import", "--store", store, "--in", input.to_str().unwrap()]);
        command.args(more);
        command
    }
}

fn event(number: u32) -> Event {
    let (topic, scope) = match number % 3 {
        0 => ("orders.eu", Scope::Topic),
        1 => ("stock", Scope::Topic),
        _ => ("by-source", Scope::Source),
    };
    let event = Event::new(topic, format!("ä\"{number}")).unwrap().with_scope(scope);
    let event = event.with_source(if number.is_multiple_of(2) { "a" } else { "b c" }).unwrap();
    let event = event.with_payload(&format!(r#"{{"n":{number}.0,"s":"\ud800\u0000 ü","of":[null,1e400]}}"#));
    let event = event.unwrap();
    if number.is_multiple_of(7) { event.with_sequence(u64::from(number)) } else { event }
}

fn append(store: &dyn DedupStore, events: &[Event]) -> Vec<Receipt> {
    let views: Vec<_> = events.iter().map(Event::view).collect();
    store.append_all(&views).unwrap()
}

/// All there is; between topics there is no order.
fn contents(store: &dyn DedupStore) -> (Vec<Record>, Vec<TopicInfo>, StoreStats) {
    let mut rows = Rows::of(store);
    let mut rows: Vec<_> = std::iter::from_fn(|| rows.next().unwrap()).collect();
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    (rows, store.topics(None, 100).unwrap(), StoreStats { bytes: 0, ..store.stats().unwrap() })
}

fn of_file(path: &Path) -> (Vec<Record>, Vec<TopicInfo>, StoreStats) {
    contents(&SqliteStore::open(path).unwrap())
}

fn run(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    // What a signal ended has no code.
    (status.code().unwrap_or(-1), String::from_utf8(stderr).unwrap())
}

fn succeed(command: Command) -> String {
    let (code, message) = run(command);
    assert_eq!(code, 0, "{message}");
    message
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
    let Some(server) = TestServer::shared() else { return };
    const EVENTS: u32 = 2_000;
    let (lab, database) = (Lab::new(EVENTS), Database::new(server, "there_and_back"));
    lab.export(&lab.sqlite("source.db"), "export");
    // The partitions are those of the new store.
    let message = succeed(lab.import("export", &database.url, &["--batch-rows", "300", "--partitions", "4"]));
    assert!(message.contains("imported 2000 rows, 0 were there already"), "{message}");
    let message = succeed(lab.import("export", &database.url, &[]));
    assert!(message.contains("imported 0 rows, 2000 were there already"), "{message}");
    succeed(Process::command(&["check", "--store", &database.url]));
    let source = of_file(&lab.path("source.db"));
    assert_eq!(contents(&database.open()), source);

    lab.export(&database.url, "export-back");
    succeed(lab.import("export-back", &lab.sqlite("back.db"), &["--batch-rows", "170"]));
    succeed(Process::command(&["check", "--store", &lab.sqlite("back.db")]));
    assert_eq!(of_file(&lab.path("back.db")), source);

    let origin = SqliteStore::open(lab.path("source.db")).unwrap();
    let first = append(&origin, &(0..EVENTS).map(event).collect::<Vec<_>>());
    assert_repeats(&database.open(), &first);
    assert_repeats(&SqliteStore::open(lab.path("back.db")).unwrap(), &first);
    assert_eq!(append(&database.open(), &[Event::new("stock", "new").unwrap()])[0].seq, Some(668));
}

#[test]
fn an_import_into_postgres_that_is_killed_goes_on() {
    let Some(server) = TestServer::shared() else { return };
    const EVENTS: u32 = 6_000;
    let (lab, database) = (Lab::new(EVENTS), Database::new(server, "killed"));
    lab.export(&lab.sqlite("source.db"), "export");
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
    succeed(lab.import("export", &database.url, &[]));
    assert_eq!(contents(&database.open()), of_file(&lab.path("source.db")));
    assert_eq!(database.open().verify().unwrap().faults, [""; 0]);
}

#[test]
fn identities_alone_seed_a_store_in_postgres() {
    let Some(server) = TestServer::shared() else { return };
    let (lab, database) = (Lab::new(10), Database::new(server, "identities_alone"));
    let ids = "{\"topic\":\"t\",\"event_id\":\"1\",\"processed_at\":\"2020-01-01T00:00:00Z\"}\n\
               {\"topic\":\"u\",\"event_id\":\"1\",\"source\":\"x\",\"scope\":\"source\"}\n";
    fs::write(lab.path("ids"), ids).unwrap();
    let message = succeed(lab.import("ids", &database.url, &["--ids-only"]));
    assert!(message.contains("imported 2 identities, 0 were there already"), "{message}");
    let message = succeed(lab.import("ids", &database.url, &["--ids-only"]));
    assert!(message.contains("imported 0 identities, 2 were there already"), "{message}");

    let node = Process::start_with(&database.url, &[]);
    let publish = |id: &str| {
        let body = format!(r#"{{"topic":"t","event_id":"{id}","payload":{{"any":1}}}}"#);
        let client = reqwest::Client::new().post(format!("{}/publish", node.url));
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
