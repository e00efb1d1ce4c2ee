//! A scrape costs the same whatever is stored, because it asks the store for nothing that is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aggregator_core::store::{StoreInfo, StoreStats, TopicInfo};
use aggregator_core::{
    AttemptId, DedupStore, EventRef, Identity, MemoryStore, Page, Partition, Query, Receipt, Seen,
    StoreError, StoreGauges, TopicQuery,
};
use aggregator_server::Config;

use crate::support::{Server, events, until};

/// Counts how often it is asked for what is stored, and for its gauges.
#[derive(Default)]
struct Asked {
    inner: MemoryStore,
    stored: AtomicU64,
    gauges: AtomicU64,
}

impl Asked {
    fn inner(&self) -> &MemoryStore {
        self.stored.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }
}

impl DedupStore for Asked {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }
    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.inner().append(partition, attempt, events)
    }
    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.inner().read(query)
    }
    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.inner().lookup(ids)
    }
    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.inner().topics(query)
    }
    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.inner().stats()
    }
    fn gauges(&self) -> Option<StoreGauges> {
        self.gauges.fetch_add(1, Ordering::SeqCst);
        let mut gauges = StoreGauges::default();
        gauges.parts = vec![("main", 1), ("made up", 2), ("another", 3)];
        Some(gauges)
    }
}

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
