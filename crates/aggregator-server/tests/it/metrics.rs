//! `GET /metrics`: its figures, its formats, and the programs that read them.

mod cost;
mod prometheus;
mod sheds;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_core::{DedupStore, MemoryStore};
use aggregator_server::Config;
use reqwest::Client;
use serde_json::json;
use tempfile::TempDir;

use crate::stats::share;
use crate::support::{Server, event, events};

/// What a scrape has told.
pub(crate) struct Scrape {
    pub(crate) text: String,
    content_type: String,
    /// By name and labels, as they are written.
    series: BTreeMap<String, f64>,
}

impl Scrape {
    pub(crate) async fn of(client: &Client, url: &str, accept: &str) -> Self {
        let request = client.get(format!("{url}/metrics")).header("accept", accept);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let text = answer.text().await.unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let series = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        let series: BTreeMap<_, _> = series.collect();
        assert_eq!(
            series.len(),
            text.lines().filter(|line| !line.starts_with('#')).count(),
            "one is there twice"
        );
        Self { text, content_type, series }
    }

    /// The value of a series; 0 if it is missing.
    pub(crate) fn get(&self, series: &str) -> f64 {
        self.series.get(series).copied().unwrap_or_default()
    }

    fn whole<const N: usize>(&self, series: [&str; N]) -> [u64; N] {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are counts")]
        series.map(|series| self.get(series) as u64)
    }

    /// The metrics that it describes, as Prometheus names them.
    fn described(&self) -> BTreeSet<&str> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split_once(' ').unwrap().0).collect()
    }
}

impl Server {
    pub(crate) async fn scrape(&self) -> Scrape {
        Scrape::of(&self.client, &self.url, "*/*").await
    }
}

/// Stored, duplicates, conflicts, rejected.
const OUTCOMES: [&str; 4] = [
    "aggregator_events_total{outcome=\"stored\"}",
    "aggregator_events_total{outcome=\"duplicate\"}",
    "aggregator_events_total{outcome=\"conflict\"}",
    "aggregator_events_total{outcome=\"rejected\"}",
];

#[tokio::test]
async fn events_and_groups_are_those_of_the_statistics() {
    let server = Server::volatile().await;
    assert_eq!(server.scrape().await.whole(OUTCOMES), [0; 4]);
    server.publish(&events("t", 0..10)).await;
    server.publish(&events("t", 7..12)).await;
    server.publish(&json!({"topic": "t", "event_id": "0", "payload": "another"})).await;
    server.publish(&json!([event("t", 99), {"topic": "t"}])).await.problem(422, "invalid-events");
    server.post("/publish?on_invalid=skip", json!([event("t", 12), {"topic": "t"}]).to_string()).await;
    let scrape = server.scrape().await;
    let [_, outcomes @ ..] = share(&server.stats().await);
    assert_eq!(scrape.whole(OUTCOMES), outcomes);
    assert_eq!(outcomes, [13, 3, 1, 3]);
    let commits = ["aggregator_commit_events_count", "aggregator_commit_events_sum"];
    assert_eq!(scrape.whole(commits), [4, 17], "four requests, one after the other");
    assert_eq!(scrape.get("aggregator_commit_duration_seconds_count"), 4.0);
    assert!(scrape.get("aggregator_commit_duration_seconds_sum") > 0.0);
    // The repeats of this test come within ten minutes.
    let ages =
        ["aggregator_duplicate_age_seconds_count", "aggregator_duplicate_age_seconds_bucket{le=\"900\"}"];
    assert_eq!(scrape.whole(ages), [4, 4], "{}", scrape.text);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_queue_is_that_of_the_statistics_and_a_scrape_waits_for_no_append() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    faulty.hold();
    let config = Config {
        queue_events: 10,
        max_batch_events: NonZeroUsize::new(10).unwrap(),
        queue_wait: Duration::from_secs(60),
        ..Config::default()
    };
    let server = Server::start(Arc::clone(&faulty) as _, config).await;
    let first = server.publish_later("/publish", &events("t", 0..10));
    server.until("10 wait", |stats| stats["queue"]["events"] == 10).await;
    let second = server.publish_later("/publish", &event("t", 10));
    server.until("one waits for room", |stats| stats["queue"]["waiting"] == 1).await;
    let (scrape, stats) = (server.scrape().await, server.stats().await);
    let queue = &stats["queue"];
    let shown = scrape.whole([
        "aggregator_queue_events",
        "aggregator_queue_capacity_events",
        "aggregator_queue_bytes",
        "aggregator_queue_capacity_bytes",
        "aggregator_queue_waiting_requests",
    ]);
    let told = ["events", "capacity_events", "bytes", "capacity_bytes", "waiting"];
    assert_eq!(shown, told.map(|name| queue[name].as_u64().unwrap()));
    assert_eq!((shown[0], shown[1], shown[4]), (10, 10, 1));
    faulty.go_on();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (202, 202));
    let scrape = server.scrape().await;
    assert_eq!(scrape.whole(["aggregator_queue_events", "aggregator_queue_waiting_requests"]), [0, 0]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status_and_no_client_can_make_series() {
    let server = Server::volatile().await;
    server.publish(&event("t", 1)).await;
    server.publish(&event("t", 2)).await;
    server.publish(&json!({"topic": "t"})).await;
    server.get("/events?topic=t").await;
    server.get("/events?limit=x").await;
    server.client.patch(format!("{}/publish", server.url)).send().await.unwrap();
    server.client.delete(format!("{}/admin/keys/made-up", server.url)).send().await.unwrap();
    server.raw(b"GET /events HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    server.get("/nothing/0").await;
    let before = server.scrape().await;
    let count = |scrape: &Scrape, route: &str, status: u16| {
        scrape.get(&format!("aggregator_requests_total{{route=\"{route}\",status=\"{status}\"}}"))
    };
    for (route, status, expected) in [
        ("/publish", 202, 2.0),
        ("/publish", 422, 1.0),
        ("/publish", 405, 1.0),
        ("/events", 200, 1.0),
        ("/events", 400, 1.0),
        ("/admin/keys/{id}", 403, 1.0),
        ("unknown", 400, 1.0),
        ("unknown", 404, 1.0),
    ] {
        assert_eq!(count(&before, route, status), expected, "{route} {status}: {}", before.text);
    }
    assert_eq!(before.get("aggregator_request_duration_seconds_count{route=\"/publish\"}"), 4.0);
    let second = server.scrape().await;
    for number in 1..50 {
        server.get(&format!("/nothing/{number}?{number}=1")).await;
        server.publish(&event(&format!("topic-{number}"), number)).await;
    }
    let after = server.scrape().await;
    assert_eq!(count(&after, "unknown", 404), 50.0);
    assert_eq!(count(&after, "/metrics", 200), 2.0, "an answer is counted when it is made");
    let series = |scrape: &Scrape| scrape.series.keys().cloned().collect::<Vec<_>>();
    assert_eq!(series(&after), series(&second));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_store_that_has_failed_is_told_and_so_is_one_that_is_well() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    assert_eq!(server.scrape().await.get("aggregator_ready"), 1.0);
    faulty.fail_nth(1, Failure::Corrupt);
    server.publish(&event("t", 1)).await.problem(503, "failed");
    let scrape = server.scrape().await;
    assert_eq!(scrape.get("aggregator_ready"), 0.0);
    assert_eq!(scrape.get("aggregator_shed_total{reason=\"failed\"}"), 1.0);
    assert_eq!(scrape.get("aggregator_commit_events_count"), 0.0);
    let _ = server.stop().await;
}

/// The names in the first column of the tables of docs/metrics.md, without labels.
fn documented() -> BTreeSet<String> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(cell, _)| cell.split('{').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_metric_that_is_told_is_documented_and_none_is_missing_but_those_of_tls_and_of_spans() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..3)).await;
    let scrape = server.scrape().await;
    let documented = documented();
    let missing: Vec<_> =
        documented.iter().filter(|name| !scrape.described().contains(name.as_str())).collect();
    assert_eq!(
        missing,
        [
            "aggregator_spans_total",
            "aggregator_tls_certificate_expires_timestamp_seconds",
            "aggregator_tls_reload_failures_total"
        ]
    );
    let unknown: Vec<_> = scrape.described().into_iter().filter(|name| !documented.contains(*name)).collect();
    assert_eq!(unknown, Vec::<&str>::new());
    // The store's own.
    assert_eq!(scrape.get("aggregator_sync_duration_seconds_count"), 1.0);
    let stored = scrape.get("aggregator_store_bytes{part=\"main\"}")
        + scrape.get("aggregator_store_bytes{part=\"log\"}");
    assert!(scrape.get("aggregator_wal_bytes") > 0.0 && stored > scrape.get("aggregator_wal_bytes"));
    let version = format!("aggregator_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(scrape.get(&version), 1.0);
    // A memory store has none of these.
    let volatile = Server::volatile().await;
    assert!(!volatile.scrape().await.text.contains("aggregator_sync_duration_seconds"));
    volatile.stop().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn both_formats_tell_the_same() {
    let server = Server::volatile().await;
    server.publish(&events("t", 0..3)).await;
    let plain = server.scrape().await;
    let open = Scrape::of(&server.client, &server.url, "application/openmetrics-text; version=1.0.0").await;
    assert_eq!(plain.content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(open.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.ends_with("\n# EOF\n") && !plain.text.contains("# EOF"));
    assert!(open.text.contains("# TYPE aggregator_events counter\n"), "{}", open.text);
    assert!(plain.text.contains("# TYPE aggregator_events_total counter\n"), "{}", plain.text);
    assert_eq!(open.whole(OUTCOMES), plain.whole(OUTCOMES));
    server.get("/metrics?name=x").await.problem(400, "bad-parameter");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn readers_and_connections_are_counted_against_their_limits() {
    let config = Config { max_tails: NonZeroUsize::new(7).unwrap(), ..Config::default() };
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::default());
    let server = Server::start(store, config).await;
    let tails = ["aggregator_tails", "aggregator_tails_capacity"];
    assert_eq!(server.scrape().await.whole(tails), [0, 7]);
    let poll = server.client.get(format!("{}/events?wait=55", server.url)).send();
    let poll = tokio::spawn(poll);
    crate::support::until("a poll waits", async || server.scrape().await.whole(tails) == [1, 7]).await;
    let connections = ["aggregator_connections", "aggregator_connections_capacity"];
    let [open, capacity] = server.scrape().await.whole(connections);
    // The poll's and this one. The client may have opened another one while it waited for this one.
    assert!((2..=3).contains(&open) && capacity == 1_000, "{open} of {capacity}");
    server.publish(&event("t", 1)).await;
    assert_eq!(poll.await.unwrap().unwrap().status(), 200);
    crate::support::until("the poll has ended", async || server.scrape().await.whole(tails) == [0, 7]).await;
    server.stop().await.unwrap();
}
