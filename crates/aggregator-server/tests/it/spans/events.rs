//! What events keep of the trace that they were published in.

use std::sync::Arc;

use aggregator_core::{DedupStore, MemoryStore, SqliteStore};
use serde_json::json;
use tempfile::TempDir;

use super::collector::{Collector, Manner};
use super::{publish, traceparent};
use crate::support::{Server, event};

#[tokio::test]
async fn an_event_keeps_the_span_of_its_publisher_and_a_retry_in_another_one_is_a_duplicate() {
    let directory = TempDir::new().unwrap();
    let stores: [Arc<dyn DedupStore>; 2] = [
        Arc::new(MemoryStore::default()),
        Arc::new(SqliteStore::open(directory.path().join("a.db")).unwrap()),
    ];
    let collector = Collector::start(Manner::Takes).await;
    for store in stores {
        let server = Server::start(store, collector.config()).await;
        let (sent, retry) = (traceparent("01"), traceparent("01").replace("4bf9", "5bf9"));
        let events = json!([event("t", 1), event("t", 2)]);
        let answer = publish(&server, &[("traceparent", &sent)], &events).await;
        assert_eq!(answer.outcomes(), ["stored", "stored"]);
        let answer = publish(&server, &[("traceparent", &retry)], &events).await;
        assert_eq!(answer.outcomes(), ["duplicate", "duplicate"]);
        let answer = publish(&server, &[], &events).await;
        assert_eq!(answer.outcomes(), ["duplicate", "duplicate"]);
        // These keep nothing: nobody has such a span.
        publish(&server, &[("traceparent", &traceparent("00"))], &event("t", 3)).await;
        publish(&server, &[("traceparent", "00-nonsense")], &event("t", 4)).await;
        publish(&server, &[], &event("t", 5)).await;
        let page = server.get("/events").await.json;
        let kept: Vec<_> =
            page["events"].as_array().unwrap().iter().map(|event| event.get("attributes")).collect();
        let attributes = json!({"traceparent": sent});
        assert_eq!(kept, [Some(&attributes), Some(&attributes), None, None, None]);
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn without_tracing_a_traceparent_leaves_nothing_behind() {
    let server = Server::volatile().await;
    publish(&server, &[("traceparent", &traceparent("01"))], &event("t", 1)).await;
    let page = server.get("/events").await.json;
    assert_eq!(page["events"][0].get("attributes"), None, "{page}");
    assert!(!server.scrape().await.text.contains("aggregator_spans"));
    server.stop().await.unwrap();
}
