//! Synchronous standbys, and which events survive a fail-over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aggregator_core::{
    Clock, DedupStore, DedupStoreExt, Durability, StoreError, Timestamp, Topic, TopicQuery,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{
    append, assert_complete, await_some, await_that, events, open, options, publish_all, stored,
};

pub(crate) fn synchronous(primary: &TestServer, names: &str) {
    primary.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
    primary.sql("SELECT pg_reload_conf()");
    await_that("the setting is read", || primary.sql("SHOW synchronous_standby_names") == names);
    if !names.is_empty() {
        let standby = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
        await_that("the standby is synchronous", || primary.sql(standby) == "1");
    }
}

/// A URL with two servers.
pub(crate) fn either(one: &TestServer, other: &TestServer) -> String {
    let path = |server: &TestServer| server.directory().to_str().unwrap().replace('/', "%2F");
    format!("postgres://aggregator@{},{}/postgres?target_session_attrs=read-write", path(one), path(other))
}

#[test]
fn what_was_acknowledged_survives_a_fail_over() {
    let Some(mut primary) = TestServer::start(&[]) else { return };
    let standby = primary.standby(&[]);
    synchronous(&primary, "*");
    let options = options();
    // The standby comes first in the URL, and is passed over while it is a standby.
    let url = either(&standby, &primary);
    let nodes = [open(&url, &options), open(&url, &options)];
    let mut promoted = false;
    publish_all(&[&nodes[0], &nodes[1]], || {
        if !promoted && nodes[0].stats().is_ok_and(|stats| stats.stored > 50) {
            primary.stop("QUIT");
            standby.sql("SELECT pg_promote()");
            promoted = true;
        }
        promoted
    });
    let error = PostgresStore::open_with(&primary.url().parse().unwrap(), options).err().unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[test]
fn nothing_is_acknowledged_without_the_standby_that_is_required() {
    let Some(primary) = TestServer::start(&[]) else { return };
    let mut standby = primary.standby(&[]);
    let options = PostgresOptions { require_sync_standby: true, ..options() };
    let refused = |why: &str| {
        let error = PostgresStore::open_with(&primary.url().parse().unwrap(), options.clone()).err().unwrap();
        assert!(
            matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains(why),
            "{error}"
        );
    };
    refused("synchronous_standby_names is empty");
    synchronous(&primary, "*");
    let store = open(&primary.url(), &options);
    assert_eq!(store.info().durability, Durability::Replicated);
    append(&store, &events("t", 0..2));

    // A standby cannot be opened for writing.
    let error = PostgresStore::open_with(&standby.url().parse().unwrap(), options.clone()).err().unwrap();
    assert!(error.to_string().contains("standby"), "{error}");
    let reader = PostgresOptions { read_only: true, ..options.clone() };
    await_that("a read-only store reads from the standby", || {
        open(&standby.url(), &reader).stats().is_ok_and(|stats| stats.stored == 2)
    });

    // If the wait for the standby is cancelled, the server sends a warning and then `COMMIT` as usual.
    let hasty = PostgresOptions { deadline: Duration::from_secs(2), ..options.clone() };
    let url = primary.url().parse().unwrap();
    let hasty = await_some("opened in time", || PostgresStore::open_with(&url, hasty.clone()).ok());
    standby.stop("QUIT");
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    // On a slow machine the deadline may pass before anything waits.
    await_that("a wait is cancelled", || {
        std::thread::scope(|scope| {
            let appending = scope.spawn(|| hasty.append_one(&events("t", 2..3)[0]).unwrap_err());
            let mut cancelled = 0;
            while !appending.is_finished() {
                cancelled += primary.sql(cancel).parse::<u32>().unwrap();
            }
            let error = appending.join().unwrap();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            cancelled > 0
        })
    });
    drop(hasty);
    refused("none is connected");
    standby.launch();
    await_that("the standby is back", || store.append_one(&events("t", 2..3)[0]).is_ok());
    assert_eq!(stored(&append(&store, &events("t", 3..4))), 1);
    assert_complete(&store, 4);

    // The setting is checked at each append, not only at the start.
    synchronous(&primary, "");
    let error = store.append_one(&events("t", 4..5)[0]).unwrap_err();
    assert!(
        matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains("standby"),
        "{error}"
    );
}

/// Runs a call that writes while the standby is frozen, and cancels its wait for the standby. The transaction is then
/// committed on the primary only, and the call must try again. The standby continues once the second try waits as well.
pub(crate) fn with_a_wait_cut_short<T: Send>(
    primary: &TestServer,
    standby: &mut TestServer,
    call: impl FnOnce() -> T + Send,
) -> T {
    standby.freeze();
    std::thread::scope(|scope| {
        let calling = scope.spawn(call);
        let waiting = || primary.sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        await_that("the call waits for the standby", || !waiting().is_empty());
        let first = waiting();
        primary.sql(&format!("SELECT pg_cancel_backend({first})"));
        await_that("it waits again", || calling.is_finished() || !["", &first].contains(&waiting().as_str()));
        assert!(!calling.is_finished(), "it was acknowledged without the standby");
        standby.thaw();
        calling.join().unwrap()
    })
}

/// Limits so long that only the standby can end a wait.
pub(crate) fn patient() -> PostgresOptions {
    let long = Duration::from_secs(60);
    PostgresOptions {
        require_sync_standby: true,
        deadline: long,
        statement_timeout: long,
        lock_timeout: long,
        ..options()
    }
}

#[test]
fn a_repeat_of_an_attempt_writes_and_waits_for_the_standby_itself() {
    let Some(primary) = TestServer::start(&[]) else { return };
    let mut standby = primary.standby(&[]);
    synchronous(&primary, "*");
    let options = PostgresOptions { clock: Some(ticking_clock()), ..patient() };
    let store = open(&primary.url(), &options);
    append(&store, &events("t", 0..1));
    let receipts = with_a_wait_cut_short(&primary, &mut standby, || append(&store, &events("t", 1..3)));
    assert_eq!(stored(&receipts), 2);
    // The repeat writes the row of the attempt, which is then kept for longer.
    let newest = primary.sql(&format!("SELECT max(at) FROM {}.appends", options.schema));
    let newest: i64 = newest.parse().unwrap();
    assert!(newest > receipts[0].processed_at.as_micros(), "the repeat wrote nothing");
    assert_complete(&store, 3);
}

#[test]
fn a_purge_that_finds_its_work_done_waits_for_the_standby_itself() {
    let Some(primary) = TestServer::start(&[]) else { return };
    let mut standby = primary.standby(&[]);
    synchronous(&primary, "*");
    let store = open(&primary.url(), &patient());
    append(&store, &events("t", 0..5));
    let topic = Topic::new("t").unwrap();
    with_a_wait_cut_short(&primary, &mut standby, || store.purge(&topic, 3).unwrap());
    assert_eq!(store.topics(&TopicQuery::default()).unwrap()[0].purged_seq, 3);
    assert_eq!(store.purge(&Topic::new("unknown").unwrap(), 3).unwrap(), 0);
}

/// A clock that advances by a second each time it is read.
fn ticking_clock() -> Clock {
    let seconds = AtomicI64::new(1_800_000_000);
    Arc::new(move || Timestamp::from_micros(seconds.fetch_add(1, Ordering::SeqCst) * 1_000_000))
}
