//! What the statistics count: the store's whole life, and the share of the process that is asked.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, event, events};

/// Received, stored, duplicates, conflicts, rejected.
pub(crate) fn share(stats: &Value) -> [u64; 5] {
    ["received", "stored", "duplicates", "conflicts", "rejected"]
        .map(|name| stats["node"][name].as_u64().unwrap())
}

#[tokio::test]
async fn the_share_of_a_process_counts_each_outcome_apart() {
    let server = Server::volatile().await;
    assert_eq!(share(&server.stats().await), [0; 5]);
    server.publish(&events("t", 0..10)).await;
    server.publish(&events("t", 7..12)).await;
    server.publish(&json!({"topic": "t", "event_id": "0", "payload": "another"})).await;
    server.publish(&json!([event("t", 99), {"topic": "t"}])).await.problem(422, "invalid-events");
    let skipping = json!([event("t", 12), {"topic": "t"}]).to_string();
    server.post("/publish?on_invalid=skip", skipping).await;
    server.post("/publish?ack=queued", event("t", 12).to_string()).await;
    server.until("the last one is committed", |stats| stats["queue"]["events"] == 0).await;

    let stats = server.stats().await;
    // 2 + 1 of the two requests in which one item is bad.
    assert_eq!(share(&stats), [21, 13, 4, 1, 3]);
    // So do the store's totals, which know nothing of what was refused.
    let totals = ["received", "unique_processed", "duplicate_dropped", "conflicts"];
    assert_eq!(totals.map(|name| stats[name].as_u64().unwrap()), [18, 13, 4, 1]);
    assert_eq!(stats["duplicate_rate"], json!(4.0 / 18.0));
    let topic = &server.get("/topics").await.json["topics"][0];
    assert_eq!((&topic["duplicates"], &topic["conflicts"]), (&json!(4), &json!(1)));
    assert_eq!((&stats["rejected"], &stats["uptime"]), (&json!(3), &stats["node"]["uptime"]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_totals_outlive_the_process_and_its_share_does_not() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Server::sqlite(&path).await;
    server.publish(&events("t", 0..10)).await;
    assert_eq!(share(&server.stats().await), [10, 10, 0, 0, 0]);
    server.stop().await.unwrap();

    let server = Server::sqlite(&path).await;
    server.publish(&events("t", 8..13)).await;
    let stats = server.stats().await;
    assert_eq!((&stats["unique_processed"], &stats["duplicate_dropped"]), (&json!(13), &json!(2)));
    assert_eq!(share(&stats), [5, 3, 2, 0, 0]);
    server.stop().await.unwrap();
}
