//! Writes whose answers are lost, and nodes and servers that end while they write.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_core::{DedupStoreExt, StoreError};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use super::{KIND, create, get, number, raise, records, written};
use crate::injected::raise_at;
use crate::proxy::{Cut, Proxy};
use crate::standby::{either, patient, synchronous, with_a_wait_cut_short};
use crate::support::{await_that, open, options};

const CUTS: [Cut; 3] = [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer];

#[test]
fn a_write_whose_answer_is_lost_is_not_stale_by_itself() {
    let Some(server) = TestServer::shared() else { return };
    for cut in CUTS {
        let proxy = Proxy::new(server);
        let store = open(&proxy.url(), &options());
        written(&store, &[create("changed", "0"), create("deleted", "0"), create("counter", "0")]);
        let [changed, deleted] = ["changed", "deleted"].map(|name| get(&store, name).unwrap());
        // All kinds of writes together, and then each kind alone.
        proxy.cut(cut, 2);
        let writes = [RecordWrite::update(&changed, "1"), RecordWrite::delete(&deleted), create("new", "1")];
        let versions = written(&store, &writes);
        assert_eq!(proxy.cuts(), 2, "{cut:?}");
        assert_eq!(get(&store, "changed").unwrap().version, versions[0], "{cut:?}");
        assert!(versions[1] > deleted.version, "{cut:?}");
        assert_eq!(get(&store, "deleted"), None, "{cut:?}");
        assert_eq!(get(&store, "new").unwrap().version, versions[2], "{cut:?}");

        let counter = get(&store, "counter").unwrap();
        let writes =
            [raise(&counter), create("alone", "1"), RecordWrite::delete(&get(&store, "new").unwrap())];
        for write in writes {
            let before = proxy.cuts();
            proxy.cut(cut, 1);
            written(&store, &[write]);
            assert_eq!(proxy.cuts(), before + 1, "{cut:?}");
        }
        assert_eq!(number(&get(&store, "counter").unwrap()), 1, "{cut:?}");
        assert_eq!(get(&store, "new"), None, "{cut:?}");
        let version = get(&store, "alone").unwrap().version;
        // A stale write is also stale after a lost answer.
        let stale = records(&store).write(&[create("alone", "2")]).unwrap();
        assert!(
            matches!(&stale, RecordOutcome::Stale(stale) if stale[0].version == Some(version)),
            "{stale:?}"
        );
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
    }
}

/// Makes a write whose answer is lost although it is committed. Before the next try gets a connection, another node
/// does `meanwhile`.
fn lose_the_answer(
    write: impl Fn(&PostgresStore) -> RecordWrite,
    is_there: impl Fn(&PostgresStore) -> bool,
    meanwhile: impl Fn(&PostgresStore),
) -> Result<RecordOutcome, StoreError> {
    let server = TestServer::shared().unwrap();
    let (proxy, options) = (Proxy::new(server), options());
    let other = open(&server.url(), &options);
    written(&other, &[create("a", "0")]);
    let store = open(&proxy.url(), &PostgresOptions { append_connections: 1, ..options });
    let write = write(&other);
    proxy.cut(Cut::BeforeAnswer, 1);
    proxy.hold_after_cut();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| records(&store).write(&[write]));
        await_that("the commit is there", || is_there(&other));
        await_that("its answer is lost", || proxy.cuts() == 1);
        meanwhile(&other);
        proxy.release();
        writing.join().unwrap()
    })
}

/// Writes so many records that each of the 256 buckets gets some.
fn write_to_every_bucket(store: &PostgresStore) {
    for batch in 0..3 {
        let names = (0..1_000).map(|n| format!("other {batch} {n}"));
        written(store, &names.map(|name| create(&name, "0")).collect::<Vec<_>>());
    }
}

#[test]
fn a_write_followed_by_writes_of_others_is_known_or_unavailable_and_never_stale() {
    let Some(_) = TestServer::shared() else { return };
    let a = |store: &PostgresStore| get(store, "a");
    let has_raised = |store: &PostgresStore| number(&a(store).unwrap()) == 1;
    let is_deleted = |store: &PostgresStore| a(store).is_none();
    let raised = |store: &PostgresStore| raise(&a(store).unwrap());
    let deleted = |store: &PostgresStore| RecordWrite::delete(&a(store).unwrap());
    let unavailable = |outcome: Result<RecordOutcome, StoreError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("others have written"), "{error}");
    };
    let known = |outcome: Result<RecordOutcome, StoreError>| {
        assert!(matches!(outcome, Ok(RecordOutcome::Written(_))), "{outcome:?}");
    };
    known(lose_the_answer(raised, has_raised, |_| {}));
    known(lose_the_answer(deleted, is_deleted, |_| {}));
    // The record shows that the write was committed, whatever became of its bucket.
    known(lose_the_answer(raised, has_raised, write_to_every_bucket));
    unavailable(lose_the_answer(deleted, is_deleted, write_to_every_bucket));
    unavailable(lose_the_answer(raised, has_raised, |store| drop(written(store, &[raised(store)]))));
    unavailable(lose_the_answer(deleted, is_deleted, |store| drop(written(store, &[create("a", "9")]))));
    // A record that was created and then deleted is not created again.
    unavailable(lose_the_answer(
        |_| create("b", "0"),
        |store| get(store, "b").is_some(),
        |store| drop(written(store, &[RecordWrite::delete(&get(store, "b").unwrap())])),
    ));
}

/// Raises a counter through both nodes while `disturb` interferes. The value shows whether a write of unknown outcome
/// was committed, because nobody else writes the same value.
fn count_while(urls: [String; 2], options: &PostgresOptions, mut disturb: impl FnMut() -> bool) {
    const RAISED: u32 = 30;
    let nodes = urls.map(|url| open(&url, options));
    written(&nodes[0], &[create("counter", "0")]);
    let (enough, left) = (AtomicBool::new(false), AtomicU32::new(4));
    let sums: Vec<(u32, u32)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_usize)
            .map(|thread| {
                let (node, enough, left) = (&nodes[thread % 2], &enough, &left);
                scope.spawn(move || {
                    let (mut sure, mut unsure) = (0, 0);
                    while sure < RAISED || !enough.load(Ordering::SeqCst) {
                        let Ok(Some(record)) = records(node).get(KIND, "counter") else { continue };
                        match records(node).write(&[raise(&record)]) {
                            Ok(RecordOutcome::Written(_)) => sure += 1,
                            Ok(RecordOutcome::Stale(_)) => {}
                            Err(error) => {
                                assert!(error.is_retryable(), "{error}");
                                unsure += 1;
                            }
                        }
                        // The one that is done lets others through, who are still to be disturbed.
                        let pause = if sure < RAISED { 5 } else { 100 };
                        std::thread::sleep(Duration::from_millis(pause));
                    }
                    left.fetch_sub(1, Ordering::SeqCst);
                    (sure, unsure)
                })
            })
            .collect();
        while left.load(Ordering::SeqCst) > 0 && threads.iter().any(|thread| !thread.is_finished()) {
            if disturb() {
                enough.store(true, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sure: u32 = sums.iter().map(|(sure, _)| sure).sum();
    let unsure: u32 = sums.iter().map(|(_, unsure)| unsure).sum();
    let mut counted = None;
    await_that("the counter is read", || {
        counted = records(&nodes[0]).get(KIND, "counter").ok().flatten();
        counted.is_some()
    });
    let counted = number(&counted.unwrap());
    assert!((sure..=sure + unsure).contains(&counted), "{counted} of {sure} and up to {unsure}");
}

#[test]
fn a_counter_is_exact_while_answers_are_lost() {
    let Some(server) = TestServer::shared() else { return };
    let proxy = Proxy::new(server);
    let mut cuts = CUTS.into_iter().cycle();
    count_while([proxy.url(), server.url()], &options(), || {
        // Not for ever: where a new connection takes longer than a pause, every commit would be cut.
        let enough = proxy.cuts() > 5;
        if !enough {
            proxy.cut(cuts.next().unwrap(), 1);
        }
        enough
    });
}

#[test]
fn a_counter_is_exact_while_the_server_crashes() {
    let Some(mut server) = TestServer::start(&[]) else { return };
    let (url, mut left) = (server.url(), 3);
    count_while([url.clone(), url], &options(), || {
        if left > 0 {
            left -= 1;
            server.restart();
        }
        left == 0
    });
}

#[test]
fn what_was_written_survives_a_fail_over() {
    let Some(mut primary) = TestServer::start(&[]) else { return };
    let standby = primary.standby(&[]);
    synchronous(&primary, "*");
    let url = either(&standby, &primary);
    let mut calls = 0;
    count_while([url.clone(), url], &options(), || {
        calls += 1;
        if calls == 5 {
            primary.stop("QUIT");
            standby.sql("SELECT pg_promote()");
        }
        calls >= 5
    });
}

#[test]
fn a_write_that_finds_itself_done_waits_for_the_standby_itself() {
    let Some(primary) = TestServer::start(&[]) else { return };
    let mut standby = primary.standby(&[]);
    synchronous(&primary, "*");
    let store = open(&primary.url(), &patient());
    written(&store, &[create("a", "0")]);
    let record = get(&store, "a").unwrap();
    let versions = with_a_wait_cut_short(&primary, &mut standby, || written(&store, &[raise(&record)]));
    let record = get(&store, "a").unwrap();
    assert_eq!((record.version, number(&record)), (versions[0], 1));
    with_a_wait_cut_short(&primary, &mut standby, || written(&store, &[RecordWrite::delete(&record)]));
    assert_eq!(get(&store, "a"), None);
    // The setting is checked at each write, not only at the start.
    synchronous(&primary, "");
    let error = records(&store).write(&[create("b", "0")]).unwrap_err();
    assert!(error.to_string().contains("no synchronous standby"), "{error}");
}

#[test]
fn a_write_that_collided_with_another_transaction_is_tried_again() {
    let Some(server) = TestServer::shared() else { return };
    for code in ["40001", "40P01", "40003"] {
        for when in ["", "DEFERRABLE INITIALLY DEFERRED"] {
            let options = options();
            let store = open(&server.url(), &options);
            written(&store, &[create("a", "0")]);
            let raised = raise_at(server, &options.schema, "records", code, 3, when);
            let record = get(&store, "a").unwrap();
            written(&store, &[raise(&record), create("b", "0")]);
            assert_eq!(raised(), "5", "three were raised, and two rows written: {code} {when}");
            assert_eq!(number(&get(&store, "a").unwrap()), 1, "{code} {when}");
        }
    }
}

#[test]
fn a_full_disk_is_reported_and_the_next_write_succeeds() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    let _ = raise_at(server, &options.schema, "records", "53100", 1, "");
    let error = records(&store).write(&[create("a", "0")]).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!(get(&store, "a"), None);
    written(&store, &[create("a", "0")]);
}
