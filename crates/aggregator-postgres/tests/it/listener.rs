//! The connection over which a node receives other nodes' commits, and what happens without it.

use aggregator_core::DedupStoreExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aggregator_core::DedupStore;
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::Proxy;
use crate::support::{append, await_that, events, open, options};

/// Returns a function that tells the last offset the store has announced; 0 before the first.
fn last_heard(store: &PostgresStore) -> impl Fn() -> u64 {
    let last = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&last);
    let listener = store.on_commit(Box::new(move |_, offset| heard.store(offset, Ordering::SeqCst))).unwrap();
    move || {
        // The closure keeps the listener alive.
        let _listener = &listener;
        last.load(Ordering::SeqCst)
    }
}

/// A role that owns the schema of these options and nothing else.
fn owner(server: &TestServer, options: &PostgresOptions) -> String {
    let role = format!("listener_{}", options.schema);
    server.sql(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {} AUTHORIZATION {role}", options.schema));
    role
}

/// Ends the role's listening connection, which is the one that reads the offsets of the partitions.
fn end_listener(server: &TestServer, role: &str) {
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE usename = '{role}' AND query = 'SELECT partition, last_offset FROM partitions'"
    );
    await_that("a listener is there to be ended", || server.sql(&end) == "1");
}

#[test]
fn a_listener_whose_connections_all_fail_connects_less_and_less_often() {
    let Some(server) = TestServer::shared_own() else { return };
    let (proxy, options) = (Proxy::new(server), options());
    let role = owner(server, &options);
    let _store = open(&proxy.url_of(&role), &options);
    // Every later connection is made and then fails at once.
    server.sql(&format!("REVOKE SELECT ON {}.partitions FROM {role}", options.schema));
    let (before, started) = (proxy.connections(), Instant::now());
    end_listener(server, &role);
    await_that("it tries again and again", || proxy.connections() >= before + 6);
    // The pauses before the last five are at least 50, 100, 200, 400 and 800 ms.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1_500), "six connections within {took:?}");
}

#[test]
fn a_listener_reconnects_by_itself_after_its_server_was_away() {
    let Some(mut server) = TestServer::start(&[]) else { return };
    let (proxy, options) = (Proxy::new(&server), options());
    let (one, other) = (open(&server.url(), &options), open(&proxy.url(), &options));
    let last = last_heard(&other);
    append(&one, &events("t", 0..1));
    await_that("the first commit is announced", || last() == 1);
    let (before, stopped) = (proxy.connections(), Instant::now());
    server.stop("INT");
    await_that("it tries to connect", || proxy.connections() >= before + 5);
    let took = stopped.elapsed();
    assert!(took >= Duration::from_millis(750), "five connections within {took:?}");
    server.launch();
    append(&one, &events("t", 1..2));
    await_that("the next commit is announced", || last() == 2);
}

#[test]
fn a_node_that_gets_no_connection_to_listen_learns_of_commits_by_polling() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let role = owner(server, &options);
    let (deaf, other) = (open(&server.url_of(&role), &options), open(&server.url(), &options));
    let last = last_heard(&deaf);
    deaf.stats().unwrap();
    // The role keeps one connection, that of its reader. It gets none to listen.
    server.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT 1"));
    end_listener(server, &role);
    for id in 0..3 {
        append(&other, &events("t", id..=id));
        await_that("a commit is announced", || last() == u64::from(id) + 1);
    }
    let reader = server.sql(&format!("SELECT pid FROM pg_stat_activity WHERE usename = '{role}'"));
    let reader: u32 = reader.parse().expect("it is the only connection");
    server.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    // The reader's connection may be closed by then, because a poll on it was interrupted.
    let others =
        format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND pid <> {reader}");
    await_that("it listens again", || server.sql(&others) == "1");
}
