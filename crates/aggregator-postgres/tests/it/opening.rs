//! Opening a store: what is refused, and what suffices.

use std::collections::HashSet;

use aggregator_core::{
    DedupStore, DedupStoreExt, Durability, Identity, Partitions, Query, StoreError, Topic, TopicQuery,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{OtherSession, append, assert_complete, events, new_schema, open, options};

fn refusal(url: &str, options: &PostgresOptions) -> StoreError {
    PostgresStore::open_with(&url.parse().unwrap(), options.clone()).err().expect("it is refused")
}

#[test]
fn nodes_that_start_together_make_one_store() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { partitions: Partitions::new(4), ..options() };
    let ids: HashSet<_> = std::thread::scope(|scope| {
        let starting: Vec<_> =
            (0..8).map(|_| scope.spawn(|| open(&server.url(), &options).info().id)).collect();
        starting.into_iter().map(|node| node.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1);
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..3));
    assert_complete(&store, 3);
}

#[test]
fn the_number_of_partitions_is_fixed_at_creation() {
    let Some(server) = TestServer::shared_own() else { return };
    let schema = new_schema();
    let with = |count: Option<u16>| PostgresOptions {
        schema: schema.clone(),
        partitions: count.and_then(Partitions::new),
        ..PostgresOptions::default()
    };
    assert_eq!(open(&server.url(), &with(None)).partitions().count(), 4);
    assert_eq!(open(&server.url(), &with(Some(4))).partitions().count(), 4);
    let error = refusal(&server.url(), &with(Some(16)));
    let StoreError::Invalid(faults) = &error else { panic!("{error}") };
    assert_eq!(faults[0].error.field, "partitions");
    assert!(error.to_string().contains("created with 4"), "{error}");
}

#[test]
fn tables_of_a_newer_version_are_refused() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    drop(open(&server.url(), &options));
    server.sql(&format!("UPDATE {}.meta SET value = '9' WHERE name = 'schema_version'", options.schema));
    let error = refusal(&server.url(), &options);
    assert!(matches!(error, StoreError::Format { found: 9, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("has format 9"), "{error}");
}

#[test]
fn a_role_that_may_only_read_suffices_for_readers() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let writer = open(&server.url(), &options);
    append(&writer, &events("t", 0..3));
    let (schema, role) = (&options.schema, format!("reader_{}", options.schema));
    server.sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ));
    let reading = PostgresOptions { read_only: true, ..options.clone() };
    let reader = open(&server.url_of(&role), &reading);
    assert_complete(&reader, 3);
    assert_eq!(reader.topics(&TopicQuery::default()).unwrap().len(), 1);
    assert_eq!(reader.stats().unwrap().stored, 3);
    let id = |id: &str| Identity {
        topic: Topic::new("t").unwrap(),
        event_id: aggregator_core::EventId::new(id).unwrap(),
        source: None,
    };
    let seen = reader.lookup(&[id("2"), id("9")]).unwrap();
    assert_eq!(seen.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    for error in [
        reader.append_one(&events("t", 3..4)[0]).unwrap_err(),
        reader.purge(&Topic::new("t").unwrap(), 1).unwrap_err(),
        reader.backup("x".as_ref()).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    }
    append(&writer, &events("t", 3..4));
    assert_eq!(reader.read(&Query::topic(Topic::new("t").unwrap())).unwrap().events.len(), 4);

    // The store opens, but its appends are refused with a reason.
    let store = open(&server.url_of(&role), &options);
    let error = store.append_one(&events("t", 4..5)[0]).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("permission denied"), "{error}");
}

#[test]
fn a_role_without_rights_gets_an_error_that_says_so() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let role = format!("nobody_{}", options.schema);
    server.sql(&format!("CREATE ROLE {role} LOGIN"));
    let error = refusal(&server.url_of(&role), &options);
    assert!(!error.is_fatal() && error.to_string().contains("permission denied"), "{error}");
    let error = refusal(&server.url_of(&role), &PostgresOptions { read_only: true, ..options.clone() });
    assert!(error.to_string().contains("holds no store"), "{error}");
    let error = refusal(&server.url_of("nobody_at_all"), &options);
    assert!(!error.is_fatal() && error.to_string().contains("nobody_at_all"), "{error}");
}

#[test]
fn a_role_without_the_right_to_create_schemas_may_be_given_one() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let role = format!("owner_{}", options.schema);
    server.sql(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {} AUTHORIZATION {role}", options.schema));
    let store = open(&server.url_of(&role), &options);
    append(&store, &events("t", 0..3));
    assert_complete(&store, 3);
}

#[test]
fn a_database_that_is_not_there_is_unavailable() {
    let directory = tempfile::TempDir::new().unwrap();
    let nowhere = directory.path().to_str().unwrap().replace('/', "%2F");
    let error = refusal(&format!("postgres://me:s3cret@{nowhere}/x"), &options());
    assert!(error.is_retryable() && !error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn options_outside_their_bounds_are_refused() {
    let good = options();
    let url = "postgres://me@localhost/x";
    let zero = std::time::Duration::ZERO;
    for (bad, field) in [
        (PostgresOptions { schema: "a; DROP".into(), ..good.clone() }, "schema"),
        (PostgresOptions { schema: String::new(), ..good.clone() }, "schema"),
        (PostgresOptions { append_connections: 0, ..good.clone() }, "append_connections"),
        (PostgresOptions { statement_timeout: zero, ..good.clone() }, "statement_timeout"),
        (PostgresOptions { read_timeout: zero, ..good.clone() }, "read_timeout"),
    ] {
        let error = refusal(url, &bad);
        let StoreError::Invalid(faults) = &error else { panic!("{error}") };
        assert_eq!(faults[0].error.field, field);
    }
}

#[test]
fn a_server_that_loses_commits_is_refused() {
    let Some(server) = TestServer::start(&[]) else { return };
    let options = options();
    let store = open(&server.url(), &options);
    assert_eq!(store.info().durability, Durability::Fsync);
    for setting in ["fsync", "full_page_writes"] {
        server.sql(&format!("ALTER SYSTEM SET {setting} = off"));
        server.sql("SELECT pg_reload_conf()");
        crate::support::await_that("the setting is off", || server.sql(&format!("SHOW {setting}")) == "off");
        let error = refusal(&server.url(), &options);
        let StoreError::Invalid(faults) = &error else { panic!("{error}") };
        assert_eq!(faults[0].error.field, setting);
        server.sql(&format!("ALTER SYSTEM RESET {setting}"));
        server.sql("SELECT pg_reload_conf()");
        crate::support::await_that("the setting is on", || server.sql(&format!("SHOW {setting}")) == "on");
    }
    append(&open(&server.url(), &options), &events("t", 0..1));
}

#[test]
fn a_server_without_checksums_causes_a_warning() {
    let Some(mut server) = TestServer::start(&[]) else { return };
    let options = options();
    let store = open(&server.url(), &options);
    assert!(
        matches!(store.warnings(), [warning] if warning.contains("data_checksums")),
        "{:?}",
        store.warnings()
    );
    drop(store);
    server.enable_checksums();
    assert_eq!(open(&server.url(), &options).warnings(), [""; 0]);
}

#[test]
fn a_read_only_database_is_unavailable_until_it_takes_writes() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let role = format!("writer_{}", options.schema);
    server.sql(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {} AUTHORIZATION {role}", options.schema));
    let store = open(&server.url_of(&role), &options);
    append(&store, &events("t", 0..1));
    server.sql(&format!("ALTER ROLE {role} SET default_transaction_read_only = on"));
    server.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"));
    let error = store.append_one(&events("t", 1..2)[0]).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("read-only"), "{error}");
    let error = refusal(&server.url_of(&role), &options);
    assert!(error.is_retryable() && error.to_string().contains("read-only"), "{error}");
    assert_eq!(store.read(&Query::topic(Topic::new("t").unwrap())).unwrap().events.len(), 1);
    server.sql(&format!("ALTER ROLE {role} RESET default_transaction_read_only"));
    append(&store, &events("t", 1..2));
    assert_complete(&store, 2);
}

#[test]
fn an_engine_without_advisory_locks_suffices() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let (schema, role) = (&options.schema, format!("unlocked_{}", options.schema));
    // The function exists but may not be called, as on engines that do not implement it yet. The test uses its own
    // database, because that has its own catalogue.
    server.sql(&format!("CREATE ROLE {role} LOGIN"));
    server.sql(&format!("CREATE DATABASE {schema} OWNER {role}"));
    OtherSession::new(server)
        .sql(&format!("\\c {schema}\nREVOKE EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) FROM PUBLIC;"));
    let url = server.url_of(&role).trim_end_matches("postgres").to_owned() + schema;
    let nodes: Vec<_> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&url, &options))).collect();
        opening.into_iter().map(|node| node.join().unwrap()).collect()
    });
    assert_eq!(nodes.iter().map(|node| node.info().id).collect::<HashSet<_>>().len(), 1);
    append(&nodes[0], &events("t", 0..3));
    assert_complete(&nodes[3], 3);
}

#[test]
fn a_database_that_does_not_hold_utf_8_is_refused() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let name = &options.schema;
    server.sql(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"));
    let url = server.url().trim_end_matches("postgres").to_owned() + name;
    let error = refusal(&url, &options);
    let StoreError::Invalid(faults) = &error else { panic!("{error}") };
    assert_eq!(faults[0].error.field, "server_encoding");
    assert!(error.to_string().contains("LATIN1"), "{error}");
}
