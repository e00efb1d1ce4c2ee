//! Records in stores that older programs created, and for roles with few rights.

use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_core::{DedupStore, DedupStoreExt, StoreError};
use aggregator_postgres::PostgresOptions;
use aggregator_postgres::test_server::TestServer;

use super::{KIND, create, get, records, written};
use crate::proxy::{Cut, Proxy};
use crate::support::{append, assert_complete, events, open, options};

/// Turns the store into one that a program without records created.
fn forget_records(server: &TestServer, schema: &str) {
    server.sql(&format!(
        "SET search_path = {schema}; DROP TABLE records, record_versions;
         DELETE FROM meta WHERE name = 'tables_version'"
    ));
}

#[test]
fn nodes_that_start_together_add_the_tables_once() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    append(&open(&server.url(), &options), &events("t", 0..3));
    forget_records(server, &options.schema);
    let nodes: Vec<_> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&server.url(), &options))).collect();
        opening.into_iter().map(|node| node.join().unwrap()).collect()
    });
    for (at, node) in nodes.iter().enumerate() {
        written(node, &[create(&at.to_string(), "0")]);
    }
    assert_eq!(records(&nodes[0]).list(KIND, "", None, 100).unwrap().len(), 8);
    assert_complete(&nodes[0], 3);
}

/// The tables that an older program uses stay the same, and it can append while a newer one adds tables.
#[test]
fn older_programs_go_on_beside_newer_ones() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let older = open(&server.url(), &options);
    append(&older, &events("t", 0..1));
    forget_records(server, &options.schema);
    // A running append does not block adding the tables.
    let mut appending = crate::support::OtherSession::with_lock(server, &options.schema);
    appending.sql(&format!("INSERT INTO {}.appends VALUES (0, 'x', 1, 0, 0);", options.schema));
    let newer = open(&server.url(), &options);
    drop(appending);
    written(&newer, &[create("a", "0")]);
    append(&older, &events("t", 1..2));
    append(&newer, &events("t", 2..3));
    assert_complete(&older, 3);
    let said =
        |name: &str| server.sql(&format!("SELECT value FROM {}.meta WHERE name = '{name}'", options.schema));
    // An older program refuses a store with a higher `schema_version`.
    assert_eq!((said("schema_version"), said("tables_version")), ("1".into(), "3".into()));
}

#[test]
fn a_role_that_may_not_add_the_tables_stores_events_without_records() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let owner = open(&server.url(), &options);
    forget_records(server, &options.schema);
    let (schema, role) = (&options.schema, format!("appender_{}", options.schema));
    server.sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ));
    let store = open(&server.url_of(&role), &options);
    assert!(store.records().is_none());
    assert!(store.warnings().iter().any(|warning| warning.contains("records")), "{:?}", store.warnings());
    append(&store, &events("t", 0..3));
    assert_complete(&store, 3);
    drop(owner);
    // A role with the right adds the tables, and grants the other role their use.
    open(&server.url(), &options);
    let store = open(&server.url_of(&role), &options);
    let error = records(&store).write(&[create("a", "0")]).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("permission denied"), "{error}");
    server.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.records, {schema}.record_versions TO {role}"
    ));
    written(&store, &[create("a", "0")]);
}

#[test]
fn a_role_that_may_only_read_reads_records() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    let version = written(&store, &[create("a", "0")])[0];
    let (schema, role) = (&options.schema, format!("record_reader_{}", options.schema));
    server.sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ));
    let reading = PostgresOptions { read_only: true, ..options.clone() };
    let reader = open(&server.url_of(&role), &reading);
    assert_eq!(get(&reader, "a").unwrap().version, version);
    assert_eq!(records(&reader).list(KIND, "", None, 9).unwrap().len(), 1);
    records(&reader).now().unwrap();
    let error = records(&reader).write(&[create("b", "0")]).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    assert_eq!(reader.verify().unwrap().faults, [""; 0]);
    // The store has no tables of records, and the role may not add them.
    forget_records(server, schema);
    let reader = open(&server.url_of(&role), &reading);
    assert!(reader.records().is_none());
    assert_eq!(reader.verify().unwrap().faults, [""; 0]);
}

#[test]
fn records_that_contradict_themselves_are_found() {
    let Some(server) = TestServer::shared_own() else { return };
    for (damage, found) in [
        ("UPDATE records SET version = 9000000000000000", "has version 9000000000000000"),
        ("UPDATE records SET version = 0", "has version 0"),
        ("DELETE FROM record_versions WHERE last_version > 0", "has no row"),
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        written(&store, &[create("a", "0")]);
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        server.sql(&format!("SET search_path = {}; {damage}", options.schema));
        let faults = store.verify().unwrap().faults;
        assert!(faults.iter().any(|fault| fault.contains(found)), "{damage}: {faults:?}");
        if let Some(record) = get(&store, "a").filter(|record| record.version != 0) {
            let error = records(&store).write(&[RecordWrite::update(&record, "1")]).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
        }
    }
}

#[test]
fn the_tables_are_added_although_the_first_answer_is_lost() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    append(&open(&server.url(), &options), &events("t", 0..1));
    forget_records(server, &options.schema);
    let proxy = Proxy::new(server);
    proxy.cut(Cut::BeforeAnswer, 1);
    let lost = aggregator_postgres::PostgresStore::open_with(&proxy.url().parse().unwrap(), options.clone());
    assert!(lost.err().unwrap().is_retryable());
    let store = open(&proxy.url(), &options);
    assert!(matches!(records(&store).write(&[create("a", "0")]), Ok(RecordOutcome::Written(_))));
}
