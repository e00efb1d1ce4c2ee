//! The tables of every version there has been: see `tests/golden/README.md`. They hold the same as the core's golden
//! stores.

#[path = "../../../aggregator-core/tests/golden/contents.rs"]
mod contents;

use aggregator_core::store::{RecordOutcome, RecordWrite, Rows};
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, MemoryStore, Outcome, Partitions, StoreStats, StoredRow, Timestamp,
    Topic, TopicInfo, TopicQuery,
};
use aggregator_postgres::PostgresOptions;
use aggregator_postgres::test_server::TestServer;

use crate::support::open;

/// All that a store keeps and counts, except its size. Backends may order topics differently, so the rows are sorted.
fn contents_of(store: &dyn DedupStore) -> (Vec<StoredRow>, Vec<TopicInfo>, StoreStats) {
    let mut rows = Rows::of(store);
    let mut rows: Vec<_> = std::iter::from_fn(|| rows.next().unwrap()).collect();
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    let mut stats = store.stats().unwrap();
    stats.bytes = 0;
    (rows, store.topics(&TopicQuery::default()).unwrap(), stats)
}

/// Options for the schema of a dump.
fn in_schema(schema: &str) -> PostgresOptions {
    PostgresOptions { schema: schema.to_owned(), ..PostgresOptions::default() }
}

#[test]
fn tables_of_version_1_are_opened_with_all_they_held() {
    are_opened_with_all_they_held(include_str!("../golden/version-1.sql"), "version_1");
}

#[test]
fn tables_of_version_2_are_opened_with_all_they_held() {
    are_opened_with_all_they_held(include_str!("../golden/version-2.sql"), "version_2");
}

fn are_opened_with_all_they_held(tables: &str, schema: &str) {
    let Some(server) = TestServer::shared_own() else { return };
    server.sql(tables);
    let store = open(&server.url(), &in_schema(schema));
    let expected = MemoryStore::new(Partitions::ONE).with_clock(contents::clock());
    contents::fill(&expected);
    assert_eq!(contents_of(&store), contents_of(&expected));
    assert_eq!(store.verify().unwrap().faults, [""; 0]);

    let outcomes = |events: &[Event]| -> Vec<_> {
        let receipts = store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        receipts.iter().map(|receipt| receipt.outcome).collect()
    };
    let events = contents::events();
    assert_eq!(outcomes(&events), vec![Outcome::Duplicate; events.len()]);
    let conflicts: Vec<_> = events.iter().map(contents::conflicting).collect();
    assert_eq!(outcomes(&conflicts), vec![Outcome::Conflict; events.len()]);
    assert_eq!(outcomes(&[Event::new("legacy", "old-3").unwrap()]), [Outcome::Duplicate]);
    assert_eq!(outcomes(&[Event::new("legacy", "new").unwrap()]), [Outcome::Stored]);
    // The newer tables were added when it was opened.
    let records = store.records().unwrap();
    let outcome = records.write(&[RecordWrite::create("lease", "a", "1")]).unwrap();
    let record = records.get("lease", "a").unwrap().unwrap();
    assert_eq!(outcome, RecordOutcome::Written(vec![record.version]));
    assert_eq!(record.value, b"1");
    let legacy = Topic::new("legacy").unwrap();
    assert!(store.forget_identities(&legacy, Timestamp::from_micros(i64::MAX), u64::MAX).unwrap() > 0);
    assert_eq!(outcomes(&[Event::new("legacy", "old-3").unwrap()]), [Outcome::Stored]);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// Not a test: it dumps golden tables of this program's version to the path in `GOLDEN_TABLES`.
#[test]
#[ignore = "writes golden tables; tests/golden/README.md says when"]
fn make_golden_tables() {
    let server = TestServer::shared_own().unwrap();
    let schema = std::env::var("GOLDEN_SCHEMA").unwrap();
    let clock = Some(contents::clock());
    let options = PostgresOptions { partitions: Some(Partitions::ONE), clock, ..in_schema(&schema) };
    contents::fill(&open(&server.url(), &options));
    let mut dump = std::process::Command::new("pg_dump");
    dump.args([
        "--inserts",
        "--no-owner",
        "--no-privileges",
        "--username",
        "aggregator",
        "--schema",
        &schema,
    ]);
    let dump = dump.arg("--host").arg(server.directory()).arg("postgres").output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let dump = String::from_utf8(dump.stdout).unwrap();
    // The tests send plain SQL, so comments and psql's commands are left out.
    let is_sql = |line: &&str| !line.is_empty() && !line.starts_with("--") && !line.starts_with('\\');
    let dump: Vec<_> = dump.lines().filter(is_sql).collect();
    std::fs::write(std::env::var("GOLDEN_TABLES").unwrap(), dump.join("\n") + "\n").unwrap();
}
