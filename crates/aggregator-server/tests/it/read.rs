//! Reading: pages, lookups, topics, statistics, health.

use std::sync::Arc;

use aggregator_core::{
    DedupStore, DedupStoreExt, Import, Kept, KeptEvent, MemoryStore, Partition, SqliteStore, StoredRow,
    Timestamp, Topic,
};
use aggregator_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, event, events};

fn ids(page: &Value) -> Vec<&str> {
    page["events"].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_are_read_to_the_end_and_on_from_there() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..25)).await;
    server.publish(&events("u", 0..5)).await;
    let mut cursor = String::new();
    for (count, caught_up) in [(10, false), (10, false), (5, true)] {
        let page = server.get(&format!("/events?topic=t&limit=10{cursor}")).await.json;
        assert_eq!(
            (&page["topic"], &page["count"], &page["caught_up"]),
            (&json!("t"), &json!(count), &json!(caught_up))
        );
        cursor = format!("&after={}", page["next"].as_str().unwrap());
    }
    let page = server.get(&format!("/events?topic=t&limit=10{cursor}")).await.json;
    assert_eq!((&page["count"], &page["caught_up"]), (&json!(0), &json!(true)));
    server.publish(&event("t", 25)).await;
    assert_eq!(ids(&server.get(&format!("/events?topic=t{cursor}")).await.json), ["25"]);
}

#[tokio::test]
async fn filters_and_orders_are_parameters() {
    let server = Server::volatile().await;
    for (topic, id, source) in
        [("a.x", "1", "s"), ("a.y", "2", "t"), ("b", "a b/ä&?", "s"), ("a.x", "4", "t")]
    {
        let answer = server.publish(&json!({"topic": topic, "event_id": id, "source": source})).await;
        assert_eq!(answer.status, 202);
    }
    let read = async |query: &str| server.get(&format!("/events{query}")).await.json;
    assert_eq!(ids(&read("").await), ["1", "2", "a b/ä&?", "4"]);
    assert_eq!(ids(&read("?topic=a.*").await), ["1", "2", "4"]);
    assert_eq!(ids(&read("?topic=a.*&order=desc&limit=2").await), ["4", "2"]);
    assert_eq!(ids(&read("?topic=b&topic=a.x").await), ["1", "a b/ä&?", "4"]);
    let page = read("?topic=b&topic=a.x&limit=2").await;
    let next = page["next"].as_str().unwrap();
    // The order does not matter, nor does a topic that another one includes.
    assert_eq!(ids(&read(&format!("?topic=a.x&topic=b&topic=b&after={next}")).await), ["4"]);
    assert_eq!(ids(&read("?source=s").await), ["1", "a b/ä&?"]);
    assert_eq!(ids(&read("?topic=b&event_id=a+b%2F%C3%A4%26%3F").await), ["a b/ä&?"]);
    assert_eq!(ids(&read("?topic=b&event_id=4").await), [""; 0]);
    let second = read("?topic=a.y").await["events"][0]["processed_at"].as_str().unwrap().to_owned();
    assert_eq!(ids(&read(&format!("?topic=a.*&since={second}&order=asc")).await)[0], "2");
    assert!(!ids(&read(&format!("?until={second}")).await).contains(&"2"));
}

/// An event as only an import can bring it; the second one has neither a content type nor attributes.
fn imported(seq: u64, content_type: Option<&str>, attributes: Option<&str>) -> StoredRow {
    StoredRow {
        topic: "cloud.eu".into(),
        scope: None,
        event_id: seq.to_string(),
        source: Some("s".into()),
        processed_at: Timestamp::from_micros(1),
        released: false,
        kept: Kept::Event(KeptEvent {
            seq,
            timestamp: "2026-01-01T00:00:00Z".into(),
            payload: "1.50".into(),
            sequence: None,
            content_type: content_type.map(str::to_owned),
            attributes: attributes.map(str::to_owned),
        }),
    }
}

#[tokio::test]
async fn every_page_has_the_content_type_and_the_attributes_that_an_import_brought() {
    let directory = TempDir::new().unwrap();
    let sqlite = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let stores: [Arc<dyn DedupStore>; 2] = [Arc::new(MemoryStore::default()), Arc::new(sqlite)];
    for store in stores {
        let rows = [imported(1, Some("text/plain"), Some(r#"{"a":1.50,"b":null}"#)), imported(2, None, None)];
        let rows = rows.map(|row| row.check().unwrap());
        store.import(Partition(0), Import::rows(&rows)).unwrap();
        let server = Server::start(store, Config::default()).await;
        for query in ["", "?topic=cloud.eu", "?topic=cloud.*", "?topic=cloud.eu&event_id=1", "?order=desc"] {
            let text = server.client.get(format!("{}/events{query}", server.url)).send().await.unwrap();
            let text = text.text().await.unwrap();
            let expected =
                r#""payload":1.50,"content_type":"text/plain","attributes":{"a":1.50,"b":null},"seq":1"#;
            assert!(text.contains(expected), "{query}: {text}");
            assert_eq!(text.matches("content_type").count(), 1, "only where there is one: {text}");
            assert_eq!(text.matches("attributes").count(), 1, "only where there are some: {text}");
        }
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_told_from_one_without_events() {
    let directory = TempDir::new().unwrap();
    let sqlite = Server::sqlite(&directory.path().join("events.db")).await;
    for server in [sqlite, Server::volatile().await] {
        let known =
            async |query: &str| server.get(&format!("/events{query}")).await.json.get("known").cloned();
        assert_eq!(known("").await, None, "all topics of an empty store are no misspelt name");
        server.publish(&json!([event("orders.eu", 1), event("orders-x", 1), event("ordersx.eu", 1)])).await;
        for query in ["orders", "order.*", "ordres.*", "orders.eu.*", "orders.e", "orders.eux", "orders.*/"] {
            let query = format!("?topic={}", query.trim_end_matches('/'));
            let expected = if query.ends_with("orders.*") { None } else { Some(json!(false)) };
            assert_eq!(known(&query).await, expected, "{query}");
            assert_eq!(known(&format!("{query}&order=desc")).await, expected, "{query}");
        }
        for query in
            ["?topic=orders.eu", "?topic=orders.*", "?topic=orders.eu&source=nobody", "?source=nobody"]
        {
            assert_eq!(known(query).await, None, "{query}");
        }
    }
}

#[tokio::test]
async fn lookups_say_what_was_seen() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    let stored = server.publish(&json!([event("t", 1), event("t", "a/b?ä")])).await.json;
    let body = json!({"ids": [
        {"topic": "t", "event_id": "a/b?ä"}, {"topic": "t", "event_id": "2"},
        {"topic": "u", "event_id": "1"}, {"topic": "t", "event_id": "1", "source": "anyone"},
    ]});
    let answer = server.post("/lookup", body.to_string()).await;
    assert_eq!((answer.status.as_u16(), &answer.json["count"]), (200, &json!(4)));
    let results = answer.json["results"].as_array().unwrap();
    assert_eq!(
        results.iter().map(|r| r["seen"].as_bool().unwrap()).collect::<Vec<_>>(),
        [true, false, false, true]
    );
    assert_eq!(
        (&results[0]["seq"], &results[0]["processed_at"]),
        (&json!(2), &stored["results"][1]["processed_at"])
    );
    assert_eq!(results[1], json!({"topic": "t", "event_id": "2", "seen": false}));
}

#[tokio::test]
async fn topics_are_listed_in_pages() {
    let server = Server::volatile().await;
    server.publish(&json!([event("b", 1), event("a", 1), event("b", 1), event("c", 1), event("b", 2)])).await;
    let page = server.get("/topics?limit=2").await.json;
    assert_eq!((&page["count"], &page["next"]), (&json!(2), &json!("b")));
    let stored = server.get("/events?topic=b").await.json["events"].clone();
    let told = json!({"topic": "b", "last_seq": 2, "purged_seq": 0, "count": 2, "duplicates": 1, "conflicts": 0,
        "first_processed_at": stored[0]["processed_at"], "last_processed_at": stored[1]["processed_at"],
        "scope": "topic"});
    assert_eq!(page["topics"][1], told);
    let page = server.get("/topics?limit=2&after=b").await.json;
    assert_eq!(
        (&page["count"], &page["next"], &page["topics"][0]["topic"]),
        (&json!(1), &Value::Null, &json!("c"))
    );
}

#[tokio::test]
async fn topics_are_listed_by_patterns_and_an_unknown_one_is_told() {
    let store = MemoryStore::default();
    let all = ["orders.eu", "orders.us.east", "orders", "ordersx", "stock"];
    let server = Server::start(Arc::new(store), Config::default()).await;
    server.publish(&json!(all.map(|topic| event(topic, 1)))).await;
    let names = async |query: &str| {
        let page = server.get(&format!("/topics?{query}")).await.json;
        let topics = page["topics"].as_array().unwrap().clone();
        let names: Vec<_> = topics.iter().map(|topic| topic["topic"].as_str().unwrap().to_owned()).collect();
        (names.join(" "), page["next"].clone(), page["known"].clone())
    };
    let last = |text: &str| (text.to_owned(), Value::Null, Value::Null);
    assert_eq!(names("topic=orders.*").await, last("orders.eu orders.us.east"));
    assert_eq!(names("topic=stock&topic=orders").await, last("orders stock"));
    assert_eq!(names("topic=orders.*&topic=stock&after=orders.eu").await, last("orders.us.east stock"));
    assert_eq!(names("topic=orders.*&after=stock").await, last(""), "it is the last page, whatever is known");
    assert_eq!(names("topic=order.*").await, (String::new(), Value::Null, json!(false)));
    let (first, next, _) = names("topic=orders.*&limit=1").await;
    assert_eq!((first.as_str(), &next), ("orders.eu", &json!("orders.eu")));
    let link = server.get("/topics?topic=orders.*&limit=1").await.headers["link"].clone();
    assert!(link.to_str().unwrap().contains("/topics?topic=orders.*&limit=1&after=orders.eu"), "{link:?}");
    let faults = server.get("/topics?topic=orders*").await.problem(400, "bad-parameter");
    assert_eq!(faults, [(None, "topic".into())]);
}

#[tokio::test]
async fn the_count_and_the_first_time_of_a_topic_follow_a_purge() {
    let store = Arc::new(MemoryStore::default());
    let server = Server::start(Arc::clone(&store) as _, Config::default()).await;
    server.publish(&events("t", 0..3)).await;
    store.purge(&Topic::new("t").unwrap(), 3).unwrap();
    let topic = server.get("/topics?topic=t").await.json["topics"][0].clone();
    assert_eq!(
        (&topic["last_seq"], &topic["purged_seq"], &topic["count"]),
        (&json!(3), &json!(3), &json!(0))
    );
    assert!(topic.get("first_processed_at").is_none() && topic["last_processed_at"].is_string(), "{topic}");
}

#[tokio::test]
async fn statistics_and_events_survive_a_restart() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Server::sqlite(&path).await;
    server.publish(&events("t", 0..40)).await;
    server.publish(&events("t", 30..50)).await;
    let before = server.stats().await;
    assert_eq!(
        (&before["received"], &before["unique_processed"], &before["duplicate_dropped"]),
        (&json!(60), &json!(50), &json!(10))
    );
    assert_eq!((&before["topics"], &before["topics_total"]), (&json!(["t"]), &json!(1)));
    assert_eq!((&before["duplicate_rate"], &before["conflicts"]), (&json!(10.0 / 60.0), &json!(0)));
    assert_eq!(
        (&before["store"]["kind"], &before["store"]["durability"]),
        (&json!("sqlite"), &json!("fsync"))
    );
    assert_eq!(before["queue"]["events"], 0);
    let page = server.get("/events?topic=t&limit=20").await.json;
    server.stop().await.unwrap();

    let server = Server::sqlite(&path).await;
    let after = server.stats().await;
    for name in ["received", "unique_processed", "duplicate_dropped", "conflicts", "topics"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    assert_eq!(server.publish(&events("t", 0..50)).await.json["duplicates"], 50);
    let next =
        server.get(&format!("/events?topic=t&limit=100&after={}", page["next"].as_str().unwrap())).await.json;
    assert_eq!(next["count"], 30);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn health_is_told_in_four_places() {
    let server = Server::volatile().await;
    for path in ["/", "/health"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status.as_u16(), &answer.json["status"]), (200, &json!("ok")), "{path}");
        assert_eq!(
            (&answer.json["store"], &answer.json["durability"]),
            (&json!("memory"), &json!("volatile"))
        );
        assert!(answer.json["uptime"].as_f64().unwrap() >= 0.0 && answer.json["version"].is_string());
    }
    assert_eq!(server.get("/livez").await.json, json!({"status": "alive"}));
    assert_eq!(server.get("/readyz").await.json, json!({"status": "ready"}));
}
