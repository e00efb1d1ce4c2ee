//! What a reader may not read it cannot learn, from nothing that it is told.

use aggregator_core::{Cursor, DedupStoreExt as _, Event, MemoryStore};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Guarded, Key};
use crate::support::{Answer, event, events, in_time};

async fn publish(server: &Guarded, key: &Key, topic: &str, ids: std::ops::Range<u32>) {
    assert_eq!(server.post(key, "/publish", &events(topic, ids)).await.status, 202);
}

/// Everything of an answer that is not another thing each time.
fn shown(answer: &Answer) -> Value {
    let mut json = answer.json.clone();
    if let Some(json) = json.as_object_mut() {
        json.remove("next");
        json.remove("oldest");
        json.remove("request_id");
    }
    json!([answer.status.as_u16(), json])
}

#[tokio::test]
async fn a_limited_reader_is_told_the_same_whatever_is_in_other_topics() {
    is_told_the_same(Guarded::volatile().await).await;
}

pub(super) async fn is_told_the_same(server: Guarded) {
    let (writer, reader) = (server.key(&["publish:*"]).await, server.key(&["read:mine.*"]).await);
    publish(&server, &writer, "mine.a", 0..10).await;
    publish(&server, &writer, "mine.a", 0..3).await;
    let counted = async || server.get(&reader, "/insight").await.json["totals"]["duplicates"] == 3;
    crate::support::until("the repeats are counted", counted).await;
    let next = server.get(&reader, "/events?topic=mine.*").await.json["next"].as_str().unwrap().to_owned();
    let paths = [
        "/events?topic=mine.*".to_owned(),
        "/events?topic=mine.a&order=desc&limit=3".into(),
        format!("/events?topic=mine.*&after={next}"),
        "/events?topic=other.b".into(),
        "/events?topic=other.nothing".into(),
        "/events".into(),
        "/topics".into(),
        "/topics?topic=mine.*".into(),
        "/topics?topic=other.*".into(),
        "/topics?after=other.a".into(),
        "/stats".into(),
        "/stats/series".into(),
        "/insight".into(),
        "/insight?topic=mine.*&order=newest".into(),
        "/insight?topic=other.*".into(),
        "/duplicates".into(),
        "/duplicates?topic=other.b".into(),
    ];
    let look = async || {
        let mut all = Vec::new();
        for path in &paths {
            let answer = server.get(&reader, path).await;
            let lengths = ["next", "oldest"].map(|name| answer.json[name].as_str().map(str::len));
            all.push((path.clone(), shown(&answer), lengths));
        }
        let ids = json!({"ids": [{"topic": "other.b", "event_id": "1"}]});
        all.push(("/lookup".into(), shown(&server.post(&reader, "/lookup", &ids).await), [None, None]));
        all
    };
    let before = look().await;
    for topic in ["other.b", "z", "z"] {
        publish(&server, &writer, topic, 0..500).await;
    }
    assert_eq!(before, look().await);
    server.stop().await;
}

#[tokio::test]
async fn the_cursors_of_a_limited_reader_are_sealed_wherever_it_is_told_one() {
    let server = Guarded::volatile().await;
    let (writer, reader) = (server.key(&["publish:*"]).await, server.key(&["read:mine.*"]).await);
    let whole = server.key(&["read:*"]).await;
    publish(&server, &writer, "mine.a", 0..10).await;
    let is_plain = |text: &str| text.parse::<Cursor>().is_ok();
    let page = server.get(&reader, "/events?topic=mine.a&limit=4").await;
    let next = page.json["next"].as_str().unwrap();
    let link = page.headers["link"].to_str().unwrap();
    assert!(!is_plain(next) && link.contains(next), "{link}");
    assert!(is_plain(server.get(&whole, "/events?topic=mine.a").await.json["next"].as_str().unwrap()));

    let lines = server.request(Method::GET, &format!("/events?topic=mine.a&limit=4&after={next}"));
    let lines = lines.header("accept", "application/x-ndjson").bearer_auth(&reader.key).send().await.unwrap();
    let lines = lines.text().await.unwrap();
    let last: Value = serde_json::from_str(lines.trim_end().lines().last().unwrap()).unwrap();
    let next = last["next"].as_str().unwrap();
    assert!(!is_plain(next) && lines.lines().count() == 5, "{lines}");

    // A stream that goes on there: two events, their ids, the end, and the ids of heartbeats.
    let stream = server.request(Method::GET, &format!("/events/stream?topic=mine.a&after={next}"));
    let mut stream = stream.bearer_auth(&reader.key).send().await.unwrap();
    let mut read = String::new();
    while !read.contains("caught_up") {
        let chunk = in_time("the stream goes on", stream.chunk()).await.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let ids: Vec<_> = read.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert!(ids.len() >= 3 && ids.iter().all(|id| !is_plain(id)), "{read}");
    assert_eq!(read.matches("\"seq\":").count(), 2, "{read}");
    drop(stream);
    let resumed = server.request(Method::GET, "/events/stream?topic=mine.a").header("last-event-id", ids[0]);
    let mut resumed = resumed.bearer_auth(&reader.key).send().await.unwrap();
    assert_eq!(resumed.status(), 200);
    in_time("the stream begins", resumed.chunk()).await.unwrap().unwrap();
    drop(resumed);
    // Whoever reads everything cannot use it, nor can one who made it up.
    assert_eq!(server.get(&whole, &format!("/events?topic=mine.a&after={next}")).await.status, 400);
    server.stop().await;
}

/// Whoever knows the rows of its own topics could make plain cursors up, and learn from the answers where they stand.
#[tokio::test]
async fn a_limited_reader_has_no_use_for_a_plain_cursor() {
    let server = Guarded::volatile().await;
    let all: Vec<_> = (0..40).map(|id| event(if id % 2 == 0 { "mine.a" } else { "other" }, id)).collect();
    server.request(Method::POST, "/publish").json(&all).send().await.unwrap();
    let before =
        server.anonymous("/events?topic=mine.a&limit=5").await.json["next"].as_str().unwrap().to_owned();
    let (reader, whole) = (server.key(&["read:mine.*"]).await, server.key(&["read:*"]).await);
    let path = format!("/events?topic=mine.a&after={before}");
    assert_eq!(server.get(&whole, &path).await.json["count"], 15);
    let twin = MemoryStore::default();
    twin.append_one(&Event::new("mine.a", "1").unwrap()).unwrap();
    let query = aggregator_core::Query::topic(aggregator_core::Topic::new("mine.a").unwrap());
    let other = format!("/events?topic=mine.a&after={}", twin.end(&query).unwrap());
    let answers = [server.get(&reader, &path).await, server.get(&reader, &other).await];
    answers[0].problem(400, "bad-parameter");
    answers[0].tells(&["limited to some topics"]);
    assert_eq!(shown(&answers[0]), shown(&answers[1]));
    let resumed = server.request(Method::GET, "/events/stream?topic=mine.a").header("last-event-id", before);
    assert_eq!(resumed.bearer_auth(&reader.key).send().await.unwrap().status(), 400);
    server.stop().await;
}

#[tokio::test]
async fn the_heartbeats_of_a_limited_reader_do_not_show_whether_others_publish() {
    let config = aggregator_server::Config {
        heartbeat: std::time::Duration::from_millis(100),
        ..aggregator_server::Config::default()
    };
    let server = Guarded::start(std::sync::Arc::new(MemoryStore::default()), config).await;
    let reader = server.key(&["read:mine.*"]).await;
    let stream = server.request(Method::GET, "/events/stream?topic=mine.a").bearer_auth(&reader.key);
    let mut stream = stream.send().await.unwrap();
    let mut ids = std::collections::BTreeSet::new();
    let mut read = String::new();
    // Nothing happens, and no two of them are the same.
    while ids.len() < 5 {
        let chunk = in_time("the stream goes on", stream.chunk()).await.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&chunk).unwrap());
        let told: Vec<_> =
            read.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect();
        ids = told.iter().cloned().collect();
        assert_eq!(ids.len(), told.len(), "{read}");
    }
    assert!(ids.iter().all(|id| id.len() == ids.first().unwrap().len()));
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn the_way_out_of_a_gap_is_sealed_as_well() {
    let store = std::sync::Arc::new(MemoryStore::default());
    let server = Guarded::start(store.clone(), aggregator_server::Config::default()).await;
    let (writer, reader) = (server.key(&["publish:*"]).await, server.key(&["read:mine.*"]).await);
    publish(&server, &writer, "mine.a", 0..10).await;
    let next = server.get(&reader, "/events?topic=mine.a&limit=2").await.json["next"].clone();
    store.purge(&aggregator_core::Topic::new("mine.a").unwrap(), 5).unwrap();
    let gone = server.get(&reader, &format!("/events?topic=mine.a&after={}", next.as_str().unwrap())).await;
    gone.problem(410, "cursor-expired");
    let oldest = gone.json["oldest"].as_str().unwrap();
    assert!(oldest.parse::<Cursor>().is_err());
    let rest = server.get(&reader, &format!("/events?topic=mine.a&after={oldest}")).await;
    assert_eq!(rest.json["count"], 5);

    let stream = server.request(Method::GET, "/events/stream?topic=mine.a").bearer_auth(&reader.key);
    let stream = stream.header("last-event-id", next.as_str().unwrap()).header("accept", "text/event-stream");
    let mut stream = stream.send().await.unwrap();
    let mut read = String::new();
    while !read.contains("\"seq\":10") {
        let chunk = in_time("the stream goes on", stream.chunk()).await.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let gap = read.lines().find_map(|line| line.strip_prefix("data: {\"type\"")).unwrap();
    let (_, oldest) = gap.split_once("\"oldest\":\"").unwrap();
    assert!(oldest.trim_end_matches("\"}").parse::<Cursor>().is_err(), "{gap}");
    drop(stream);
    server.stop().await;
}
