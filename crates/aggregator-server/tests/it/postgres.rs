//! Several servers over one PostgreSQL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{DedupStore as _, Partition, Partitions};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};
use aggregator_server::Config;
use serde_json::json;

use crate::stats::share;
use crate::support::{Process, Server, event, events, until};

#[tokio::test]
async fn what_one_node_acknowledged_the_others_know_when_it_is_killed() {
    let Some(postgres) = TestServer::shared_own() else { return };
    let url = postgres.url_of("aggregator:s3cret");
    let (one, other) = (Process::start_with(&url, &["--partitions", "4"]), Process::start_with(&url, &[]));
    assert!(one.first_line.contains("durability fsync") && !one.first_line.contains("s3cret"));
    assert_eq!(one.publish(&events("t", 0..500)).await["stored"], 500);
    assert_eq!(other.publish(&events("t", 400..600)).await["stored"], 100);
    one.kill();

    let stats = other.get("/stats").await;
    assert_eq!((&stats["unique_processed"], &stats["duplicate_dropped"]), (&json!(600), &json!(100)));
    assert_eq!((&stats["store"]["kind"], &stats["store"]["partitions"]), (&json!("postgres"), &json!(4)));
    assert_eq!(other.publish(&events("t", 0..500)).await["duplicates"], 500);
    let page = other.get("/events?topic=t&limit=1000").await;
    let seqs: Vec<_> =
        page["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert!(seqs.into_iter().eq(1..=600));
    let check = Process::command(&["check", "--store", &url]).output().unwrap();
    let told = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.success() && told.contains("is sound: 600 events"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
    let check = Process::command(&["check", "--partitions", "8", "--store", &url]).output().unwrap();
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(!check.status.success() && told.contains("created with 4") && !told.contains("s3cret"), "{told}");
}

#[tokio::test]
async fn every_node_gives_the_totals_of_all_and_its_own_share() {
    let Some(postgres) = TestServer::start(&[]) else { return };
    let url = postgres.url();
    let nodes: [_; 3] = std::array::from_fn(|_| Process::start_with(&url, &[]));
    for (node, topics) in nodes.iter().zip([1, 2, 3]) {
        for topic in 0..topics {
            // The nodes send the same events: the first one stores them.
            assert_eq!(node.publish(&events(&format!("t.{topic}"), 0..100)).await["received"], 100);
        }
    }
    let mut shares = Vec::new();
    for node in &nodes {
        let stats = node.get("/stats").await;
        let totals = ["received", "unique_processed", "duplicate_dropped", "conflicts"];
        assert_eq!(totals.map(|name| stats[name].as_u64().unwrap()), [600, 300, 300, 0]);
        shares.push(share(&stats));
    }
    assert_eq!(shares, [[100, 100, 0, 0, 0], [200, 100, 100, 0, 0], [300, 100, 200, 0, 0]]);
}

/// For as long as it is held, the events of that partition alone are refused: once it was found out.
#[tokio::test]
async fn a_partition_that_somebody_holds_soon_holds_up_no_other() {
    let Some(postgres) = TestServer::start(&[]) else { return };
    let options = PostgresOptions {
        partitions: Partitions::new(4),
        // Long enough for the others to be stored meanwhile, on any machine.
        lock_timeout: Duration::from_secs(8),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open_with(&postgres.url().parse().unwrap(), options).unwrap();
    let partitions = store.partitions();
    let topic = |partition| (0..).map(|n| format!("t{n}")).find(|t| partitions.of(t) == Partition(partition));
    let topics: Vec<_> = (0..4).map(|partition| topic(partition).unwrap()).collect();
    let server = Server::start(Arc::new(store), Config::default()).await;
    server.publish(&json!(topics.iter().map(|topic| event(topic, 0)).collect::<Vec<_>>())).await;

    let (client, connection) = tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("BEGIN; SELECT FROM aggregator.partitions WHERE partition = 2 FOR UPDATE")
        .await
        .unwrap();
    let all = json!(topics.iter().map(|topic| event(topic, 1)).collect::<Vec<_>>());
    server.publish(&all).await.problem(503, "store-unavailable");
    // One keeps it busy, and the others are stored meanwhile.
    let held = server.publish_later("/publish", &event(&topics[2], 2));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until("it waits for the partition", async || {
        client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    for topic in [&topics[0], &topics[1], &topics[3]] {
        assert_eq!(server.publish(&event(topic, 2)).await.outcomes(), ["stored"]);
    }
    assert!(!held.is_finished(), "it has not waited long enough to tell");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(held.await.unwrap(), 202);
    assert_eq!(server.publish(&all).await.status, 202);
    assert_eq!(server.stats().await["unique_processed"], 4 + 4 + 4);
    server.stop().await.unwrap();
}

/// The lines a node has logged.
fn logged(log: &Path) -> Vec<String> {
    std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

/// How many lines of the log have this text.
fn lines_with(log: &Path, text: &str) -> usize {
    logged(log).iter().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_node_whose_commit_listener_is_cut_off_warns_once_and_says_when_it_is_back() {
    let Some(mut postgres) = TestServer::start(&[]) else { return };
    let directory = tempfile::TempDir::new().unwrap();
    let log = directory.path().join("log");
    let store = postgres.url();
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store]);
    command.args(["--log-format", "json", "--log", "info,aggregator_postgres=debug"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let node = Process::spawn(command);
    assert_eq!(node.publish(&events("t", 0..10)).await["stored"], 10);

    for outage in 1..=2 {
        // Each failed try is a line at debug, but for the second one, which is the warning.
        let tries = || lines_with(&log, "no connection that tells of other nodes' commits");
        let before = tries();
        postgres.stop("INT");
        until("it tries again and again", async || tries() >= before + 4).await;
        let reads = async || {
            let asked = crate::support::client().get(format!("{}/readyz?of=reads", node.url)).send();
            asked.await.unwrap().status().as_u16()
        };
        until("it says that it cannot read", async || reads().await == 503).await;
        postgres.launch();
        until("it says that it can read again", async || reads().await == 200).await;
        let back = "the connection that tells of other nodes' commits is back";
        until("it says that it is back", async || lines_with(&log, back) == outage).await;
        let lines = logged(&log);
        let of = |level: &str, text: &str| {
            let level = format!("\"{level}\"");
            lines.iter().filter(|line| line.contains(&level) && line.contains(text)).count()
        };
        let connection = "tells of other nodes' commits";
        assert_eq!(of("WARN", connection), outage, "{lines:#?}");
        assert_eq!(of("WARN", "this node polls for them"), outage, "{lines:#?}");
        assert_eq!(of("INFO", connection), outage, "{lines:#?}");
    }
}
