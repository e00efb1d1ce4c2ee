//! The simulator against the aggregator itself.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{DedupStore, DedupStoreExt, MemoryStore, Partitions, SqliteStore};
use aggregator_server::Config;
use publisher_sim::report::{Report, Verdict};
use tempfile::TempDir;

use crate::server::Aggregator;
use crate::{http_client, run_at};

fn assert_verified(report: &Report) {
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert!(report.verified.as_ref().is_some_and(|verified| verified.ok), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_deliveries_store_four_thousand_events_and_their_resending_none() {
    const OPTIONS: &str = "--events 5000 --dup 0.2 --seed 7 --verify";
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let aggregator = Aggregator::start(Arc::new(SqliteStore::open(&path).unwrap()), Config::default()).await;
    let report = run_at(&aggregator.url(), OPTIONS).await;
    assert_verified(&report);
    assert_eq!((report.sent.stored, report.sent.duplicates, report.sent.conflicts), (4_000, 1_000, 0));
    let server = report.server.unwrap();
    assert_eq!((server.received, server.unique_processed, server.duplicate_dropped), (5_000, 4_000, 1_000));
    aggregator.stop().await;

    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let aggregator = Aggregator::start(Arc::clone(&store) as _, Config::default()).await;
    let report = run_at(&aggregator.url(), OPTIONS).await;
    assert_verified(&report);
    assert_eq!((report.sent.stored, report.sent.duplicates), (0, 5_000));
    aggregator.stop().await;
    let stats = store.stats().unwrap();
    assert_eq!((stats.stored, stats.duplicates), (4_000, 6_000));
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_on_the_way_breaks_no_promise() {
    let directory = TempDir::new().unwrap();
    let sqlite = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let memory = MemoryStore::new(Partitions::new(4).unwrap());
    for store in [Arc::new(sqlite) as Arc<dyn DedupStore>, Arc::new(memory)] {
        let aggregator = Aggregator::start(Arc::clone(&store), Config::default()).await;
        let options =
            "--events 4000 --dup 0.5 --batch 20 --topics 8 --chaos --drop-replies 0.2 --seed 3 --verify";
        let report = run_at(&aggregator.url(), options).await;
        assert_verified(&report);
        assert_eq!(store.stats().unwrap().stored, 2_000, "{report}");
        assert!(report.sent.conflicts > 0 && report.sent.burst_deliveries > 0, "{report}");
        aggregator.stop().await;
        assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_every_event_gets_through_all_the_same() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    faulty.hold();
    let config =
        Config { queue_events: 40, max_batch_events: NonZeroUsize::new(20).unwrap(), ..Config::default() };
    let aggregator = Aggregator::start(Arc::clone(&faulty) as _, config).await;
    let url = aggregator.url();
    let run = tokio::spawn(async move {
        run_at(&url, "--events 400 --dup 0.2 --batch 20 --concurrency 4 --seed 5 --verify").await
    });
    // Two batches fill the queue, the other two connections are refused while the store is held.
    let stats = format!("{}/stats", aggregator.url());
    loop {
        let answer = http_client().get(&stats).send().await.unwrap().bytes().await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        if answer["queue"]["refused"].as_u64().unwrap() >= 2 {
            break;
        }
        assert!(!run.is_finished(), "the publisher ended before it was refused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    faulty.go_on();
    let report = run.await.unwrap();
    assert_verified(&report);
    assert_eq!((report.sent.stored, report.sent.duplicates, report.sent.failed), (320, 80, 0), "{report}");
    assert!(report.retries.by_cause["503"] >= 2, "{report}");
    assert!(report.elapsed_seconds >= 1.0, "Retry-After was not waited for: {report}");
    aggregator.stop().await;
}
