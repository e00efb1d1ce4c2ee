//! Receipts stay true when a commit's answer is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aggregator_core::Outcome::{Conflict, Duplicate, Stored};
use aggregator_core::{
    AttemptId, Clock, DedupStore, DedupStoreExt, Event, Partition, Receipt, StoreError, Timestamp,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{
    append, assert_complete, await_some, await_that, events, open, options, outcomes, publish_all, stored,
};

fn views(events: &[Event]) -> Vec<aggregator_core::EventRef<'_>> {
    events.iter().map(Event::view).collect()
}

fn attempt(store: &PostgresStore, id: AttemptId, events: &[Event]) -> Result<Vec<Receipt>, StoreError> {
    store.append(Partition(0), id, &views(events))
}

#[test]
fn events_of_a_commit_that_was_cut_off_are_reported_as_stored() {
    let Some(server) = TestServer::shared() else { return };
    let proxy = Proxy::new(server);
    for (url, cut) in [proxy.url(), proxy.tcp_url()]
        .iter()
        .flat_map(|url| [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer].map(|cut| (url, cut)))
    {
        let before = proxy.cuts();
        let store = open(url, &options());
        append(&store, &events("t", 0..5));
        proxy.cut(cut, 1);
        // Two events repeat stored ones, and one repeats an event of the batch.
        let batch = events("t", [3, 4, 5, 6, 7, 5]);
        let receipts = append(&store, &batch);
        assert_eq!(proxy.cuts(), before + 1);
        assert_eq!(outcomes(&receipts), [Duplicate, Duplicate, Stored, Stored, Stored, Duplicate], "{cut:?}");
        let seqs: Vec<_> = receipts.iter().map(|receipt| receipt.seq.unwrap()).collect();
        assert_eq!(seqs, [4, 5, 6, 7, 8, 6], "{cut:?}");
        assert_complete(&store, 8);
        assert_eq!(store.stats().unwrap().duplicates, 3, "nothing is counted twice: {cut:?}");
    }
}

#[test]
fn events_of_a_commit_that_is_cut_off_again_and_again_are_reported_as_stored_in_the_end() {
    let Some(server) = TestServer::shared() else { return };
    let proxy = Proxy::new(server);
    let store = open(&proxy.url(), &options());
    append(&store, &events("t", 0..1));
    proxy.cut(Cut::BeforeAnswer, 4);
    assert_eq!(stored(&append(&store, &events("t", 1..4))), 3);
    assert_eq!(proxy.cuts(), 4);
    assert_complete(&store, 4);
}

#[test]
fn a_commit_whose_outcome_cannot_be_learned_in_time_is_unavailable() {
    let Some(server) = TestServer::shared_own() else { return };
    let proxy = Proxy::new(server);
    let options = options();
    let patient = open(&server.url(), &options);
    append(&patient, &events("t", 0..1));
    let hasty = PostgresOptions { deadline: Duration::from_millis(400), ..options };
    let url = proxy.url().parse().unwrap();
    let store = await_some("opened in time", || PostgresStore::open_with(&url, hasty.clone()).ok());
    let one = events("t", 1..2);
    // On a slow machine the deadline may pass before anything is committed.
    await_that("a commit is cut off", || {
        let before = proxy.cuts();
        proxy.cut(Cut::BeforeAnswer, 1_000);
        let error = attempt(&store, AttemptId::new(), &one).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let cuts = proxy.cuts() - before;
        // The deadline leaves time for eight pauses. Without a deadline there would be as many as there are cuts.
        assert!(cuts < 20, "{cuts} tries within {:?}", hasty.deadline);
        cuts > 0
    });
    proxy.cut(Cut::BeforeAnswer, 0);
    // A new attempt can only learn that somebody stored the event.
    assert_eq!(append(&patient, &one)[0].outcome, Duplicate);
    assert_complete(&patient, 2);
}

#[test]
fn the_same_attempt_is_answered_the_same() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    append(&store, &events("t", 0..3));
    let id = AttemptId::new();
    let mut batch = events("t", [2, 3, 4, 3]);
    batch.push(Event::new("t", "4").unwrap().with_payload("7").unwrap());
    batch.extend(events("u", 0..2));
    let first = attempt(&store, id, &batch).unwrap();
    assert_eq!(outcomes(&first), [Duplicate, Stored, Stored, Duplicate, Conflict, Stored, Stored]);
    let stats = store.stats().unwrap();
    append(&store, &events("t", 5..7));
    assert_eq!(attempt(&store, id, &batch).unwrap(), first);
    let after = store.stats().unwrap();
    assert_eq!((after.duplicates, after.conflicts), (stats.duplicates, stats.conflicts));
    assert_eq!(attempt(&store, AttemptId::new(), &batch).unwrap()[1].outcome, Duplicate, "another attempt");

    // An attempt with nothing but repeats stores nothing, and is still answered the same.
    let repeats = events("t", 0..2);
    let id = AttemptId::new();
    let first = attempt(&store, id, &repeats).unwrap();
    assert_eq!(attempt(&store, id, &repeats).unwrap(), first);
    assert_eq!(store.stats().unwrap().duplicates, after.duplicates + 5 + 2 + 2);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn an_attempt_with_other_events_is_refused() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let id = AttemptId::new();
    attempt(&store, id, &events("t", 0..2)).unwrap();
    let error = attempt(&store, id, &events("t", 0..3)).unwrap_err();
    assert!(matches!(&error, StoreError::Invalid(faults) if faults[0].error.field == "attempt"), "{error}");
    assert_eq!(stored(&attempt(&store, AttemptId::new(), &events("t", 2..3)).unwrap()), 1);
    assert_complete(&store, 3);
}

#[test]
fn attempts_are_forgotten_after_a_while() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    for id in 0..20 {
        append(&store, &events("t", id..=id));
    }
    let kept = || server.sql(&format!("SELECT count(*) FROM {}.appends", options.schema));
    assert_eq!(kept(), "20");
    server.sql(&format!("UPDATE {}.appends SET at = at - 3601000000", options.schema));
    // One append in 16 deletes old attempts.
    let forgetting = std::iter::repeat_with(AttemptId::new).find(|id| id.as_u128() % 16 == 0).unwrap();
    let lazy = std::iter::repeat_with(AttemptId::new).find(|id| id.as_u128() % 16 != 0).unwrap();
    attempt(&store, lazy, &events("t", 20..21)).unwrap();
    assert_eq!(kept(), "21");
    attempt(&store, forgetting, &events("t", 21..22)).unwrap();
    assert_eq!(kept(), "2");
}

#[test]
fn an_attempt_is_kept_for_as_long_as_it_may_be_tried() {
    let Some(server) = TestServer::shared() else { return };
    let seconds = Arc::new(AtomicI64::new(1_800_000_000));
    let told = Arc::clone(&seconds);
    let clock: Clock = Arc::new(move || Timestamp::from_micros(told.load(Ordering::SeqCst) * 1_000_000));
    let deadline = Duration::from_secs(20);
    let options =
        PostgresOptions { attempts_kept: Duration::ZERO, deadline, clock: Some(clock), ..options() };
    let store = open(&server.url(), &options);
    let (id, batch) = (AttemptId::new(), events("t", 0..2));
    let first = attempt(&store, id, &batch).unwrap();
    // Attempts are kept for twice the deadline.
    seconds.fetch_add(39, Ordering::SeqCst);
    // One append in 16 deletes old attempts.
    let forgetting = std::iter::repeat_with(AttemptId::new).find(|id| id.as_u128() % 16 == 0).unwrap();
    attempt(&store, forgetting, &events("t", 2..3)).unwrap();
    assert_eq!(attempt(&store, id, &batch).unwrap(), first);
}

#[test]
fn an_attempt_is_answered_the_same_after_its_events_were_purged() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let (id, batch) = (AttemptId::new(), events("t", 0..4));
    let first = attempt(&store, id, &batch).unwrap();
    store.purge(&aggregator_core::Topic::new("t").unwrap(), 2).unwrap();
    assert_eq!(attempt(&store, id, &batch).unwrap(), first);
    assert_eq!(store.stats().unwrap().duplicates, 0);
}

#[test]
fn every_event_is_told_stored_once_while_commits_are_cut_off() {
    let Some(server) = TestServer::shared() else { return };
    let proxy = Proxy::new(server);
    let options = options();
    let stores = [open(&proxy.url(), &options), open(&proxy.url(), &options)];
    let mut cuts = [Cut::BeforeAnswer, Cut::BeforeCommit, Cut::WithCommit].into_iter().cycle();
    publish_all(&[&stores[0], &stores[1]], || {
        // Not for ever: where a new connection takes longer than a pause, every commit would be cut.
        let enough = proxy.cuts() > 3;
        if !enough {
            proxy.cut(cuts.next().unwrap(), 1);
        }
        enough
    });
}
