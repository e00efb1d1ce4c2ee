//! Several servers over one PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{DedupStore as _, Partition, Partitions};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};
use aggregator_server::Config;
use reqwest::Client;
use serde_json::{Value, json};

use crate::stats::share;
use crate::support::{Process, Server, event, events};

async fn publish(server: &Process, body: &Value) -> Value {
    let request = Client::new().post(format!("{}/publish", server.url)).json(body);
    request.send().await.unwrap().json().await.unwrap()
}

async fn get(server: &Process, path: &str) -> Value {
    Client::new().get(format!("{}{path}", server.url)).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn what_one_node_acknowledged_the_others_know_when_it_is_killed() {
    let Some(postgres) = TestServer::shared() else { return };
    let url = postgres.url_of("aggregator:s3cret");
    let (one, other) = (Process::start_with(&url, &["--partitions", "4"]), Process::start_with(&url, &[]));
    assert!(one.first_line.contains("durability fsync") && !one.first_line.contains("s3cret"));
    assert_eq!(publish(&one, &events("t", 0..500)).await["stored"], 500);
    assert_eq!(publish(&other, &events("t", 400..600)).await["stored"], 100);
    one.kill();

    let stats = get(&other, "/stats").await;
    assert_eq!((&stats["unique_processed"], &stats["duplicate_dropped"]), (&json!(600), &json!(100)));
    assert_eq!((&stats["store"]["kind"], &stats["store"]["partitions"]), (&json!("postgres"), &json!(4)));
    assert_eq!(publish(&other, &events("t", 0..500)).await["duplicates"], 500);
    let page = get(&other, "/events?topic=t&limit=1000").await;
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
            assert_eq!(publish(node, &events(&format!("t.{topic}"), 0..100)).await["received"], 100);
        }
    }
    let mut shares = Vec::new();
    for node in &nodes {
        let stats = get(node, "/stats").await;
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
        lock_timeout: Duration::from_secs(3),
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
    while client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for topic in [&topics[0], &topics[1], &topics[3]] {
        assert_eq!(server.publish(&event(topic, 2)).await.outcomes(), ["stored"]);
    }
    assert!(!held.is_finished(), "it has not waited long enough to tell");
    assert_eq!(held.await.unwrap(), 503);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(server.publish(&all).await.status, 202);
    assert_eq!(server.stats().await["unique_processed"], 4 + 4 + 3);
    server.stop().await.unwrap();
}
