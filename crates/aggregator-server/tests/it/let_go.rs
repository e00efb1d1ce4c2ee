//! A server that has ended holds nothing: whoever waited for its end may open the store again.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator_core::store::{StoreInfo, StoreStats, TopicInfo};
use aggregator_core::{
    AttemptId, Batch, DedupStore, EventRef, Identity, MemoryStore, Page, Partition, Query, Receipt, Seen,
    StoreError, TopicQuery,
};
use aggregator_server::{Config, RunError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Server, events};

/// Says when it is asked to prepare a batch, and takes its time then.
struct SlowToPrepare {
    inner: MemoryStore,
    asked: std::sync::mpsc::Sender<()>,
    release: Mutex<Receiver<()>>,
}

impl DedupStore for SlowToPrepare {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }
    fn append(
        &self,
        p: Partition,
        a: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.inner.append(p, a, events)
    }
    fn prepare(&self, _: &mut Batch) {
        self.asked.send(()).unwrap();
        let _ = self.release.lock().unwrap().recv();
        // As long as it takes to open a store several times.
        std::thread::sleep(Duration::from_millis(100));
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_decoded_for_a_connection_that_is_broken_off_does_not_hold_the_store_at_the_end() {
    let ((asked, is_asked), (release, released)) = (channel(), channel());
    let store = SlowToPrepare { inner: MemoryStore::default(), asked, release: Mutex::new(released) };
    let store: Arc<dyn DedupStore> = Arc::new(store);
    let config = Config { drain_timeout: Duration::from_secs(3), ..Config::default() };
    let server = Server::start(Arc::clone(&store), config).await;
    let body = events("t", 0..6_000).to_string();
    assert!(body.len() > 256 << 10, "smaller ones are decoded where they are read");
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    tokio::task::spawn_blocking(move || is_asked.recv().unwrap()).await.unwrap();
    let stopping = server.begin_stop();
    // At half of the drain timeout the connection is broken off, and nobody waits for the decoder any more.
    assert!(!matches!(stream.read(&mut [0; 64]).await, Ok(1..)), "it has no answer yet");
    drop(release);
    stopping.await.unwrap().unwrap();
    assert_eq!(Arc::strong_count(&store), 1);
}

#[tokio::test]
async fn settings_out_of_bounds_are_refused_before_anything_is_served() {
    let config = Config { max_json_depth: 2, ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let refusal = server.stop().await.unwrap_err();
    assert!(matches!(&refusal, RunError::Settings(why) if why.contains("--max-json-depth 2")), "{refusal}");
}
