//! `GET /events/stream`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{DedupStore, MemoryStore, Partitions, Topic};
use aggregator_server::Config;
use serde_json::json;
use tempfile::TempDir;

use super::event_source::EventSource;
use crate::support::{Server, event, events, in_time};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// All clients must not come back at the same moment.
fn is_jittered(retry: Duration) -> bool {
    (Duration::from_secs(2)..Duration::from_secs(5)).contains(&retry)
}

/// A server over a store that the test may change, too.
async fn over(store: &Arc<dyn DedupStore>, config: Config) -> Server {
    Server::start(Arc::clone(store), config).await
}

#[tokio::test]
async fn a_stream_has_what_is_stored_and_then_what_comes() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("a.b", 0..1_000)).await;
    server.publish(&events("x", 0..5)).await;
    let mut stream = EventSource::open(&format!("{}/events/stream?topic=a.*", server.url), "").await;
    assert_eq!(stream.event_ids(1_000).await, numbers(0..1_000));
    stream.caught_up().await;
    assert!(
        matches!(stream.parser.retries[..], [retry] if is_jittered(retry)),
        "{:?}",
        stream.parser.retries
    );
    server.publish(&events("x", 5..9)).await;
    server.publish(&events("a.c", 1_000..1_003)).await;
    server.publish(&events("a.b", 999..1_001)).await;
    assert_eq!(stream.event_ids(4).await, ["1000", "1001", "1002", "1000"]);
    drop(stream);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_event_is_the_same_as_on_a_page_and_its_id_is_where_to_go_on() {
    let server = Server::volatile().await;
    let sent = json!({"topic": "t", "event_id": "é\u{2028}x", "source": "s", "sequence": 7,
                      "payload": {"text": "a\r\nb\u{2028}", "number": 1}});
    server.publish(&sent).await;
    server.publish(&event("t", 2)).await;
    let mut stream = EventSource::open(&format!("{}/events/stream?topic=t", server.url), "").await;
    let first = stream.event().await;
    let page = server.get("/events?topic=t").await.json;
    assert_eq!(first.data, page["events"][0]);
    let rest = server.get(&format!("/events?topic=t&after={}", first.id)).await.json;
    assert_eq!(rest["events"], json!([page["events"][1]]));
}

#[tokio::test]
async fn a_client_can_begin_behind_everything_that_is_stored() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..10)).await;
    for path in ["/events/stream?topic=t&after=latest", "/events/stream?after=latest&topic=*"] {
        let mut stream = EventSource::open(&format!("{}{path}", server.url), "").await;
        stream.caught_up().await;
        server.publish(&event("t", path)).await;
        assert_eq!(stream.event_ids(1).await, [path]);
    }
    let page = server.get("/events?topic=t&after=latest").await.json;
    assert_eq!((&page["count"], &page["caught_up"]), (&json!(0), &json!(true)));
    server.publish(&event("t", "x")).await;
    let page = server.get(&format!("/events?topic=t&after={}", page["next"].as_str().unwrap())).await.json;
    assert_eq!(page["events"][0]["event_id"], "x");
}

/// A filtered reader must not look through the same events again when it connects again.
#[tokio::test]
async fn a_silent_stream_tells_how_far_it_has_come() {
    let directory = TempDir::new().unwrap();
    let store: Arc<dyn DedupStore> =
        Arc::new(aggregator_core::SqliteStore::open(directory.path().join("events.db")).unwrap());
    let config = Config { heartbeat: Duration::from_millis(50), ..Config::default() };
    let server = over(&store, config).await;
    server.publish(&events("other", 0..100)).await;
    for filter in ["topic=rare", "topic=rare.*", "source=rare", "topic=other&source=rare"] {
        let url = format!("{}/events/stream?{filter}", server.url);
        let mut stream = EventSource::open(&url, "").await;
        stream.caught_up().await;
        let before = stream.position().await;
        server.publish(&events("other", 0..200)).await;
        server.publish(&json!({"topic": "other", "event_id": filter})).await;
        // As far as a page comes that looks at everything.
        let page = server.get(&format!("/events?{filter}")).await.json;
        assert_ne!(page["next"], before.as_str());
        let come_so_far = async { while stream.position().await != page["next"].as_str().unwrap() {} };
        in_time(filter, come_so_far).await;
    }
}

#[tokio::test]
async fn what_retention_took_is_announced_and_the_stream_goes_on() {
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::default());
    let server = over(&store, Config::default()).await;
    server.publish(&events("t", 0..10)).await;
    let url = format!("{}/events/stream?topic=t", server.url);
    let mut stream = EventSource::open(&url, "").await;
    stream.event_ids(3).await;
    let last = stream.parser.last_id.clone();
    drop(stream);
    let third = server.get("/events?topic=t&limit=3").await.json["next"].as_str().unwrap().to_owned();
    store.maintain().unwrap().purge(&Topic::new("t").unwrap(), 6).unwrap();

    let mut stream = EventSource::open(&url, &third).await;
    let gap = stream.next().await.unwrap();
    assert_eq!((gap.kind.as_str(), &gap.data["oldest"]), ("gap", &json!(gap.id)));
    assert_eq!(stream.event_ids(4).await, numbers(6..10));
    stream.caught_up().await;
    // A client that is no EventSource is refused as it is with a page.
    let response = server.client.get(&url).header("last-event-id", &third).send().await.unwrap();
    assert_eq!(response.status(), 410);
    // One that has read beyond it already is told of nothing.
    let end = stream.parser.last_id.clone();
    let mut stream = EventSource::open(&url, &end).await;
    stream.caught_up().await;
    drop(last);
}

#[tokio::test]
async fn a_stream_ends_in_order_when_the_server_does() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..3)).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = EventSource::open(&format!("{}/events/stream?topic=t", server.url), "").await;
        stream.event_ids(3).await;
        stream.caught_up().await;
        streams.push(stream);
    }
    let poll = server.client.get(format!("{}/events?topic=u&wait=55", server.url)).send();
    let poll = tokio::spawn(poll);
    in_time("the end", server.stop()).await.unwrap();
    for stream in streams {
        let retries = stream.end().await.retries;
        assert!(matches!(retries[..], [_, retry] if is_jittered(retry)), "{retries:?}");
    }
    // It may have come too late to be answered.
    let _ = poll.await.unwrap();
}

#[tokio::test]
async fn more_readers_than_may_wait_are_told_to_come_later() {
    let config = Config { max_tails: NonZeroUsize::MIN, ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let url = format!("{}/events/stream", server.url);
    let mut first = EventSource::open(&url, "").await;
    first.caught_up().await;
    let refused = EventSource::open(&url, "").await.end().await;
    assert_eq!(refused.retries, [Duration::from_secs(15)]);
    let refusal = server.get("/events/stream").await;
    refusal.problem(503, "overloaded");
    refusal.tells(&["--max-tails"]);
    server.get("/events?wait=1").await.problem(503, "overloaded");
    // A page needs no such place, and a poll that finds something neither.
    assert_eq!(server.get("/events").await.status, 200);
    server.publish(&event("t", 1)).await;
    assert_eq!(server.get("/events?wait=1").await.json["count"], 1);
    drop(first);
    // The place is free when the server notices: it writes to the client, who is gone.
    crate::support::until("the place is free", async || {
        server.publish(&event("t", ulid())).await;
        EventSource::request(&url, "").await.headers().get("content-type").is_some()
            && server.get("/events?topic=nothing&wait=1").await.status == 200
    })
    .await;
}

fn ulid() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

/// A stream is counted by itself, so that many of them leave the connections to others.
#[tokio::test]
async fn a_stream_does_not_take_the_place_of_a_connection() {
    let config = Config { max_connections: NonZeroUsize::new(2).unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = EventSource::open(&format!("{}/events/stream", server.url), "").await;
        stream.caught_up().await;
        streams.push(stream);
    }
    server.publish(&event("t", 1)).await;
    for stream in &mut streams {
        assert_eq!(stream.event_ids(1).await, ["1"]);
    }
}

#[tokio::test]
async fn a_stream_of_several_partitions_has_each_event_once() {
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::new(Partitions::new(8).unwrap()));
    let server = over(&store, Config::default()).await;
    let topics: Vec<_> = (0..20).map(|topic| format!("t.{topic}")).collect();
    for topic in &topics {
        server.publish(&events(topic, 0..30)).await;
    }
    let mut stream = EventSource::open(&format!("{}/events/stream?topic=t.*", server.url), "").await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..600 {
        let message = stream.event().await;
        let next = seen.entry(message.data["topic"].as_str().unwrap().to_owned()).or_insert(1_u64);
        assert_eq!(message.data["seq"], *next);
        *next += 1;
    }
    stream.caught_up().await;
}

#[tokio::test]
async fn a_stream_may_be_of_several_topics_and_patterns() {
    let server = Server::volatile().await;
    for (topic, id) in [("a", 1), ("b.c", 2), ("d", 3)] {
        server.publish(&event(topic, id)).await;
    }
    let url = format!("{}/events/stream?topic=d&topic=b.*&topic=b.c&topic=e", server.url);
    let mut stream = EventSource::open(&url, "").await;
    assert_eq!(stream.event_ids(2).await, ["2", "3"]);
    stream.caught_up().await;
    for (topic, id) in [("a", 4), ("b.x.y", 5), ("b", 6), ("e", 7), ("d", 8), ("e.f", 9)] {
        server.publish(&event(topic, id)).await;
    }
    assert_eq!(stream.event_ids(3).await, ["5", "7", "8"]);
}

/// Wherever it begins: any other status would be the end for ever to a browser.
#[tokio::test]
async fn a_store_that_cannot_be_read_for_now_is_no_end_to_an_event_source() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    store.fail_reads(Some(1));
    let server = Server::start(store, Config::default()).await;
    for query in ["", "?after=latest", "?topic=t&after=latest"] {
        let url = format!("{}/events/stream{query}", server.url);
        let told = EventSource::open(&url, "").await.end().await;
        assert_eq!(told.retries, [Duration::from_secs(15)], "{query}");
        server.get(&format!("/events/stream{query}")).await.problem(503, "store-unavailable");
    }
}

#[tokio::test]
async fn what_a_stream_cannot_do_is_refused_by_name() {
    let server = Server::volatile().await;
    for (query, field) in [
        ("until=2026-01-01T00:00:00Z", "until"),
        ("order=desc", "order"),
        ("limit=3", "limit"),
        ("after=nonsense", "after"),
        ("event_id=1", "event_id"),
        ("topic=a&topic=b&x=1", "x"),
        ("topic=a&topic=b&topic=b..", "topic"),
        ("source=a&source=b", "source"),
    ] {
        let refusal = server.get(&format!("/events/stream?{query}")).await;
        assert_eq!(refusal.status, 400, "{query}");
        assert_eq!(refusal.json["errors"][0]["field"], field, "{query}");
    }
    let response = EventSource::request(&format!("{}/events/stream", server.url), "nonsense").await;
    assert_eq!(response.status(), 400);
    let cursor = server.get("/events?topic=t").await.json["next"].as_str().unwrap().to_owned();
    let response = EventSource::request(&format!("{}/events/stream?topic=u", server.url), &cursor).await;
    assert_eq!(response.status(), 400, "the cursor is of another query");
}
