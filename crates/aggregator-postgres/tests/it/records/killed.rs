//! A node that is killed while it writes.

use std::process::{Command, Stdio};

use aggregator_core::store::{Record, RecordOutcome, RecordWrite};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use super::{create, get, number, raise, records, written};
use crate::nodes::Node;
use crate::support::{await_that, open, options};

const WRITING: &str = "AGGREGATOR_TEST_WRITING_NODE";

/// The node that the next test starts as a separate process. It raises two records together, and writes to a file how
/// far it has come.
#[test]
fn a_node_that_writes_until_it_is_killed() {
    let Ok(node) = std::env::var(WRITING) else { return };
    let [url, schema, acknowledged] = node.split(' ').collect::<Vec<_>>()[..] else { panic!("{node}") };
    let application_name = writing_node(schema);
    let options =
        PostgresOptions { schema: schema.to_owned(), application_name, ..PostgresOptions::default() };
    let store = open(url, &options);
    loop {
        let writes = ["a", "b"].map(|name| raise(&get(&store, name).unwrap()));
        written(&store, &writes);
        // It is written under another name first, so that the file is never incomplete.
        let part = format!("{acknowledged}.part");
        std::fs::write(&part, number(&get(&store, "a").unwrap()).to_string()).unwrap();
        std::fs::rename(&part, acknowledged).unwrap();
    }
}

#[test]
fn a_node_that_is_killed_leaves_whole_writes_and_no_locks() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    written(&store, &[create("a", "0"), create("b", "0")]);
    let directory = tempfile::TempDir::new().unwrap();
    let acknowledged = directory.path().join("acknowledged");
    let read = || std::fs::read_to_string(&acknowledged).map_or(0, |text| text.parse::<u32>().unwrap());
    for round in 1..=5 {
        let before = read();
        let mut node = Command::new(std::env::current_exe().unwrap());
        node.args(["--exact", "records::killed::a_node_that_writes_until_it_is_killed", "--nocapture"]);
        node.stdout(Stdio::null());
        node.env(WRITING, format!("{} {} {}", server.url(), options.schema, acknowledged.display()));
        let mut node = Node(node.spawn().unwrap());
        await_that("it has written", || {
            assert_eq!(node.0.try_wait().unwrap(), None, "it ended by itself");
            read() > before + round
        });
        drop(node);
        await_end_of_sessions(server, &options.schema);
        let [a, b] = both(&store);
        assert_eq!(number(&a), number(&b));
        assert!(number(&a) >= read(), "{} of {}", number(&a), read());
        let outcome = records(&store).write(&[RecordWrite::update(&a, a.value.clone())]).unwrap();
        assert!(matches!(outcome, RecordOutcome::Written(_)), "{outcome:?}");
    }
}

/// The name of the sessions of the node that is killed.
fn writing_node(schema: &str) -> String {
    format!("{schema}_writing")
}

/// Waits for the sessions to end: until then, the server may still commit a statement of the client that died.
fn await_end_of_sessions(server: &TestServer, schema: &str) {
    let sessions =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}'", writing_node(schema));
    await_that("the node's sessions have ended", || server.sql(&sessions) == "0");
}

/// Both records as one statement sees them.
fn both(store: &PostgresStore) -> [Record; 2] {
    records(store).list(super::KIND, "", None, 9).unwrap().try_into().unwrap()
}
