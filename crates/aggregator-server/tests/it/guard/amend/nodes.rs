//! Two nodes over one store, and a store that cannot amend.

use std::sync::Arc;

use aggregator_core::store::{Amend, AttemptId, Records, Seen, StoreInfo, StoreStats, TopicInfo, Watch};
use aggregator_core::{
    DedupStore, EventRef, Identity, MemoryStore, Page, Partition, Query, Receipt, StoreError, TopicQuery,
};
use aggregator_server::Config;
use reqwest::Method;
use serde_json::{Value, json};

use super::super::Guarded;
use super::named;
use crate::support::{Answer, event, until};

/// A memory store that says that several nodes use it, and may lack the capability.
struct SharedStore {
    inner: Arc<MemoryStore>,
    info: StoreInfo,
    amends: bool,
}

impl SharedStore {
    fn of(inner: &Arc<MemoryStore>, amends: bool) -> Arc<dyn DedupStore> {
        Arc::new(Self { info: inner.info().clone().shared(), inner: Arc::clone(inner), amends })
    }
}

impl DedupStore for SharedStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }
    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.inner.append(partition, attempt, events)
    }
    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.inner.read(query)
    }
    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.inner.lookup(ids)
    }
    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.inner.topics(query)
    }
    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.inner.stats()
    }
    fn amend(&self) -> Option<&dyn Amend> {
        self.inner.amend().filter(|_| self.amends)
    }
    fn records(&self) -> Option<&dyn Records> {
        self.inner.records()
    }
    fn watch(&self) -> Option<&dyn Watch> {
        self.inner.watch()
    }
}

#[tokio::test]
async fn other_nodes_forget_the_values_of_conflicts_that_were_erased() {
    let store = Arc::new(MemoryStore::default());
    let node = Guarded::start(SharedStore::of(&store, true), Config::default()).await;
    let other = Guarded::start(SharedStore::of(&store, true), Config::default()).await;
    for payload in ["stored", "sent"] {
        let event = json!({"topic": "t", "event_id": "1", "payload": payload});
        node.request(Method::POST, "/publish").json(&event).send().await.unwrap();
    }
    let told = async || node.anonymous("/duplicates").await.json.to_string();
    until("the conflict is compared", async || told().await.contains("sent")).await;
    other.operate(Method::POST, "/admin/erase", named(&["1"])).await;
    until("the other node notices", async || !told().await.contains("\"sent\"")).await;
    assert!(told().await.contains("conflict"));
    node.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_amend_says_so_and_nothing_is_audited() {
    let store = Arc::new(MemoryStore::default());
    let server = Guarded::start(SharedStore::of(&store, false), Config::default()).await;
    server.request(Method::POST, "/publish").json(&event("t", 1)).send().await.unwrap();
    for path in ["/admin/erase", "/admin/release"] {
        let answer: Answer = server.operate(Method::POST, path, named(&["1"])).await;
        let kind = &answer.json["type"];
        assert_eq!((answer.status.as_u16(), kind), (501, &json!("urn:aggregator:problem:unsupported")));
    }
    let audit: Value = server.operate(Method::GET, "/admin/audit", Value::Null).await.json;
    assert_eq!(audit["count"], 0);
    server.stop().await;
}
