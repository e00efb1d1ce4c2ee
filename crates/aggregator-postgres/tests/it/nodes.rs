//! Several nodes over one database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator_core::{DedupStore, Partition, Partitions};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{append, await_that, events, open, options, publish_all};

/// The offsets a store told.
struct Heard(Arc<Mutex<Vec<u64>>>);

impl Heard {
    /// The last one; 0 if there was none. None was ever told after a newer one.
    fn last(&self) -> u64 {
        let told = self.0.lock().unwrap();
        assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
        told.last().copied().unwrap_or(0)
    }
}

fn listen(store: &PostgresStore) -> Heard {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    store.on_commit(Box::new(move |partition, offset| {
        assert_eq!(partition, Partition(0));
        heard.lock().unwrap().push(offset);
    }));
    Heard(told)
}

/// Stops the others also when its own thread panics, which would wait for them.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nodes_on_one_topic_store_everything_once_and_in_order() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let nodes: [_; 3] = std::array::from_fn(|_| open(&server.url(), &options));
    assert!(nodes.iter().all(|node| node.info() == nodes[0].info()));
    let heard = nodes.each_ref().map(listen);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A reader meets no gap, ever.
        scope.spawn(|| {
            let mut query = aggregator_core::Query::topic(aggregator_core::Topic::new("t").unwrap());
            let mut expected = 1;
            while !stop.load(Ordering::SeqCst) {
                let page = nodes[2].read(&query).unwrap();
                for event in page.events {
                    assert_eq!(event.seq, expected);
                    expected += 1;
                }
                query.after = Some(page.next);
            }
        });
        let _stop = StopAtEnd(&stop);
        publish_all(&[&nodes[0], &nodes[1], &nodes[2]], || {});
    });
    for last in &heard {
        await_that("every node hears of the last commit", || last.last() == 600);
    }
}

#[test]
fn a_notification_wakes_another_node() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { poll_interval: Duration::from_secs(3_600), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let last = listen(&other);
    append(&one, &events("t", 0..1));
    // The first may have come before it listened, and be read at the start; from then on only listening helps.
    await_that("the first commit is heard of", || last.last() == 1);
    for id in 1..20 {
        append(&one, &events("t", id..=id));
        await_that("the next commit is heard of", || last.last() == u64::from(id) + 1);
    }
}

#[test]
fn polling_alone_wakes_another_node() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { listen: false, poll_interval: Duration::from_millis(20), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let last = listen(&other);
    for id in 0..5 {
        append(&one, &events("t", id..=id));
        await_that("a commit is heard of", || last.last() == u64::from(id) + 1);
    }
}

#[test]
fn notifications_are_few_however_many_commits_there_are() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions {
        notify_interval: Duration::from_secs(3_600),
        poll_interval: Duration::from_secs(3_600),
        ..options()
    };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let last = listen(&other);
    append(&one, &events("t", 0..1));
    await_that("the first commit is heard of", || last.last() >= 1);
    for id in 1..50 {
        append(&one, &events("t", id..=id));
    }
    let heard = last.last();
    assert!(heard < 50, "the last of 50 commits was told within the interval, which is an hour");
}

#[test]
fn a_node_that_lost_its_listening_connection_hears_of_what_it_missed() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { poll_interval: Duration::from_secs(3_600), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let last = listen(&other);
    append(&one, &events("t", 0..1));
    await_that("the first commit is heard of", || last.last() == 1);
    server.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
        options.schema
    ));
    append(&one, &events("t", 1..2));
    await_that("the commit is heard of", || last.last() == 2);
}

#[test]
fn commits_are_told_with_their_partitions() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { partitions: Partitions::new(8), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let told = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let heard = Arc::clone(&told);
    other.on_commit(Box::new(move |partition, offset| {
        heard.lock().unwrap().insert(partition, offset);
    }));
    let mut expected = std::collections::BTreeMap::<_, u64>::new();
    for topic in 0..40 {
        let topic = format!("topic-{topic}");
        append(&one, &events(&topic, 0..3));
        *expected.entry(one.partitions().of(&topic)).or_default() += 3;
    }
    await_that("all are heard of", || *told.lock().unwrap() == expected);
}
