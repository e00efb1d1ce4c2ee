//! A scrape costs the same whatever is stored, because it asks the store for nothing that is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aggregator_server::Config;

use crate::support::asked::Asked;
use crate::support::{Server, events, until};

#[tokio::test]
async fn a_scrape_asks_the_store_for_its_gauges_alone() {
    let store = Arc::new(Asked::default());
    let server = Server::start(Arc::clone(&store) as _, Config::default()).await;
    server.publish(&events("t", 0..3)).await;
    // The server looks at the newest time that is stored once at the start, and again after a minute.
    until("the clock was looked at", async || store.stored.load(Ordering::SeqCst) == 2).await;
    let before = store.stored.load(Ordering::SeqCst);
    let scrape = server.scrape().await;
    server.scrape().await;
    assert_eq!(store.stored.load(Ordering::SeqCst), before);
    assert_eq!(store.gauges.load(Ordering::SeqCst), 2);
    server.stats().await;
    assert!(store.stored.load(Ordering::SeqCst) > before, "it does count");
    // A store may not make up series either. What it does not measure is missing.
    assert_eq!(scrape.get("aggregator_store_bytes{part=\"main\"}"), 1.0);
    assert_eq!(scrape.get("aggregator_store_bytes{part=\"other\"}"), 5.0);
    assert_eq!(scrape.text.matches("\naggregator_store_bytes").count(), 2, "{}", scrape.text);
    assert!(!scrape.text.contains("aggregator_index_runs"));
    server.stop().await.unwrap();
}
