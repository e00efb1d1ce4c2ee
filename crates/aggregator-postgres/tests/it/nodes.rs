//! Several nodes over one database.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator_core::{CommitListener, DedupStore, DedupStoreExt, Event, Partition, Partitions, Timestamp};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{append, assert_complete, await_that, events, open, options, publish_all};

/// The offsets that a store announced.
struct Heard {
    told: Arc<Mutex<Vec<(Partition, u64)>>>,
    _listener: CommitListener,
}

impl Heard {
    /// The last offset; 0 if there was none. Fails if an offset came after a newer one.
    fn last(&self) -> u64 {
        let told = self.told.lock().unwrap();
        assert!(told.iter().all(|&(partition, _)| partition == Partition(0)), "{told:?}");
        assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
        told.last().map_or(0, |&(_, offset)| offset)
    }
}

fn listen(store: &PostgresStore) -> Heard {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let listener = store
        .on_commit(Box::new(move |partition, offset| {
            heard.lock().unwrap().push((partition, offset));
        }))
        .unwrap();
    Heard { told, _listener: listener }
}

/// Stops the other threads, even if its own thread panics. Otherwise the scope would wait for them forever.
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
        // A reader never finds a gap.
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
        publish_all(&[&nodes[0], &nodes[1], &nodes[2]], || true);
    });
    for last in &heard {
        await_that("every node announces the last commit", || last.last() == 600);
    }
}

#[test]
fn a_notification_wakes_another_node() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { poll_interval: Duration::from_secs(3_600), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let last = listen(&other);
    append(&one, &events("t", 0..1));
    // The poll at the start may have found the first commit. From then on, only listening finds commits in time.
    await_that("the first commit is announced", || last.last() == 1);
    for id in 1..20 {
        append(&one, &events("t", id..=id));
        await_that("the next commit is announced", || last.last() == u64::from(id) + 1);
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
        await_that("a commit is announced", || last.last() == u64::from(id) + 1);
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
    await_that("the first commit is announced", || last.last() >= 1);
    for id in 1..50 {
        append(&one, &events("t", id..=id));
    }
    let heard = last.last();
    assert!(heard < 50, "the last of 50 commits was announced within the interval, which is an hour");
}

#[test]
fn a_node_that_lost_its_listening_connection_hears_of_what_it_missed() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { poll_interval: Duration::from_secs(3_600), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let last = listen(&other);
    append(&one, &events("t", 0..1));
    await_that("the first commit is announced", || last.last() == 1);
    server.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
        options.schema
    ));
    append(&one, &events("t", 1..2));
    await_that("the commit is announced", || last.last() == 2);
}

#[test]
fn commits_are_announced_with_their_partitions() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { partitions: Partitions::new(8), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let told = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let heard = Arc::clone(&told);
    let _listener = other
        .on_commit(Box::new(move |partition, offset| {
            heard.lock().unwrap().insert(partition, offset);
        }))
        .unwrap();
    let mut expected = std::collections::BTreeMap::<_, u64>::new();
    for topic in 0..40 {
        let topic = format!("topic-{topic}");
        append(&one, &events(&topic, 0..3));
        *expected.entry(one.partitions().of(&topic)).or_default() += 3;
    }
    await_that("all commits are announced", || *told.lock().unwrap() == expected);
}

#[test]
fn a_callback_for_another_nodes_commit_may_use_the_store() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let (one, other) = (open(&server.url(), &options), Arc::new(open(&server.url(), &options)));
    let read = Arc::new(Mutex::new(Vec::new()));
    let _listener = {
        let (weak, read) = (Arc::downgrade(&other), Arc::clone(&read));
        other
            .on_commit(Box::new(move |_, offset| {
                let Some(store) = weak.upgrade() else { return };
                let stored = store.stats().unwrap().stored;
                read.lock().unwrap().push((offset, stored));
                if offset < 5 {
                    append(&store, &[Event::new("echo", offset.to_string()).unwrap()]);
                }
            }))
            .unwrap()
    };
    append(&one, &events("t", 0..1));
    // A node's own commits are announced to it as well, so an echo causes another one.
    await_that("the last echo is announced", || read.lock().unwrap().len() == 5);
    let read = read.lock().unwrap();
    assert!(read.iter().copied().eq((1..=5).map(|offset| (offset, offset))), "{read:?}");
}

const STOPPING: &str = "AGGREGATOR_TEST_STOPPING_NODE";

/// The node that the next test starts as a separate process. It stops itself between the round trips of its second
/// append, while it holds the partition.
#[test]
fn a_node_that_stops_itself() {
    let Ok(node) = std::env::var(STOPPING) else { return };
    let (url, schema) = node.split_once(' ').unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let clock = move || {
        if counted.fetch_add(1, Ordering::SeqCst) == 1 {
            stop_itself();
        }
        Timestamp::now()
    };
    let options = PostgresOptions {
        schema: schema.to_owned(),
        application_name: format!("{schema}_stopping"),
        idle_in_transaction_timeout: Duration::from_secs(2),
        clock: Some(Arc::new(clock)),
        ..PostgresOptions::default()
    };
    let store = open(url, &options);
    append(&store, &events("t", 0..1));
    assert_eq!(append(&store, &events("t", 1..3))[1].outcome, aggregator_core::Outcome::Stored);
    // With fewer tries, it stopped outside a transaction and held nothing.
    assert!(attempts.load(Ordering::SeqCst) >= 3, "its transaction was not ended while it was stopped");
}

/// Returns once the process has been stopped and continued. Another thread may get the signal, and this thread runs on
/// until that one has taken it. After that, this thread stops as it leaves its next system call.
fn stop_itself() {
    const SIGSTOP: u64 = 1 << 18;
    signal("STOP", std::process::id());
    await_that("the signal has been taken", || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        u64::from_str_radix(pending.trim(), 16).unwrap() & SIGSTOP == 0
    });
}

fn signal(signal: &str, process: u32) {
    let mut kill = std::process::Command::new("/bin/sh");
    kill.args(["-c", "kill \"$0\" \"$1\"", &format!("-{signal}"), &process.to_string()]);
    assert!(kill.status().unwrap().success());
}

/// Kills the process when it is dropped, also if the test fails.
pub(crate) struct Node(pub(crate) std::process::Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_that_is_stopped_lets_go_of_its_partition() {
    let Some(server) = TestServer::shared() else { return };
    // Only the end of the node's transaction can end the wait for the partition.
    let long = Duration::from_secs(120);
    let options =
        PostgresOptions { lock_timeout: long, statement_timeout: long, deadline: long, ..options() };
    let store = open(&server.url(), &options);
    let mut node = std::process::Command::new(std::env::current_exe().unwrap());
    // If the node fails, its report is part of this test's output.
    node.args(["--exact", "nodes::a_node_that_stops_itself", "--nocapture"]);
    node.stdout(std::process::Stdio::null());
    node.env(STOPPING, format!("{} {}", server.url(), options.schema));
    let mut node = Node(node.spawn().unwrap());
    let stat = format!("/proc/{}/stat", node.0.id());
    await_that("it is stopped in its append", || {
        assert_eq!(node.0.try_wait().unwrap(), None, "it ended before it was stopped");
        std::fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    append(&store, &events("t", 3..4));
    // The node continues, learns that its transaction has ended, and tries again.
    signal("CONT", node.0.id());
    assert!(node.0.wait().unwrap().success());
    assert_complete(&store, 4);
}
