//! A store that notes what it is asked for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use aggregator_core::store::{StoreInfo, StoreStats, TopicInfo};
use aggregator_core::{
    AttemptId, DedupStore, EventRef, Identity, MemoryStore, Page, Partition, Query, Receipt, Seen,
    StoreError, StoreGauges, TopicQuery,
};

/// A memory store, and what it was asked for. Its gauges are made up.
#[derive(Default)]
pub(crate) struct Asked {
    inner: MemoryStore,
    /// How often it was asked for what is stored.
    pub(crate) stored: AtomicU64,
    pub(crate) gauges: AtomicU64,
    /// The limit of each page that was read.
    pub(crate) limits: Mutex<Vec<usize>>,
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
        self.limits.lock().unwrap().push(query.limit);
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
