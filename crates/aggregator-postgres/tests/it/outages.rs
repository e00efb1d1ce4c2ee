//! Sessions and servers that go away under load.

use std::time::Duration;

use aggregator_core::{DedupStore, DedupStoreExt, Import, Partition, StoreError};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::standby::either;
use crate::support::{
    alone, append, assert_complete, await_some, await_that, events, open, options, publish_all,
};

#[test]
fn sessions_may_be_ended_under_load() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let nodes = [open(&server.url(), &options), open(&server.url(), &options)];
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '{}'",
        options.schema
    );
    let mut ended = 0;
    publish_all(&[&nodes[0], &nodes[1]], || {
        ended += server.sql(&end).parse::<u32>().unwrap();
        ended > 3
    });
}

#[test]
fn the_server_may_crash_under_load() {
    let Some(mut server) = TestServer::start(&[]) else { return };
    let options = options();
    let nodes = [open(&server.url(), &options), open(&server.url(), &options)];
    let mut left = 3;
    publish_all(&[&nodes[0], &nodes[1]], || {
        if left > 0 {
            left -= 1;
            server.restart();
        }
        left == 0
    });
}

#[test]
fn a_server_that_is_gone_is_unavailable_and_comes_back_by_itself() {
    let Some(mut server) = TestServer::start(&[]) else { return };
    let store = open(&server.url(), &options());
    append(&store, &events("t", 0..1));
    server.stop("INT");
    let error = store.append_one(&events("t", 1..2)[0]).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = store.stats().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.launch();
    append(&store, &events("t", 1..2));
    assert_complete(&store, 2);
}

#[test]
fn tables_that_contradict_themselves_are_found() {
    let Some(server) = TestServer::shared() else { return };
    for (damage, found) in [
        ("DELETE FROM events WHERE seq = 2", "rows up to offset"),
        ("UPDATE events SET seq = 9 WHERE seq = 5", "has seq 9 where 5 belongs"),
        ("UPDATE topics SET duplicates = 7", "the counter duplicates"),
        ("UPDATE topics SET last_seq = 4", "ends at seq 4"),
        ("UPDATE events SET payload = NULL WHERE seq = 3", "no payload"),
        ("UPDATE topics SET purged_offset = 3", "is purged to offset 3"),
        ("UPDATE partitions SET last_offset = 7", "the counter last_offset"),
        ("UPDATE topics SET name = 'moved', slot = 5", "has slot 5"),
        ("UPDATE events SET processed_at = 0 WHERE seq = 4", "goes back"),
        ("UPDATE events SET digest = 'x' WHERE seq = 1", "at seq 1"),
        ("UPDATE events SET digest = substr(digest, 2) WHERE seq = 1", "at seq 1"),
        ("UPDATE partitions SET stored = 4", "the counter stored"),
        ("UPDATE partitions SET conflicts = 1", "the counter conflicts"),
        ("DELETE FROM events WHERE \"offset\" = 2", "rows up to offset"),
        ("UPDATE events SET seq = 3 WHERE seq = 2", "has seq 3 where 2 belongs"),
        ("UPDATE events SET digest = 'x' WHERE seq IS NULL", "an identity alone"),
        ("UPDATE events SET payload = '1' WHERE seq IS NULL", "an identity alone"),
        ("UPDATE events SET source_key = 'x' WHERE seq = 2", "a row at offset 2 whose key"),
        ("UPDATE events SET source_key = chr(1) || '9' WHERE seq = 2", "a row at offset 2 whose key"),
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        append(&store, &events("t", 0..5));
        store.purge(&aggregator_core::Topic::new("t").unwrap(), 1).unwrap();
        store.import(Partition(0), Import::rows(&[alone("t", "alone")])).unwrap();
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        server.sql(&format!("SET search_path = {}; {damage}", options.schema));
        let faults = store.verify().unwrap().faults;
        assert!(faults.iter().any(|fault| fault.contains(found)), "{damage}: {faults:?}");
    }
}

#[test]
fn an_offset_that_is_already_taken_is_corruption() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..3));
    // The next event would get this offset.
    server.sql(&format!("UPDATE {}.events SET \"offset\" = 4 WHERE \"offset\" = 2", options.schema));
    let error = store.append_one(&events("t", 3..4)[0]).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn a_server_that_hangs_keeps_nobody_from_the_next_one() {
    let Some(mut primary) = TestServer::start(&[]) else { return };
    let standby = primary.standby(&[]);
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.sql("SELECT pg_reload_conf()");
    await_that("the standby is synchronous", || {
        primary.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"
    });
    let options = options();
    append(&open(&primary.url(), &options), &events("t", 0..2));
    let hasty = PostgresOptions {
        deadline: Duration::from_secs(4),
        connect_timeout: Duration::from_secs(1),
        ..options.clone()
    };
    let url = either(&primary, &standby).parse().unwrap();
    let store = await_some("opened in time", || PostgresStore::open_with(&url, hasty.clone()).ok());
    // Appends a repeat, so that the pool keeps a session.
    await_that("an append is done", || store.append_one(&events("t", 1..2)[0]).is_ok());
    primary.freeze();
    standby.sql("SELECT pg_promote()");
    // Only the deadline ends the call that is under way. The next call finds the other server.
    let error = store.append_one(&events("t", 2..3)[0]).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    await_that("the next one finds the other server", || store.append_one(&events("t", 2..3)[0]).is_ok());
    let promoted = open(&standby.url(), &options);
    append(&promoted, &events("t", 3..4));
    assert_complete(&promoted, 4);
    primary.thaw();
}
