//! Appends that go to several partitions in one commit.

use aggregator_core::Outcome::{Conflict, Duplicate, Stored};
use aggregator_core::{AttemptId, DedupStore, DedupStoreExt, Event, Partitions, Receipt, StoreError};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{OtherSession, await_that, events, open, options, outcomes, stored};

const PARTITIONS: u16 = 8;

fn with_partitions() -> PostgresOptions {
    PostgresOptions { partitions: Partitions::new(PARTITIONS), ..options() }
}

/// One topic of each partition, in the order of the partitions.
fn topics(store: &PostgresStore) -> Vec<String> {
    let named = |partition| {
        let belongs = |topic: &String| store.partitions().of(topic) == partition;
        (0..).map(|n| format!("topic-{n}")).find(belongs).unwrap()
    };
    store.partitions().iter().map(named).collect()
}

/// An event of each topic with the first id, then with the second, and so on.
fn in_turns(topics: &[String], ids: &[u32]) -> Vec<Event> {
    ids.iter().flat_map(|&id| topics.iter().flat_map(move |topic| events(topic, [id]))).collect()
}

fn attempt(store: &PostgresStore, id: AttemptId, events: &[Event]) -> Result<Vec<Receipt>, StoreError> {
    store.append_across(id, &events.iter().map(Event::view).collect::<Vec<_>>())
}

#[test]
fn events_of_a_commit_that_was_cut_off_are_reported_as_stored_in_all_partitions() {
    let Some(server) = TestServer::shared_own() else { return };
    let proxy = Proxy::new(server);
    for cut in [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer] {
        let store = open(&proxy.url(), &with_partitions());
        let topics = topics(&store);
        attempt(&store, AttemptId::new(), &in_turns(&topics, &[0, 1])).unwrap();
        let before = proxy.cuts();
        proxy.cut(cut, 1);
        let receipts = attempt(&store, AttemptId::new(), &in_turns(&topics, &[1, 2, 2, 3])).unwrap();
        assert_eq!(proxy.cuts(), before + 1);
        let expected = [Duplicate, Stored, Duplicate, Stored].map(|outcome| [outcome; PARTITIONS as usize]);
        assert_eq!(outcomes(&receipts), expected.concat(), "{cut:?}");
        let stats = store.stats().unwrap();
        assert_eq!((stats.stored, stats.duplicates), (4 * 8, 2 * 8), "nothing is counted twice: {cut:?}");
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
    }
}

#[test]
fn the_same_attempt_is_answered_the_same_and_refused_with_other_partitions() {
    let Some(server) = TestServer::shared_own() else { return };
    let store = open(&server.url(), &with_partitions());
    let topics = topics(&store);
    attempt(&store, AttemptId::new(), &in_turns(&topics, &[0])).unwrap();
    let id = AttemptId::new();
    let mut batch = in_turns(&topics[..4], &[0, 1]);
    batch.push(Event::new(&topics[2], "1").unwrap().with_payload("7").unwrap());
    // In the last partition, the attempt stores nothing.
    batch.extend(in_turns(&topics[4..5], &[0]));
    let first = attempt(&store, id, &batch).unwrap();
    assert_eq!(outcomes(&first)[8..], [Conflict, Duplicate]);
    let stats = store.stats().unwrap();
    assert_eq!(attempt(&store, id, &batch).unwrap(), first);
    assert_eq!(store.stats().unwrap().duplicates, stats.duplicates, "no repeat is counted twice");

    // No event can be reported as stored: the added partition was not in the commit.
    let more = [batch.clone(), in_turns(&topics[5..6], &[1])].concat();
    for other in [more, in_turns(&topics[..3], &[2])] {
        let error = attempt(&store, id, &other).unwrap_err();
        assert!(
            matches!(&error, StoreError::Invalid(faults) if faults[0].error.field == "attempt"),
            "{error}"
        );
    }
    assert_eq!(store.stats().unwrap().stored, stats.stored);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// A transaction that waits for a partition holds the partitions before it and none after it, so no two can deadlock.
#[test]
fn partitions_are_locked_in_their_order() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = with_partitions();
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    let topics = topics(&store);
    attempt(&store, AttemptId::new(), &in_turns(&topics, &[0])).unwrap();
    // From here on, the rows are not in the order of the partitions in the table.
    for partition in [3, 0, 6] {
        server.sql(&format!("UPDATE {schema}.partitions SET topics = topics WHERE partition = {partition}"));
    }
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}' AND wait_event_type = 'Lock'"
    );
    for held in 0..PARTITIONS {
        let mut other = OtherSession::new(server);
        other.sql(&format!("BEGIN; SELECT FROM {schema}.partitions WHERE partition = {held} FOR UPDATE;"));
        let mut batch = in_turns(&topics, &[u32::from(held) + 1]);
        batch.reverse();
        std::thread::scope(|scope| {
            let append = scope.spawn(|| attempt(&store, AttemptId::new(), &batch));
            await_that("it waits", || server.sql(&waiting) == "1");
            let free = server.sql(&format!(
                "SELECT partition FROM {schema}.partitions ORDER BY partition FOR UPDATE SKIP LOCKED"
            ));
            let free: Vec<u16> = free.lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(free, (held + 1..PARTITIONS).collect::<Vec<_>>(), "{held} is held");
            other.sql("ROLLBACK;");
            append.join().unwrap().unwrap();
        });
    }
}

#[test]
fn nodes_that_commit_across_partitions_store_everything_once() {
    const EVENTS: u32 = 60;
    let Some(server) = TestServer::shared_own() else { return };
    server.sql("CREATE DATABASE circles");
    let url = server.url().replace("/postgres", "/circles");
    let options = with_partitions();
    let nodes = [open(&url, &options), open(&url, &options)];
    let topics = topics(&nodes[0]);
    let told: usize = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..4_usize)
            .map(|publisher| {
                let (node, topics) = (&nodes[publisher % 2], &topics);
                scope.spawn(move || {
                    let mut told = 0;
                    for id in 0..EVENTS {
                        // Each append has other partitions in another order, and sometimes only one.
                        let mut some = topics.clone();
                        some.rotate_left((publisher * 3 + id as usize) % usize::from(PARTITIONS));
                        if id % 2 == 0 {
                            some.reverse();
                        }
                        let batch = in_turns(&some[..1 + (publisher + id as usize) % 8], &[id / 3, id]);
                        told += stored(&attempt(node, AttemptId::new(), &batch).unwrap());
                    }
                    told
                })
            })
            .collect();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum()
    });
    assert_eq!(told as u64, nodes[0].stats().unwrap().stored, "told `stored`");
    assert_eq!(nodes[1].verify().unwrap().faults, [""; 0]);
    // The server breaks a deadlock, and the nodes try again. So the test counts deadlocks, which the statistics show
    // once the sessions have ended.
    drop(nodes);
    let database = |column: &str| {
        server.sql(&format!("SELECT {column} FROM pg_stat_database WHERE datname = 'circles'"))
    };
    await_that("the sessions' end", || database("numbackends") == "0");
    assert_eq!(database("deadlocks"), "0");
}

/// An engine that distributes partitions over machines is recognized by its extension. Here only the name of Citus is
/// there.
#[test]
fn an_engine_with_shards_gets_a_commit_for_each_partition() {
    let Some(server) = TestServer::shared_own() else { return };
    server.sql("CREATE DATABASE shards");
    let url = server.url().replace("/postgres", "/shards");
    assert_ne!(url, server.url());
    let plain = open(&url, &PostgresOptions { schema: "before".into(), ..with_partitions() });
    assert!(plain.across().is_some());
    OtherSession::new(server)
        .sql("\\connect shards\nUPDATE pg_extension SET extname = 'citus' WHERE extname = 'plpgsql';");
    let store = open(&url, &with_partitions());
    assert!(store.across().is_none());
    let batch = in_turns(&topics(&store), &[0, 1]);
    let error = attempt(&store, AttemptId::new(), &batch).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    let views: Vec<_> = batch.iter().map(Event::view).collect();
    assert_eq!(outcomes(&store.append_all(&views).unwrap()), [Stored; 16]);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn attempts_are_forgotten_in_all_partitions() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = with_partitions();
    let store = open(&server.url(), &options);
    let topics = topics(&store);
    for id in 0..3 {
        attempt(&store, AttemptId::new(), &in_turns(&topics, &[id])).unwrap();
    }
    server.sql(&format!("UPDATE {}.appends SET at = at - 3601000000", options.schema));
    // One append in 16 deletes the old attempts of one of its partitions.
    for partition in 0..u128::from(PARTITIONS) {
        let id =
            std::iter::repeat_with(AttemptId::new).find(|id| id.as_u128() % 128 == partition * 16).unwrap();
        attempt(&store, id, &in_turns(&topics, &[0])).unwrap();
    }
    let kept = server.sql(&format!("SELECT count(*) FROM {}.appends", options.schema));
    assert_eq!(kept, "64", "the last eight, in eight partitions");
}
