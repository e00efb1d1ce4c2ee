//! Readers that break off and go on: gapless, in order, each event once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{DedupStore, MemoryStore, Partitions, SqliteStore};
use aggregator_server::Config;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::event_source::{EventSource, Message, Parser};
use crate::support::{Server, events, in_time};

/// What identifies an event in a topic's order.
fn place(event: &Value) -> (String, u64) {
    (event["topic"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap())
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_is_resumed_by_its_last_id() {
    let store: Arc<dyn DedupStore> = Arc::new(MemoryStore::new(Partitions::new(3).unwrap()));
    let server = Server::start(store, Config::default()).await;
    for topic in ["a", "b", "c", "d"] {
        server.publish(&events(topic, 0..8)).await;
    }
    let url = format!("{}/events/stream", server.url);
    let all = read_all(&server, "").await;
    assert_eq!(all.len(), 32);

    let mut response = EventSource::request(&url, "").await;
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("caught_up\"") && !text.ends_with(b"}\n\n") {
        text.extend_from_slice(&in_time("the stream", response.chunk()).await.unwrap().unwrap());
    }
    let mut rest_of = BTreeMap::<String, Vec<(String, u64)>>::new();
    for cut in 0..=text.len() {
        let mut parser = Parser::default();
        let messages = parser.feed(&text[..cut]);
        let events = messages.iter().filter(|message| message.kind == "message");
        let mut read: Vec<_> = events.map(|message| place(&message.data)).collect();
        let last = parser.last_id;
        if !rest_of.contains_key(&last) {
            rest_of.insert(last.clone(), read_all(&server, &last).await);
        }
        read.extend(rest_of[&last].iter().cloned());
        assert_eq!(read, all, "cut after {cut} bytes, at {last:?}");
    }
    assert!(rest_of.len() >= 33);
}

/// Everything behind a cursor, by pages.
async fn read_all(server: &Server, after: &str) -> Vec<(String, u64)> {
    let mut after = after.to_owned();
    let mut read = Vec::new();
    loop {
        let cursor = if after.is_empty() { String::new() } else { format!("&after={after}") };
        let page = server.get(&format!("/events?limit=5{cursor}")).await.json;
        read.extend(page["events"].as_array().unwrap().iter().map(place));
        page["next"].as_str().unwrap().clone_into(&mut after);
        if page["caught_up"] == true {
            return read;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_come_and_go_beside_publishers_miss_and_repeat_nothing_in_memory() {
    readers_come_and_go(Arc::new(MemoryStore::new(Partitions::new(4).unwrap()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_come_and_go_beside_publishers_miss_and_repeat_nothing_in_a_file() {
    let directory = TempDir::new().unwrap();
    readers_come_and_go(Arc::new(SqliteStore::open(directory.path().join("events.db")).unwrap())).await;
}

/// A stream ends where a page cannot be read, and the feed begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_miss_and_repeat_nothing_although_reads_fail() {
    let memory = MemoryStore::new(Partitions::new(4).unwrap());
    let store = Arc::new(FaultyStore::new(Arc::new(memory)));
    store.fail_reads(Some(5));
    let healthy = Arc::clone(&store);
    come_and_go(store, move || healthy.fail_reads(None)).await;
}

const TOPICS: u32 = 6;
const EVENTS_PER_TOPIC: u32 = 400;

async fn readers_come_and_go(store: Arc<dyn DedupStore>) {
    come_and_go(store, || {}).await;
}

/// `at_end` is called when everything is published.
async fn come_and_go(store: Arc<dyn DedupStore>, at_end: impl FnOnce()) {
    let server = Arc::new(Server::start(store, Config::default()).await);
    let done = Arc::new(AtomicBool::new(false));
    let filters = ["topic=t.1", "topic=t.*", "", "source=s1", "topic=t.2.*&source=s0", "topic=t.3&source=s1"];
    let readers: Vec<_> = filters
        .iter()
        .cycle()
        .take(24)
        .enumerate()
        .map(|(number, filter)| {
            tokio::spawn(follow(Arc::clone(&server), (*filter).to_owned(), number as u64, Arc::clone(&done)))
        })
        .collect();
    let publishers = (0..TOPICS).map(|topic| publish(&server, topic));
    futures_util::future::join_all(publishers).await;
    at_end();
    done.store(true, Ordering::SeqCst);
    for (reader, filter) in readers.into_iter().zip(filters.iter().cycle()) {
        let read = in_time("a reader", reader).await.unwrap();
        let wanted = wanted(&server, filter).await;
        assert_eq!(by_topic(&read), by_topic(&wanted), "{filter}");
    }
}

/// The seqs that were read, of each topic in the order of reading.
fn by_topic(read: &[(String, u64)]) -> BTreeMap<&str, Vec<u64>> {
    let mut topics = BTreeMap::<_, Vec<_>>::new();
    for (topic, seq) in read {
        topics.entry(topic.as_str()).or_default().push(*seq);
    }
    topics
}

async fn publish(server: &Server, topic: u32) {
    let mut random = StdRng::seed_from_u64(topic.into());
    let mut next = 0;
    while next < EVENTS_PER_TOPIC {
        let end = EVENTS_PER_TOPIC.min(next + random.random_range(1..30));
        // Some of them come again.
        let batch: Vec<_> = (next.saturating_sub(3)..end)
            .map(|id| {
                let topic = if topic == 2 { "t.2.x".to_owned() } else { format!("t.{topic}") };
                json!({"topic": topic, "event_id": id.to_string(), "source": format!("s{}", id % 2)})
            })
            .collect();
        assert_eq!(server.publish(&json!({"events": batch})).await.status, 202);
        next = end;
    }
}

async fn wanted(server: &Server, filter: &str) -> Vec<(String, u64)> {
    let request = server.client.get(format!("{}/events?limit=1000000&{filter}", server.url));
    let text = request.header("accept", "application/x-ndjson").send().await.unwrap().text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["caught_up"], true);
    lines[..lines.len() - 1].iter().map(place).collect()
}

/// Follows the stream, by streams and by long polls in turn, and breaks off after a random number of events.
async fn follow(server: Arc<Server>, filter: String, seed: u64, done: Arc<AtomicBool>) -> Vec<(String, u64)> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut read, mut last) = (Vec::new(), String::new());
    loop {
        // Whatever is stored before this is read by the turn that begins now.
        let is_last = done.load(Ordering::SeqCst);
        if random.random_bool(0.7) || is_last {
            let patience = if is_last { usize::MAX } else { random.random_range(1..200) };
            let mut stream =
                EventSource::open(&format!("{}/events/stream?{filter}", server.url), &last).await;
            for _ in 0..patience {
                // It may end where it cannot go on.
                let Some(Message { id, kind, data }) = stream.next().await else { break };
                last = id;
                match kind.as_str() {
                    "message" => read.push(place(&data)),
                    "caught_up" if is_last => return read,
                    "caught_up" => break,
                    _ => panic!("{kind}: {data}"),
                }
            }
        } else {
            let after = if last.is_empty() { String::new() } else { format!("&after={last}") };
            let limit = random.random_range(1..50);
            let page = server.get(&format!("/events?wait=1&limit={limit}&{filter}{after}")).await;
            if page.status == 503 {
                continue;
            }
            let page = page.json;
            read.extend(page["events"].as_array().unwrap().iter().map(place));
            page["next"].as_str().unwrap().clone_into(&mut last);
        }
    }
}
