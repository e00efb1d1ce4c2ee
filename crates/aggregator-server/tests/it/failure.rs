//! A store that fails: nothing is acknowledged that is not stored, and it is said why.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_core::{DedupStore, MemoryStore, Outage, Partition, Partitions};
use aggregator_server::{Config, RunError};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Server, event, events, until};

async fn server() -> (Arc<FaultyStore>, Server) {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let store: Arc<dyn DedupStore> = Arc::clone(&faulty) as _;
    (faulty, Server::start(store, Config::default()).await)
}

#[tokio::test]
async fn a_passing_failure_is_a_503_and_the_retry_is_stored() {
    let (faulty, server) = server().await;
    for (failure, kind) in [(Failure::Unavailable, "store-unavailable"), (Failure::NoSpace, "no-space")] {
        faulty.fail_nth(1, failure);
        server.publish(&event("t", kind)).await.problem(503, kind);
        assert_eq!(server.get("/readyz").await.status, 200);
        assert_eq!(server.publish(&event("t", kind)).await.outcomes(), ["stored"]);
    }
}

#[tokio::test]
async fn a_part_of_the_store_that_is_gone_is_named_and_the_server_is_ready_while_another_takes_events() {
    let store = MemoryStore::new(Partitions::new(3).unwrap());
    let faulty = Arc::new(FaultyStore::new(Arc::new(store)));
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    assert_eq!(server.get("/readyz").await.json, json!({"status": "ready"}), "nothing is said of nothing");
    assert!(server.get("/health").await.json.get("unavailable").is_none());
    assert!(server.stats().await["store"].get("unavailable_partitions").is_none());

    let gone = |partitions: &[u16]| {
        Outage::new(partitions.iter().copied().map(Partition).collect(), "shard 1 (b.db): as planned")
    };
    faulty.tell_outages(vec![gone(&[1, 2])]);
    let unavailable = json!([{"partitions": [1, 2], "reason": "shard 1 (b.db): as planned"}]);
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.json["unavailable"]), (200, &unavailable));
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json["status"]), (200, &json!("ok")));
    assert_eq!(health.json["unavailable"], unavailable);
    assert_eq!(server.stats().await["store"]["unavailable_partitions"], json!([1, 2]));
    assert_eq!(server.scrape().await.get("aggregator_partitions_unavailable"), 2.0);

    // Nobody would wait for them: they would fill the queue, until others found no room.
    let partitions = Partitions::new(3).unwrap();
    let of = |partition| (0..).map(|n| format!("t{n}")).find(|t| partitions.of(t).0 == partition).unwrap();
    let queued =
        async |partition| server.post("/publish?ack=queued", event(&of(partition), 1).to_string()).await;
    let refused = queued(1).await;
    refused.problem(503, "store-unavailable");
    refused.tells(&["nothing is queued", "shard 1 (b.db)"]);
    assert_eq!(queued(0).await.status, 202);

    faulty.tell_outages(vec![gone(&[0]), gone(&[1, 2])]);
    let ready = server.get("/readyz").await;
    ready.problem(503, "store-unavailable");
    assert!(ready.json["detail"].as_str().unwrap().contains("no partition takes events"), "{}", ready.json);
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json["status"]), (503, &json!("unavailable")));
    assert_eq!(server.get("/readyz?of=reads").await.status, 200, "what can be read is another question");

    faulty.tell_outages(Vec::new());
    assert_eq!(server.get("/readyz").await.json, json!({"status": "ready"}));
}

#[tokio::test]
async fn a_lost_reply_of_the_store_is_a_503_and_the_retry_is_a_duplicate() {
    let (faulty, server) = server().await;
    faulty.fail_nth(1, Failure::LostReply);
    server.publish(&event("t", 1)).await.problem(503, "store-unavailable");
    assert_eq!(server.publish(&event("t", 1)).await.outcomes(), ["duplicate"]);
    assert_eq!(server.get("/events").await.json["count"], 1);
}

#[tokio::test]
async fn a_corrupt_store_stops_acknowledgements_for_good() {
    let (faulty, server) = server().await;
    server.publish(&event("t", 1)).await;
    faulty.fail_nth(1, Failure::Corrupt);
    server.publish(&event("t", 2)).await.problem(503, "failed");
    // The store would work again; nobody knows what it lost.
    let answer = server.publish(&event("t", 3)).await;
    answer.problem(503, "failed");
    assert!(answer.json["detail"].as_str().unwrap().contains("as planned"));
    let answer = server.get("/readyz").await;
    answer.problem(503, "failed");
    assert!(answer.json["detail"].as_str().unwrap().contains("as planned"));
    let health = server.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json["status"]), (503, &json!("failed")));
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/events?topic=t").await.json["count"], 1, "reading goes on");
    let error = server.stop().await.unwrap_err();
    assert!(matches!(error, RunError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_queued_once_the_store_has_failed_while_the_body_came() {
    for failure in [Failure::Corrupt, Failure::Panic] {
        let (faulty, server) = server().await;
        let body = event("t", 1).to_string();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let head = format!(
            "POST /publish?ack=queued HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             connection: close\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Sent when the body is asked for: the server was well then.
        let mut goes_on = [0; 25];
        stream.read_exact(&mut goes_on).await.unwrap();
        assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        faulty.fail_nth(1, failure);
        server.publish(&event("t", 2)).await.problem(503, "failed");
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("problem:failed"), "{answer}");
        let stats = server.stats().await;
        assert_eq!((&stats["queue"]["events"], &stats["queue"]["lost"]), (&json!(0), &json!(0)));
        assert!(server.stop().await.is_err());
    }
}

#[tokio::test]
async fn events_that_were_queued_when_the_store_failed_are_counted_as_lost() {
    let (faulty, server) = server().await;
    faulty.fail_nth(1, Failure::Corrupt);
    assert_eq!(server.post("/publish?ack=queued", events("t", 0..3).to_string()).await.status, 202);
    server.until("they are lost", |stats| stats["queue"]["lost"] == 3).await;
    let stats = server.stats().await;
    assert_eq!((&stats["rejected"], &stats["queue"]["events"]), (&json!(0), &json!(0)));
    assert!(server.stop().await.is_err());
}

#[tokio::test]
async fn a_panicking_worker_stops_acknowledgements_for_good() {
    let (faulty, server) = server().await;
    faulty.fail_nth(1, Failure::Panic);
    server.publish(&event("t", 1)).await.problem(503, "failed");
    server.publish(&event("t", 2)).await.problem(503, "failed");
    let answer = server.get("/readyz").await;
    answer.problem(503, "failed");
    assert!(answer.json["detail"].as_str().unwrap().contains("a worker panicked: as planned"));
    assert_eq!(server.stats().await["queue"]["events"], 0, "the room of its jobs was given back");
    assert!(server.stop().await.is_err());
}

#[tokio::test]
async fn a_store_that_does_not_answer_for_every_event_stops_acknowledgements() {
    for failure in [Failure::MissingReceipt, Failure::SurplusReceipt] {
        let (faulty, server) = server().await;
        faulty.fail_nth(1, failure);
        server.publish(&events("t", 0..3)).await.problem(503, "failed");
        let answer = server.get("/readyz").await;
        answer.problem(503, "failed");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains("receipts for 3 events"), "{detail}");
        server.publish(&event("t", 3)).await.problem(503, "failed");
        assert_eq!(server.stats().await["node"]["received"], 0, "nobody knows what became of them");
        assert!(server.stop().await.is_err());
    }
}

#[tokio::test]
async fn what_was_acknowledged_as_queued_stays_until_the_store_takes_it() {
    let (faulty, server) = server().await;
    faulty.fail_nth(1, Failure::NoSpace);
    faulty.fail_nth(2, Failure::Unavailable);
    faulty.fail_nth(3, Failure::NoSpace);
    let answer = server.post("/publish?ack=queued", events("t", 0..10).to_string()).await;
    assert_eq!(answer.status, 202);
    server.until("everything is stored", |stats| stats["unique_processed"] == 10).await;
    assert_eq!(faulty.appends(), 4);
    let page = server.get("/events?topic=t").await.json;
    let ids: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| &event["event_id"]).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_passing_failure_does_not_change_the_order_of_what_was_queued() {
    let four = || MemoryStore::new(Partitions::new(4).unwrap());
    for store in [MemoryStore::default(), four(), four().with_a_commit_per_partition()] {
        queue_through_failures(store).await;
    }
}

async fn queue_through_failures(store: MemoryStore) {
    let faulty = Arc::new(FaultyStore::new(Arc::new(store)));
    let config = Config { group_events: std::num::NonZeroUsize::new(10).unwrap(), ..Config::default() };
    let server = Server::start(Arc::clone(&faulty) as _, config).await;
    faulty.hold();
    for nth in [1, 3, 4, 6] {
        faulty.fail_nth(nth, Failure::Unavailable);
    }
    let topics = ["a", "b", "c", "d", "e"];
    for id in 0..175 {
        let event = event(topics[id % 5], id / 5);
        assert_eq!(server.post("/publish?ack=queued", event.to_string()).await.status, 202);
    }
    faulty.go_on();
    server.until("everything is stored", |stats| stats["unique_processed"] == 175).await;
    for topic in topics {
        let page = server.get(&format!("/events?topic={topic}")).await.json;
        let ids: Vec<_> =
            page["events"].as_array().unwrap().iter().map(|event| event["event_id"].clone()).collect();
        assert_eq!(ids, (0..35).map(|id| json!(id.to_string())).collect::<Vec<_>>(), "{topic}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_panic_stops_acknowledgements_of_what_is_queued_already_too() {
    let (faulty, server) = server().await;
    faulty.hold();
    faulty.fail_nth(1, Failure::Panic);
    let first = server.publish_later("/publish", &event("t", 1));
    server.until("the first is appended", |_| faulty.appends() == 1).await;
    let second = server.publish_later("/publish", &event("t", 2));
    server.until("both wait", |stats| stats["queue"]["events"] == 2).await;
    faulty.go_on();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (503, 503));
    assert_eq!(server.stats().await["unique_processed"], 0);
    assert!(server.stop().await.is_err());
}

#[tokio::test]
async fn what_may_succeed_later_counts_more_than_what_will_not() {
    let memory = MemoryStore::new(Partitions::new(4).unwrap()).with_max_topics(2);
    let faulty = Arc::new(FaultyStore::new(Arc::new(memory)));
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    server.publish(&json!([event("known.1", 0), event("known.2", 0)])).await;
    let batch: Vec<_> = (0..16).map(|n| event(&format!("new.{n}"), 1)).collect();
    for nth in 1..=4 {
        faulty.fail_nth(nth, Failure::Unavailable);
        server.publish(&json!(batch)).await.problem(503, "store-unavailable");
        // Whatever is left of the plan is used up.
        server.publish(&json!(batch)).await.problem(422, "invalid-events");
    }
    let errors = server.publish(&json!(batch)).await.problem(422, "invalid-events");
    assert!(errors.iter().map(|(index, _)| index.unwrap()).eq(0..16), "all are named: {errors:?}");
}

#[tokio::test]
async fn corruption_that_a_reader_meets_stops_acknowledgements_too() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Server::sqlite(&path).await;
    server.publish(&event("t", 1)).await;
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM events", []).unwrap();
    let ids = json!({"ids": [{"topic": "t", "event_id": "1"}]}).to_string();
    server.post("/lookup", ids).await.problem(503, "failed");
    server.get("/readyz").await.problem(503, "failed");
    server.publish(&event("t", 2)).await.problem(503, "failed");
}

#[tokio::test]
async fn a_shutdown_commits_what_is_queued() {
    let (faulty, server) = server().await;
    faulty.hold();
    for batch in 0..5 {
        let body = events("t", batch * 10..batch * 10 + 10).to_string();
        assert_eq!(server.post("/publish?ack=queued", body).await.status, 202);
    }
    server.until("an append has begun", |_| faulty.appends() == 1).await;
    let stopping = server.begin_stop();
    faulty.go_on();
    stopping.await.unwrap().unwrap();
    assert_eq!(faulty.stats().unwrap().stored, 50);
}

#[tokio::test]
async fn a_shutdown_answers_requests_under_way_and_takes_no_more() {
    let (faulty, server) = server().await;
    faulty.hold();
    let waiting = server.publish_later("/publish", &event("t", 1));
    server.until("it waits", |stats| stats["queue"]["events"] == 1).await;
    let (client, url) = (server.client.clone(), server.url.clone());
    let stopping = server.begin_stop();
    // The port is closed, and connections that were idle end.
    until("it takes no more", async || {
        let answer = client.get(format!("{url}/readyz")).send().await;
        !answer.is_ok_and(|response| response.status() == 200)
    })
    .await;
    faulty.go_on();
    assert_eq!(waiting.await.unwrap(), 202);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_that_cannot_commit_in_time_says_so() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let config = Config { drain_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::start(Arc::clone(&faulty) as _, config).await;
    faulty.hold();
    assert_eq!(server.post("/publish?ack=queued", events("t", 0..10).to_string()).await.status, 202);
    let error = server.stop().await.unwrap_err();
    assert!(matches!(error, RunError::DrainTimeout { events: 10, .. }), "{error}");
    faulty.go_on();
}
