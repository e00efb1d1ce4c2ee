//! Several nodes that write the same records.

use std::collections::HashSet;
use std::time::Duration;

use aggregator_core::StoreError;
use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use super::{KIND, create, get, number, raise, records, written};
use crate::support::{OtherSession, await_that, open, options};

fn two_nodes(server: &TestServer) -> [PostgresStore; 2] {
    let options = options();
    [open(&server.url(), &options), open(&server.url(), &options)]
}

/// Runs `task` on four threads of each node, with the number of the thread.
fn on_all(nodes: &[PostgresStore; 2], task: impl Fn(&PostgresStore, usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let task = &task;
            scope.spawn(move || task(&nodes[thread % 2], thread));
        }
    });
}

#[test]
fn a_counter_that_two_nodes_raise_ends_at_the_exact_sum() {
    let Some(server) = TestServer::shared() else { return };
    let nodes = two_nodes(server);
    written(&nodes[0], &[create("counter", "0")]);
    on_all(&nodes, |node, _| {
        for _ in 0..25 {
            loop {
                let record = get(node, "counter").unwrap();
                match records(node).write(&[raise(&record)]).unwrap() {
                    RecordOutcome::Written(versions) => {
                        assert!(versions[0] > record.version);
                        break;
                    }
                    RecordOutcome::Stale(stale) => {
                        assert!(stale[0].version > Some(record.version), "{stale:?} after {record:?}");
                    }
                }
            }
        }
    });
    assert_eq!(number(&get(&nodes[1], "counter").unwrap()), 200);
}

/// Neither node finds a row to lock.
#[test]
fn one_of_the_nodes_that_create_the_same_record_wins() {
    let Some(server) = TestServer::shared() else { return };
    let nodes = two_nodes(server);
    for round in 0..20 {
        let name = format!("lease-{round}");
        let winners = std::sync::Mutex::new(Vec::new());
        on_all(&nodes, |node, thread| {
            match records(node).write(&[create(&name, &thread.to_string())]).unwrap() {
                RecordOutcome::Written(versions) => winners.lock().unwrap().push((thread, versions[0])),
                RecordOutcome::Stale(stale) => assert_eq!(stale[0].index, 0),
            }
        });
        let [(winner, version)] = winners.into_inner().unwrap()[..] else { panic!("one wins") };
        let record = get(&nodes[0], &name).unwrap();
        assert_eq!((number(&record) as usize, record.version), (winner, version));
    }
}

/// Both nodes delete and create the record again and again.
#[test]
fn no_version_of_a_record_is_given_twice() {
    let Some(server) = TestServer::shared() else { return };
    let nodes = two_nodes(server);
    let given = std::sync::Mutex::new(Vec::new());
    on_all(&nodes, |node, _| {
        for _ in 0..20 {
            let write = match get(node, "a") {
                Some(record) => RecordWrite::delete(&record),
                None => create("a", "0"),
            };
            if let RecordOutcome::Written(versions) = records(node).write(&[write]).unwrap() {
                given.lock().unwrap().push(versions[0]);
            }
        }
    });
    let given = given.into_inner().unwrap();
    assert!(given.len() > 20, "{given:?}");
    assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len(), "{given:?}");
}

/// Each node writes many records in another order. Locked in that order, they would deadlock.
#[test]
fn writes_of_many_records_do_not_deadlock() {
    let Some(server) = TestServer::shared() else { return };
    // The server looks for a deadlock after a second. Without a deadlock, nobody waits nearly as long.
    let nodes = two_nodes(server);
    let names: Vec<_> = (0..40).map(|n| format!("n{n}")).collect();
    written(&nodes[0], &names.iter().map(|name| create(name, "0")).collect::<Vec<_>>());
    let deadlocks = || server.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'");
    let before = deadlocks();
    on_all(&nodes, |node, thread| {
        for _ in 0..5 {
            loop {
                let mut writes: Vec<_> = names.iter().map(|name| raise(&get(node, name).unwrap())).collect();
                writes.rotate_left(thread * 5);
                if thread % 2 == 1 {
                    writes.reverse();
                }
                if let RecordOutcome::Written(_) = records(node).write(&writes).unwrap() {
                    break;
                }
            }
        }
    });
    assert!(names.iter().all(|name| number(&get(&nodes[1], name).unwrap()) == 40));
    assert_eq!(deadlocks(), before);
}

/// If versions were drawn before the lock, the later commit could have the smaller one.
#[test]
fn a_write_that_waited_has_the_larger_version() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let [one, other] = [open(&server.url(), &options), open(&server.url(), &options)];
    written(&one, &[create("a", "0")]);
    let first = get(&one, "a").unwrap();
    let mut holder = OtherSession::new(server);
    holder.sql(&format!("BEGIN; SELECT FROM {}.record_versions FOR UPDATE;", options.schema));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| records(&other).write(&[raise(&first)]).unwrap());
        let waits = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND wait_event_type = 'Lock'",
            options.schema
        );
        await_that("the write waits", || server.sql(&waits) == "1");
        // The waiting write has not seen this one.
        holder.sql(&format!(
            "UPDATE {0}.record_versions SET last_version = last_version + 5;
             UPDATE {0}.records SET version = version + 5; COMMIT;",
            options.schema
        ));
        let RecordOutcome::Stale(stale) = waiting.join().unwrap() else { panic!("another one came first") };
        assert_eq!(stale[0].version, Some(first.version + 5));
    });
    let record = get(&one, "a").unwrap();
    assert!(written(&one, &[raise(&record)])[0] > first.version + 5);
}

#[test]
fn a_write_waits_for_a_lock_no_longer_than_it_may() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { lock_timeout: Duration::from_millis(50), ..options() };
    let store = open(&server.url(), &options);
    let version = written(&store, &[create("a", "0")])[0];
    let mut holder = OtherSession::new(server);
    holder.sql(&format!("BEGIN; SELECT FROM {}.record_versions FOR UPDATE;", options.schema));
    let error = records(&store).write(&[create("b", "0")]).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    // Readers do not wait.
    assert_eq!(get(&store, "a").unwrap().version, version);
    drop(holder);
    assert_eq!(get(&store, "b"), None);
    written(&store, &[create("b", "0")]);
}

#[test]
fn all_nodes_read_one_clock() {
    let Some(server) = TestServer::shared() else { return };
    let nodes = two_nodes(server);
    let mut last = records(&nodes[0]).now().unwrap();
    for _ in 0..5 {
        for node in &nodes {
            let now = records(node).now().unwrap();
            assert!(now > last);
            last = now;
        }
    }
    let micros = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    assert!(server.sql(micros).parse::<i64>().unwrap() >= last.as_micros());
}

/// In the database's own order, `B` would come after `a`, and the prefix would end elsewhere.
#[test]
fn names_are_in_the_order_of_their_bytes_whatever_order_the_database_has() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let name = &options.schema;
    server.sql(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
    ));
    let url = server.url().trim_end_matches("postgres").to_owned() + name;
    let store = open(&url, &options);
    let mut names = ["a", "B", "b", "_", "-", "ä", "é", "e\u{301}", "ab", "a b", "aB"];
    written(&store, &names.map(|name| create(name, "0")));
    names.sort_unstable();
    let listed = |prefix: &str, after: Option<&str>| -> Vec<String> {
        let listed = records(&store).list(KIND, prefix, after, 100).unwrap();
        listed.into_iter().map(|record| record.name).collect()
    };
    assert_eq!(listed("", None), names);
    for (at, after) in names.iter().enumerate() {
        assert_eq!(listed("", Some(after)), names[at + 1..]);
    }
    assert_eq!(listed("a", None), ["a", "a b", "aB", "ab"]);
    assert_eq!(listed("a", Some("a b")), ["aB", "ab"]);
    // Neither a name nor PostgreSQL's text can hold a NUL.
    assert_eq!(listed("a\0", None), [""; 0]);
    assert_eq!(listed("", Some("a\0x")), listed("", Some("a")));
}
