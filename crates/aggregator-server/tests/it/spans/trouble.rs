//! A collector that is slow, wrong or gone disturbs nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::MemoryStore;
use aggregator_server::Config;
use tempfile::TempDir;

use super::collector::{Collector, Manner, nobody};
use super::start;
use crate::support::{Process, Server, event, events, in_time, until};

/// Longer than any export may take in these tests, and shorter than what a server would wait for without the limit.
const SHORT: Duration = Duration::from_millis(300);
const BOUND: Duration = Duration::from_secs(20);

/// `aggregator_spans_total` of this outcome.
async fn spans(server: &Server, outcome: &str) -> f64 {
    server.scrape().await.get(&format!("aggregator_spans_total{{outcome=\"{outcome}\"}}"))
}

/// A server that takes events meanwhile, drops its spans, and ends in time.
async fn goes_on(config: Config) {
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let began = Instant::now();
    for round in 0..20 {
        assert_eq!(server.publish(&events("t", 10 * round..10 * round + 10)).await.status, 202);
    }
    assert!(began.elapsed() < BOUND, "requests wait for the collector: {:?}", began.elapsed());
    until("spans are dropped", async || spans(&server, "dropped").await > 0.0).await;
    server.publish(&event("t", 200)).await;
    assert_eq!(spans(&server, "exported").await, 0.0);
    assert_eq!(server.stats().await["unique_processed"], 201);
    let began = Instant::now();
    in_time("the server ends", server.stop()).await.unwrap();
    assert!(began.elapsed() < BOUND, "the end waits for the collector: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_collector_that_hangs_disturbs_nothing() {
    let collector = Collector::start(Manner::Hangs).await;
    goes_on(Config { otlp_timeout: SHORT, ..collector.config() }).await;
    assert!(collector.asked() > 0);
}

#[tokio::test]
async fn a_collector_that_is_not_there_disturbs_nothing() {
    goes_on(Config { otlp_endpoint: Some(nobody()), ..Config::default() }).await;
}

#[tokio::test]
async fn a_collector_that_fails_disturbs_nothing() {
    let collector = Collector::start(Manner::Fails(500)).await;
    goes_on(collector.config()).await;
    assert!(collector.asked() > 0);
}

#[tokio::test]
async fn the_end_waits_for_a_collector_that_hangs_as_long_as_an_export_may_take() {
    let collector = Collector::start(Manner::Hangs).await;
    let config = Config { otlp_timeout: Duration::from_secs(1), ..collector.config() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    server.publish(&event("t", 1)).await;
    let began = Instant::now();
    in_time("the server ends", server.stop()).await.unwrap();
    assert_eq!(collector.asked(), 1, "it was tried");
    assert!((Duration::from_millis(900)..BOUND).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn spans_that_find_the_queue_full_are_dropped_and_counted() {
    let collector = Collector::start(Manner::Hangs).await;
    let config = Config {
        otlp_queue_spans: 3.try_into().unwrap(),
        otlp_timeout: Duration::from_secs(600),
        ..collector.config()
    };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    server.publish(&event("t", 0)).await;
    until("an export hangs", async || collector.asked() == 1).await;
    let before = spans(&server, "dropped").await;
    for id in 1..=20 {
        assert_eq!(server.publish(&event("t", id)).await.status, 202);
    }
    // Three spans for each request, without those of the scrapes, of which three could wait.
    assert!(spans(&server, "dropped").await >= before + 57.0, "{before}");
    // Its end would wait for the collector.
    server.begin_stop().abort();
}

#[tokio::test]
async fn spans_that_the_collector_refuses_are_counted_as_dropped() {
    let collector = Collector::start(Manner::Refuses(2)).await;
    let config = Config { otlp_sample_ratio: "0".parse().unwrap(), ..collector.config() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    super::publish(&server, &[("traceparent", &super::traceparent("01"))], &event("t", 1)).await;
    until("the answer is understood", async || spans(&server, "dropped").await == 2.0).await;
    assert_eq!(spans(&server, "exported").await, 1.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_spans_again() {
    let collector = Collector::start(Manner::Fails(503)).await;
    let server = start(&collector).await;
    server.publish(&event("t", 1)).await;
    until("an export failed", async || spans(&server, "dropped").await > 0.0).await;
    collector.set(Manner::Takes);
    server.publish(&event("t", 2)).await;
    collector.named("commit group", 1).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_log_says_once_that_spans_are_dropped_and_why() {
    let directory = TempDir::new().unwrap();
    let (path, url) = (directory.path().join("a.db"), nobody().to_string());
    let store = format!("sqlite:{}", path.display());
    let mut command =
        Process::command(&["--listen", "127.0.0.1:0", "--store", &store, "--otlp-endpoint", &url]);
    command.stderr(std::process::Stdio::piped());
    let mut process = Process::spawn(command);
    process.publish(&events("t", 0..3)).await;
    let line = process.line_of_stderr("spans cannot be exported");
    assert!(line.contains(r#""level":"WARN""#) && line.contains(&url) && line.contains("refused"), "{line}");
    process.publish(&events("t", 3..6)).await;
    let rest = tokio::task::spawn_blocking(|| process.stop_and_read_stderr()).await.unwrap();
    assert!(!rest.contains("spans cannot be exported"), "{rest}");
    assert_eq!(rest.matches("spans were dropped").count(), 1, "{rest}");
}
