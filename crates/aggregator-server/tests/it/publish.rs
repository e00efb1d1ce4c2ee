//! Publishing: every item has a fate.

use std::sync::Arc;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{MemoryStore, Partitions, SqliteOptions, SqliteStore};
use aggregator_server::Config;
use aggregator_server::config::LoneSurrogates;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Server, event, events};

#[tokio::test]
async fn an_event_published_twice_is_stored_once() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    let first = server.publish(&event("orders", 1)).await;
    assert_eq!(first.status, 202);
    assert_eq!((&first.json["status"], &first.json["event_id"]), (&json!("accepted"), &json!("1")));
    assert_eq!((&first.json["stored"], &first.json["durability"]), (&json!(1), &json!("fsync")));
    let again = server.publish(&event("orders", 1)).await;
    assert_eq!(again.outcomes(), ["duplicate"]);
    assert_eq!(again.json["results"][0]["seq"], first.json["results"][0]["seq"]);
    assert_eq!(again.json["results"][0]["processed_at"], first.json["results"][0]["processed_at"]);
    assert_eq!(server.get("/events?topic=orders").await.json["count"], 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn every_item_of_a_batch_has_a_fate_in_its_place() {
    let server = Server::volatile().await;
    server.publish(&json!([event("a", 0), event("a", 9)])).await;
    let mut other = event("a", 9);
    other["payload"] = json!("another");
    let answer = server.publish(&json!([event("a", 1), event("a", 0), other, event("a", 1)])).await;
    assert_eq!(answer.outcomes(), ["stored", "duplicate", "conflict", "duplicate"]);
    let counts = ["received", "stored", "duplicates", "conflicts", "rejected"].map(|name| &answer.json[name]);
    assert_eq!(counts, [4, 1, 2, 1, 0]);
    let seqs: Vec<_> =
        answer.json["results"].as_array().unwrap().iter().map(|result| result["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(3), Some(1), Some(2), Some(3)]);
    assert!(answer.json.get("event_id").is_none() && answer.json.get("queued").is_none());
    assert!(answer.json["received_at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn a_large_request_is_answered_like_a_small_one() {
    let server = Server::volatile().await;
    let mut batch = events("t", 0..600);
    batch["events"][7]["payload"] = json!("x".repeat(300 << 10));
    assert_eq!(server.publish(&batch).await.json["stored"], 600);
    assert_eq!(server.publish(&batch).await.json["duplicates"], 600);
    let mut broken = batch.to_string();
    broken.pop();
    server.post("/publish", broken).await.problem(400, "malformed-body");
    batch["events"][8]["topic"] = json!("");
    assert_eq!(server.publish(&batch).await.problem(422, "invalid-events"), [(Some(8), "topic".to_owned())]);
}

#[tokio::test]
async fn an_empty_batch_is_accepted_without_a_commit() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    for body in [json!([]), json!({"events": []})] {
        let answer = server.publish(&body).await;
        assert_eq!((answer.status.as_u16(), &answer.json["received"]), (202, &json!(0)));
        assert_eq!(answer.json["results"], json!([]));
    }
    assert_eq!(faulty.appends(), 0);
}

#[tokio::test]
async fn the_list_of_results_can_be_left_out() {
    let server = Server::volatile().await;
    let answer = server.post("/publish?results=none", events("t", 0..3).to_string()).await;
    assert_eq!((&answer.json["stored"], answer.json.get("results")), (&json!(3), None));
}

#[tokio::test]
async fn by_default_one_bad_item_stores_nothing_and_all_faults_are_listed() {
    let server = Server::volatile().await;
    let body =
        json!([event("t", 1), {"topic": "t"}, event("t", 2), {"topic": "a b", "event_id": "", "x": 1}]);
    let answer = server.publish(&body).await;
    let named = |index, field: &str| (Some(index), field.to_owned());
    assert_eq!(
        answer.problem(422, "invalid-events"),
        [named(1, "event_id"), named(3, "x"), named(3, "topic"), named(3, "event_id")]
    );
    let stats = server.stats().await;
    assert_eq!(
        (&stats["unique_processed"], &stats["received"], &stats["rejected"]),
        (&json!(0), &json!(0), &json!(4))
    );
}

#[tokio::test]
async fn on_request_the_good_items_are_stored_beside_bad_ones() {
    let server = Server::volatile().await;
    let body = json!([{"topic": "t"}, event("t", 1), 7, event("t", 2)]);
    let answer = server.post("/publish?on_invalid=skip", body.to_string()).await;
    assert_eq!(answer.outcomes(), ["rejected", "stored", "rejected", "stored"]);
    let counts = ["received", "stored", "rejected"].map(|name| &answer.json[name]);
    assert_eq!(counts, [4, 2, 2]);
    assert_eq!(answer.json["results"][0]["errors"][0]["field"], "event_id");
    assert_eq!(answer.json["results"][3]["event_id"], "2");
    assert_eq!(server.stats().await["rejected"], 2);
}

async fn too_many_topics(server: &Server) {
    server.publish(&json!([event("known.1", 0), event("known.2", 0)])).await;
    let batch =
        json!([{"topic": "!"}, event("known.1", 1), event("new", 1), event("known.2", 1), event("other", 1)]);
    let good = json!([event("known.1", 1), event("new", 1), event("known.2", 1), event("other", 1)]);

    let answer = server.publish(&good).await;
    let named: Vec<_> = answer.problem(422, "invalid-events");
    assert!(
        named.iter().all(|(index, field)| field == "topic" && [Some(1), Some(3)].contains(index)),
        "{named:?}"
    );

    let answer = server.post("/publish?on_invalid=skip", batch.to_string()).await;
    let outcomes = answer.outcomes();
    assert_eq!([outcomes[0], outcomes[2], outcomes[4]], ["rejected"; 3]);
    // Where partitions commit apart, the first try may have stored one of these.
    assert!(["stored", "duplicate"].contains(&outcomes[1]) && ["stored", "duplicate"].contains(&outcomes[3]));
    assert_eq!(answer.json["results"][4]["errors"][0]["index"], 4);
    assert_eq!(server.stats().await["unique_processed"], 4);
}

#[tokio::test]
async fn a_topic_too_many_is_the_fault_of_its_item() {
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions { max_topics: 2, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
    too_many_topics(&Server::start(Arc::new(store), Config::default()).await).await;
    let partitions = MemoryStore::new(Partitions::new(4).unwrap()).with_max_topics(2);
    too_many_topics(&Server::start(Arc::new(partitions), Config::default()).await).await;
}

#[tokio::test]
async fn a_batch_over_many_partitions_keeps_its_places() {
    let server =
        Server::start(Arc::new(MemoryStore::new(Partitions::new(4).unwrap())), Config::default()).await;
    let topics: Vec<_> = (0..20).map(|n| format!("t.{}", n % 10)).collect();
    let batch: Vec<_> = topics.iter().enumerate().map(|(n, topic)| event(topic, n)).collect();
    let answer = server.publish(&json!(batch)).await;
    assert_eq!(answer.json["stored"], 20);
    for (n, topic) in topics.iter().enumerate() {
        let result = &answer.json["results"][n];
        assert_eq!((&result["topic"], &result["event_id"]), (&json!(topic), &json!(n.to_string())));
        assert_eq!(result["seq"], n / 10 + 1);
    }
    assert_eq!(server.stats().await["workers"], 4);
}

#[tokio::test]
async fn queued_is_answered_before_the_commit_and_committed_all_the_same() {
    let server = Server::volatile().await;
    let answer = server.post("/publish?ack=queued", events("t", 0..10).to_string()).await;
    assert_eq!((&answer.json["durability"], &answer.json["queued"]), (&json!("queued"), &json!(10)));
    assert_eq!(answer.outcomes(), ["queued"; 10]);
    assert_eq!(answer.json["stored"], 0);
    let request =
        server.client.post(format!("{}/publish", server.url)).header("prefer", "wait=1, respond-async");
    let answer = Answer::of(request.json(&events("t", 5..15)).send().await.unwrap()).await;
    assert_eq!(answer.headers["preference-applied"], "respond-async");
    assert_eq!(answer.json["durability"], "queued");
    // A durable request of the same topic comes after them in the queue.
    assert_eq!(server.publish(&event("t", 15)).await.json["results"][0]["seq"], 16);
    let stats = server.stats().await;
    assert_eq!((&stats["received"], &stats["duplicate_dropped"]), (&json!(21), &json!(5)));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_queued_event_that_is_refused_takes_no_other_with_it() {
    let server = Server::start(Arc::new(MemoryStore::default().with_max_topics(1)), Config::default()).await;
    server.publish(&event("t", 0)).await;
    let batch = json!([event("other", 1), event("t", 1), event("another", 1), event("t", 2)]);
    assert_eq!(server.post("/publish?ack=queued", batch.to_string()).await.status, 202);
    assert_eq!(server.post("/publish?ack=queued", json!([event("other", 1)]).to_string()).await.status, 202);
    assert_eq!(server.publish(&event("t", 3)).await.json["results"][0]["seq"], 4);
    assert_eq!(server.stats().await["queue"]["events"], 0);
}

#[tokio::test]
async fn racing_publishers_store_each_event_once() {
    let directory = TempDir::new().unwrap();
    let server = Arc::new(Server::sqlite(&directory.path().join("events.db")).await);
    let publishers = (0..16_u32).map(|publisher| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let mut stored = 0;
            for batch in 0..10 {
                let from = (batch * 20 + publisher * 7) % 180;
                stored +=
                    server.publish(&events("t", from..from + 20)).await.json["stored"].as_u64().unwrap();
            }
            stored
        })
    });
    let mut stored = 0;
    for publisher in publishers.collect::<Vec<_>>() {
        stored += publisher.await.unwrap();
    }
    let page = server.get("/events?topic=t&limit=1000").await.json;
    let read = page["events"].as_array().unwrap();
    assert_eq!(read.len() as u64, stored);
    assert!(read.iter().zip(1..).all(|(event, seq)| event["seq"] == seq));
    let mut ids: Vec<_> = read.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, stored);
}

#[tokio::test]
async fn payloads_come_back_as_they_were_spelled() {
    let server = Server::volatile().await;
    let payload = r#"{"z":1.50,"a":123456789012345678901234567890,"e":1E+2,"s":"\u00e4\/ \ud83d\ude00","k":{"k":null}}"#;
    let body = format!(
        r#"{{"topic":"t","event_id":"1","timestamp":"2026-01-31T12:00:00.5+01:00","source":"s","sequence":7,"payload": {payload} }}"#
    );
    assert_eq!(server.post("/publish", body).await.status, 202);
    let response = server.client.get(format!("{}/events?topic=t", server.url)).send().await.unwrap();
    let text = response.text().await.unwrap();
    assert!(text.contains(&format!(r#""payload":{payload},"sequence":7,"seq":1"#)), "{text}");
    assert!(text.contains(r#""timestamp":"2026-01-31T12:00:00.5+01:00","source":"s""#), "{text}");
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped() {
    let server = Server::volatile().await;
    let marked = |json: Value| format!("\u{feff}{json}");
    for body in [event("t", 1), json!([event("t", 2)]), events("t", 3..5)] {
        let answer = server.post("/publish", marked(body)).await;
        assert_eq!((answer.status.as_u16(), &answer.json["rejected"]), (202, &json!(0)));
    }
    let mut large = event("t", 5);
    large["payload"] = json!("x".repeat(300 << 10));
    assert_eq!(server.post("/publish", marked(large)).await.status, 202);
    let page = server.get("/events?topic=t").await.json;
    let ids: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| &event["event_id"]).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    assert_eq!(page["events"][0]["payload"], json!({"id": "1"}));
    let answer = server.post("/lookup", marked(json!({"ids": [{"topic": "t", "event_id": "1"}]}))).await;
    assert_eq!(answer.json["results"][0]["seen"], true);
}

#[tokio::test]
async fn half_a_surrogate_pair_is_kept_on_request() {
    let config = Config { lone_surrogates: LoneSurrogates::Keep, ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let body = r#"{"topic":"t","event_id":"1","payload":{"\ud83d":"\udfff"}}"#;
    assert_eq!(server.post("/publish", body).await.status, 202);
    let response = server.client.get(format!("{}/events?topic=t", server.url)).send().await.unwrap();
    assert!(response.headers().contains_key("link"), "who cannot parse the page can still go on");
    assert!(response.text().await.unwrap().contains(r#""payload":{"\ud83d":"\udfff"}"#));
}

#[tokio::test]
async fn defaults_stand_in_for_what_is_left_out() {
    let server = Server::volatile().await;
    let answer = server.publish(&json!({"topic": "t", "event_id": "1"})).await;
    let stored = &server.get("/events?topic=t").await.json["events"][0];
    assert_eq!((&stored["source"], &stored["payload"]), (&json!("unknown"), &json!({})));
    assert_eq!(stored["timestamp"], answer.json["received_at"]);
    assert_eq!(stored.get("sequence"), None::<&Value>);
}
