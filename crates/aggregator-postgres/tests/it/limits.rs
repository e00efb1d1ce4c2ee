//! Every wait has its end.

use std::time::{Duration, Instant};

use aggregator_core::{Deadline, DedupStore, DedupStoreExt, Event, Query, StoreError, Topic};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{OtherSession, append, assert_complete, await_that, events, open, options, stored};

fn refused(store: &PostgresStore, event: &Event) -> (String, Duration) {
    let started = Instant::now();
    let error = store.append_one(event).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    (error.to_string(), started.elapsed())
}

#[test]
fn an_append_that_finds_its_partition_locked_is_refused_in_time() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { lock_timeout: Duration::from_millis(200), ..options() };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let locked = OtherSession::with_lock(server, &options.schema);
    let (error, took) = refused(&store, &events("t", 1..2)[0]);
    assert!(error.contains("55P03") && took < Duration::from_secs(3), "{error} after {took:?}");
    drop(locked);
    append(&store, &events("t", 1..2));
    assert_complete(&store, 2);
}

#[test]
fn a_statement_that_takes_too_long_is_ended() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { statement_timeout: Duration::from_millis(200), ..options() };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let locked = OtherSession::with_lock(server, &options.schema);
    let (error, took) = refused(&store, &events("t", 1..2)[0]);
    assert!(error.contains("57014") && took < Duration::from_secs(3), "{error} after {took:?}");
    drop(locked);
    append(&store, &events("t", 1..2));
    assert_complete(&store, 2);
}

/// Readers wait for whoever changes a table.
#[test]
fn a_read_ends_at_the_deadline_of_its_caller_and_the_next_one_is_served() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { read_connections: 1, ..options() };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let read = || store.read(&Query::topic(Topic::new("t").unwrap()));
    let mut other = OtherSession::new(server);
    other.sql(&format!("BEGIN; LOCK TABLE {}.events IN ACCESS EXCLUSIVE MODE;", options.schema));
    let started = Instant::now();
    let error = Deadline::after(Duration::from_millis(200)).scope(read).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("the deadline of its caller"), "{error}");
    assert!(started.elapsed() < options.lock_timeout, "{:?}", started.elapsed());
    drop(other);
    assert_eq!(Deadline::after(Duration::from_secs(60)).scope(read).unwrap().events.len(), 1);
}

#[test]
fn the_server_ends_a_read_as_well_even_if_the_caller_has_more_time() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { read_timeout: Duration::from_millis(200), ..options() };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let read = || store.read(&Query::topic(Topic::new("t").unwrap()));
    let mut other = OtherSession::new(server);
    other.sql(&format!("BEGIN; LOCK TABLE {}.events IN ACCESS EXCLUSIVE MODE;", options.schema));
    let error = Deadline::after(Duration::from_secs(60)).scope(read).unwrap_err();
    assert!(error.to_string().contains("57014"), "{error}");
    let error = read().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[test]
fn a_call_without_a_free_connection_is_refused_in_time() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions {
        append_connections: 1,
        read_connections: 1,
        connection_wait: Duration::from_millis(200),
        ..options()
    };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let locked = OtherSession::with_lock(server, &options.schema);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| append(&store, &events("t", 1..2)));
        await_that("an append waits for the lock", || {
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND wait_event_type = 'Lock'",
                options.schema
            );
            server.sql(&waits) == "1"
        });
        let (error, took) = refused(&store, &events("t", 2..3)[0]);
        assert!(
            error.contains("1 connections were busy") && took < Duration::from_secs(2),
            "{error} {took:?}"
        );
        let page = store.read(&Query::topic(Topic::new("t").unwrap())).unwrap();
        assert_eq!(page.events.len(), 1, "reads have connections of their own");
        drop(locked);
        assert_eq!(stored(&waiting.join().unwrap()), 1);
    });
    assert_complete(&store, 2);
}

#[test]
fn a_node_that_vanished_lets_go_of_its_partition() {
    let Some(server) = TestServer::shared() else { return };
    let proxy = Proxy::new(server);
    let options = PostgresOptions { idle_in_transaction_timeout: Duration::from_millis(700), ..options() };
    let vanishing = open(&proxy.url(), &options);
    let other = open(&server.url(), &options);
    append(&vanishing, &events("t", 0..1));
    append(&other, &events("t", 1..2));
    // Its statements arrive, its commit does not: it holds the lock.
    proxy.cut(Cut::Silence, 1);
    std::thread::scope(|scope| {
        let vanished = scope.spawn(|| append(&vanishing, &events("t", 2..4)));
        await_that("it holds the lock", || proxy.cuts() == 1);
        let started = Instant::now();
        assert_eq!(stored(&append(&other, &events("t", 4..5))), 1);
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        // It is told by the server, and tries again.
        assert_eq!(stored(&vanished.join().unwrap()), 2);
    });
    assert_complete(&other, 5);
}

#[test]
fn payloads_that_repeat_another_identity_are_not_fetched_to_be_compared() {
    // The comparison moves no more bytes than were sent: those of another length differ anyway.
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let event = |id: &str, payload: &str| Event::new("t", id).unwrap().with_payload(payload).unwrap();
    append(&store, &[event("1", &large)]);
    let receipts =
        append(&store, &[event("1", "1"), event("1", &large), event("1", &large.replace('x', "y"))]);
    let outcomes: Vec<_> = receipts.iter().map(|receipt| receipt.outcome.to_owned()).collect();
    use aggregator_core::Outcome::{Conflict, Duplicate};
    assert_eq!(outcomes, [Conflict, Duplicate, Conflict]);
}
