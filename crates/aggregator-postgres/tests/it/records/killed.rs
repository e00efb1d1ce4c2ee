//! A node that is killed while it writes.

use std::process::{Command, Stdio};

use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_postgres::PostgresOptions;
use aggregator_postgres::test_server::TestServer;

use super::{create, get, number, raise, records, written};
use crate::nodes::Node;
use crate::support::{await_that, open, options};

const WRITING: &str = "AGGREGATOR_TEST_WRITING_NODE";

/// The node that the next test starts as a process of its own: it raises two records together, and says in a file how
/// far it has come.
#[test]
fn a_node_that_writes_until_it_is_killed() {
    let Ok(node) = std::env::var(WRITING) else { return };
    let [url, schema, acknowledged] = node.split(' ').collect::<Vec<_>>()[..] else { panic!("{node}") };
    let options = PostgresOptions { schema: schema.to_owned(), ..PostgresOptions::default() };
    let store = open(url, &options);
    loop {
        let writes = ["a", "b"].map(|name| raise(&get(&store, name).unwrap()));
        written(&store, &writes);
        // Under another name first: it is never there by halves.
        let part = format!("{acknowledged}.part");
        std::fs::write(&part, number(&get(&store, "a").unwrap()).to_string()).unwrap();
        std::fs::rename(&part, acknowledged).unwrap();
    }
}

#[test]
fn a_node_that_is_killed_leaves_whole_writes_and_no_locks() {
    let Some(server) = TestServer::shared() else { return };
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
        // Its last write may come to its end behind its back, before or after one of these reads.
        let [a, b] = await_both(&store);
        assert_eq!(number(&a), number(&b));
        assert!(number(&a) >= read(), "{} of {}", number(&a), read());
        let outcome = records(&store).write(&[RecordWrite::update(&a, a.value.clone())]).unwrap();
        assert!(matches!(outcome, RecordOutcome::Written(_)), "{outcome:?}");
    }
}

/// Both as one statement sees them, once the node's session has ended.
fn await_both(store: &aggregator_postgres::PostgresStore) -> [aggregator_core::store::Record; 2] {
    let mut both = records(store).list(super::KIND, "", None, 9).unwrap();
    await_that("nothing is under way", || {
        let before = std::mem::replace(&mut both, records(store).list(super::KIND, "", None, 9).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        before == both
    });
    both.try_into().unwrap()
}
