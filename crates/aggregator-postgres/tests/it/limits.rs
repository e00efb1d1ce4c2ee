//! Every wait has a limit.

use std::time::Duration;

use aggregator_core::{Deadline, DedupStore, DedupStoreExt, Event, Partitions, Query, StoreError, Topic};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{OtherSession, append, assert_complete, await_that, events, open, options, stored};

/// Limits so long that none of them ends a wait. Each test sets a shorter one.
fn patient() -> PostgresOptions {
    let long = Duration::from_secs(120);
    PostgresOptions {
        connection_wait: long,
        connect_timeout: long,
        deadline: long,
        statement_timeout: long,
        lock_timeout: long,
        idle_in_transaction_timeout: long,
        dead_peer_timeout: long,
        ..options()
    }
}

fn refused(store: &PostgresStore, event: &Event) -> String {
    let error = store.append_one(event).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    error.to_string()
}

/// Returns the error of an append that finds its partition locked. Another append, which has only [`patient`] limits,
/// waits meanwhile and is stored in the end.
fn refused_while_another_waits(server: &TestServer, options: &PostgresOptions) -> String {
    let hasty = open(&server.url(), options);
    let schema = options.schema.clone();
    let waiting = format!("waits_{schema}");
    let options = PostgresOptions { schema, application_name: waiting.clone(), ..patient() };
    let other = open(&server.url(), &options);
    append(&hasty, &events("t", 0..1));
    let locked = OtherSession::with_lock(server, &options.schema);
    std::thread::scope(|scope| {
        let other_append = scope.spawn(|| append(&other, &events("t", 1..2)));
        await_that("the other one waits for the lock", || waits_for_lock(server, &waiting));
        let error = refused(&hasty, &events("t", 1..2)[0]);
        drop(locked);
        assert_eq!(stored(&other_append.join().unwrap()), 1);
        append(&hasty, &events("t", 2..3));
        assert_complete(&hasty, 3);
        error
    })
}

fn waits_for_lock(server: &TestServer, application_name: &str) -> bool {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = '{application_name}' AND wait_event_type = 'Lock'"
    );
    server.sql(&waiting) == "1"
}

#[test]
fn an_append_that_finds_its_partition_locked_is_refused_in_time() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { lock_timeout: Duration::from_millis(200), ..patient() };
    let error = refused_while_another_waits(server, &options);
    assert!(error.contains("55P03"), "{error}");
}

#[test]
fn a_statement_that_takes_too_long_is_ended() {
    let Some(server) = TestServer::shared_own() else { return };
    // On a slow machine, even a statement that waits for nothing takes a while.
    let options = PostgresOptions { statement_timeout: Duration::from_secs(3), ..patient() };
    let error = refused_while_another_waits(server, &options);
    assert!(error.contains("57014"), "{error}");
}

/// A trigger records the settings of the session that appends.
#[test]
fn a_session_has_the_limits_of_its_store() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions {
        statement_timeout: Duration::from_millis(71_001),
        lock_timeout: Duration::from_millis(72_002),
        idle_in_transaction_timeout: Duration::from_millis(73_003),
        dead_peer_timeout: Duration::from_secs(60),
        ..options()
    };
    let store = open(&server.url(), &options);
    let names = [
        ("statement_timeout", "71001ms"),
        ("lock_timeout", "72002ms"),
        ("idle_in_transaction_session_timeout", "73003ms"),
        ("client_connection_check_interval", "15s"),
        ("synchronous_commit", "on"),
    ];
    let list: Vec<_> = names.iter().map(|(name, _)| format!("current_setting('{name}')")).collect();
    let (list, schema) = (list.join(", "), &options.schema);
    server.sql(&format!(
        "SET search_path = {schema};
         CREATE TABLE noted (settings text[]);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO {schema}.noted VALUES (ARRAY[{list}]); RETURN NULL; END
         $$;
         CREATE TRIGGER note AFTER UPDATE ON partitions FOR EACH ROW EXECUTE FUNCTION note()"
    ));
    append(&store, &events("t", 0..1));
    let noted = server.sql(&format!("SELECT array_to_string(settings, ' ') FROM {schema}.noted"));
    assert_eq!(noted, names.map(|(_, value)| value).join(" "));
}

/// The read waits, because another session has locked the table.
#[test]
fn a_read_ends_at_the_deadline_of_its_caller_and_the_next_one_is_served() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { read_connections: 1, ..patient() };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let read = || store.read(&Query::topic(Topic::new("t").unwrap()));
    let mut other = OtherSession::new(server);
    other.sql(&format!("BEGIN; LOCK TABLE {}.events IN ACCESS EXCLUSIVE MODE;", options.schema));
    let error = Deadline::after(Duration::from_millis(200)).scope(read).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("the deadline of its caller"), "{error}");
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
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions {
        append_connections: 1,
        read_connections: 1,
        connection_wait: Duration::from_millis(200),
        ..patient()
    };
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..1));
    let locked = OtherSession::with_lock(server, &options.schema);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| append(&store, &events("t", 1..2)));
        let name = &options.application_name;
        await_that("an append waits for the lock", || waits_for_lock(server, name));
        let error = refused(&store, &events("t", 2..3)[0]);
        assert!(error.contains("1 connections were busy for 200ms"), "{error}");
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
    let options = PostgresOptions { idle_in_transaction_timeout: Duration::from_millis(700), ..patient() };
    let vanishing = open(&proxy.url(), &options);
    let other = open(&server.url(), &PostgresOptions { schema: options.schema.clone(), ..patient() });
    append(&vanishing, &events("t", 0..1));
    append(&other, &events("t", 1..2));
    // The node's statements arrive but its commit does not, so it holds the lock.
    proxy.cut(Cut::Silence, 1);
    std::thread::scope(|scope| {
        let vanished = scope.spawn(|| append(&vanishing, &events("t", 2..4)));
        await_that("it holds the lock", || proxy.cuts() == 1);
        assert_eq!(stored(&append(&other, &events("t", 4..5))), 1);
        // The server ends the node's transaction, and the node tries again.
        assert_eq!(stored(&vanished.join().unwrap()), 2);
    });
    assert_complete(&other, 5);
}

#[test]
fn transactions_over_all_servers_may_leave_one_of_them_idle() {
    let Some(server) = TestServer::shared() else { return };
    let idle = |millis| PostgresOptions {
        idle_in_transaction_timeout: Duration::from_millis(millis),
        partitions: Partitions::new(4),
        ..patient()
    };
    let creating = idle(200);
    let schema = creating.schema.clone();
    drop(open(&server.url(), &creating));
    let store = open(&server.url(), &PostgresOptions { schema: schema.clone(), ..idle(120_000) });
    for topic in ["a", "b", "c", "d", "e"] {
        append(&store, &events(topic, 0..10));
    }
    let checking = open(&server.url(), &PostgresOptions { schema, ..idle(20) });
    assert_eq!(checking.verify().unwrap().faults, [""; 0]);
}

#[test]
fn payloads_that_repeat_another_identity_are_not_fetched_to_be_compared() {
    // A stored payload of another length differs anyway, so it is not fetched.
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
