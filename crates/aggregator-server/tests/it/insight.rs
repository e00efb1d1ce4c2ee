//! What the repeats mean: `GET /insight`, `GET /duplicates`, `GET /stats/series`.

use std::process::Command;

#[cfg(feature = "postgres")]
use aggregator_postgres::test_server::TestServer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::publisher_sim;
#[cfg(feature = "postgres")]
use crate::support::Process;
use crate::support::{Answer, Server, event, events, until};

fn numbered(source: &str, numbers: impl IntoIterator<Item = u64>) -> Value {
    let of = |number| json!({"topic": "t", "event_id": format!("{source}-{number}"), "source": source, "sequence": number});
    numbers.into_iter().map(of).collect()
}

/// What insight says once it has counted so many deliveries.
async fn insight(server: &Server, path: &str, deliveries: u64) -> Value {
    let of = |totals: &Value| {
        ["stored", "duplicates", "conflicts"].map(|name| totals[name].as_u64().unwrap()).iter().sum::<u64>()
    };
    let counted = async || of(&server.get("/insight").await.json["totals"]) == deliveries;
    until("all deliveries are counted", counted).await;
    server.get(path).await.json
}

#[tokio::test]
async fn each_source_is_told_what_it_delivered_and_what_is_missing() {
    let server = Server::volatile().await;
    server.publish(&numbered("one", (1..=10).filter(|number| ![4, 5, 8].contains(number)))).await;
    server.publish(&numbered("one", [5, 9, 10])).await;
    server.publish(&numbered("other", 1..=3)).await;
    server.publish(&json!({"topic": "t", "event_id": "one-1", "source": "one", "payload": 1})).await;

    let told = insight(&server, "/insight?order=duplicates", 14).await;
    let totals = ["stored", "duplicates", "conflicts"].map(|name| told["totals"][name].as_u64().unwrap());
    assert_eq!(totals, [11, 2, 1]);
    assert_eq!(told["totals"]["duplicate_rate"], json!(2.0 / 14.0));
    let numbers = json!({"streams": 2, "missing": 2, "reordered": 1, "reused": 0, "restarts": 0});
    assert_eq!(told["numbers"], numbers);
    let streams = told["streams"].as_array().unwrap();
    let sources: Vec<_> = streams.iter().map(|stream| stream["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["one", "other"]);
    let sequence = json!({"first": 1, "highest": 10, "received": 8, "missing": 2, "reordered": 1, "reused": 0,
        "restarts": 0, "gaps": [[4, 4], [8, 8]]});
    assert_eq!(streams[0]["sequence"], sequence);
    assert_eq!(streams[1]["sequence"]["missing"], 0);
    let often: Vec<_> = told["most_repeated"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (&of["event_id"], &of["repeats_at_least"]))
        .collect();
    assert_eq!(often.len(), 3);
    assert!(often.iter().all(|(_, repeats)| **repeats == 1));
    // All came at once.
    assert_eq!(told["lateness"][0], json!({"within_seconds": 1, "repeats": 3}));
    assert_eq!(told["totals"]["let_through"][0], json!({"window_seconds": 120, "repeats": 0}));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn streams_are_filtered_ordered_and_limited() {
    let server = Server::volatile().await;
    for (topic, count) in [("a", 5), ("b.x", 9), ("b.y", 7)] {
        server.publish(&events(topic, 0..count)).await;
    }
    server.publish(&events("a", 0..5)).await;
    let topics = |answer: &Value| -> Vec<String> {
        let streams = answer["streams"].as_array().unwrap();
        streams.iter().map(|stream| stream["topic"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(topics(&insight(&server, "/insight", 26).await), ["a", "b.x", "b.y"]);
    let told = insight(&server, "/insight?topic=b.*&limit=1", 26).await;
    assert_eq!((topics(&told), &told["streams_total"]), (vec!["b.x".to_owned()], &json!(2)));
    assert_eq!(told["totals"]["stored"], 16);
    assert_eq!((told.get("others"), told.get("most_repeated")), (None, None));
    assert_eq!(topics(&insight(&server, "/insight?order=newest&limit=1", 26).await), ["a"]);
    for (path, parameter) in [
        ("/insight?order=x", "order"),
        ("/insight?limit=1001", "limit"),
        ("/insight?after=x", "after"),
        ("/duplicates?outcome=stored", "outcome"),
        ("/duplicates?limit=0", "limit"),
        ("/stats/series?step=day", "step"),
        ("/stats/series?topic=a", "topic"),
    ] {
        let answer: Answer = server.get(path).await;
        answer.problem(400, "bad-parameter");
        answer.tells(&[parameter]);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_conflict_is_told_field_by_field() {
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    let first = r#"{"topic":"t","event_id":"1","timestamp":"2026-01-01T00:00:00Z","source":"a","payload":{"n":9007199254740993,"same":1}}"#;
    let second = r#"{"topic":"t","event_id":"1","timestamp":"2026-01-02T00:00:00Z","source":"b","payload":{"n":1e400,"same":1}}"#;
    for body in [first, first, second] {
        assert_eq!(server.post("/publish", body).await.status, 202);
    }
    let compared = async || {
        let told = server.get("/duplicates?outcome=conflict").await.json;
        told["duplicates"][0]["differences"].is_array()
    };
    until("the conflict is compared", compared).await;
    let told = server.get("/duplicates?topic=t&event_id=1").await.json;
    let [conflict, repeat] = told["duplicates"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(
        (&conflict["outcome"], &conflict["source"], &conflict["seq"]),
        (&json!("conflict"), &json!("b"), &json!(1))
    );
    assert_eq!(
        conflict["differences"],
        json!([
            {"field": "payload.n", "stored": "9007199254740993", "sent": "1e400"},
            {"field": "source", "stored": "a", "sent": "b"},
            {"field": "timestamp", "stored": "2026-01-01T00:00:00Z", "sent": "2026-01-02T00:00:00Z"},
        ])
    );
    assert_eq!((&repeat["outcome"], repeat.get("differences")), (&json!("duplicate"), None));
    assert!(
        repeat["late_seconds"].as_f64().unwrap() >= 0.0
            && repeat["at"].as_str() >= repeat["first_at"].as_str()
    );
    assert_eq!(server.get("/duplicates?event_id=2").await.json["count"], 0);
    server.stop().await.unwrap();
}

/// The sum over the buckets of a step.
async fn sum(server: &Server, step: &str) -> [u64; 4] {
    let told = server.get(&format!("/stats/series?step={step}&limit=700")).await.json;
    let buckets = told["buckets"].as_array().unwrap();
    ["stored", "duplicates", "conflicts", "rejected"]
        .map(|name| buckets.iter().map(|bucket| bucket[name].as_u64().unwrap()).sum())
}

#[tokio::test]
async fn the_series_add_up_to_the_totals_and_go_on_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let server = Server::sqlite(&path).await;
    server.publish(&events("t", 0..10)).await;
    server.publish(&events("t", 5..12)).await;
    server.publish(&json!({"topic": "t", "event_id": "0", "payload": "another"})).await;
    server.publish(&json!({"topic": "t"})).await;
    insight(&server, "/insight", 18).await;
    for step in ["second", "minute", "hour"] {
        assert_eq!(sum(&server, step).await, [12, 5, 1, 1], "{step}");
    }
    let told = server.get("/stats/series?step=second").await.json;
    assert!(told["buckets"][0]["publish_p99_seconds"].as_f64().unwrap() > 0.0, "{told}");
    server.stop().await.unwrap();

    let server = Server::sqlite(&path).await;
    let told = insight(&server, "/insight", 18).await;
    assert_eq!((&told["streams"][0]["stored"], &told["nodes"]), (&json!(12), &json!(1)));
    server.publish(&event("t", 12)).await;
    insight(&server, "/insight", 19).await;
    assert_eq!(sum(&server, "minute").await, [13, 5, 1, 1]);
    assert_eq!(server.get("/duplicates?outcome=duplicate").await.json["count"], 5);
    server.stop().await.unwrap();
}

/// The simulator loses some numbers and sends some late, and says what it did. It knows nothing of insight.
#[tokio::test]
async fn what_the_simulator_lost_and_delayed_is_what_is_missing_and_out_of_order() {
    let server = Server::volatile().await;
    let mut simulator = Command::new(publisher_sim::program());
    simulator.args([
        "--url",
        &server.url,
        "--events",
        "3000",
        "--dup",
        "0.2",
        "--concurrency",
        "1",
        "--json",
    ]);
    simulator.args(["--sequences", "--drop", "0.03", "--late", "0.05", "--batch", "20", "--seed", "7"]);
    let run = tokio::task::spawn_blocking(move || simulator.output().unwrap()).await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let told: Value = serde_json::from_slice(&run.stdout).unwrap();
    let truth = &told["sequences"];
    assert_eq!(truth["order_is_exact"], true);
    let sum = |name: &str| truth[name].as_u64().unwrap();
    assert!(sum("never_sent") > 20 && sum("reordered") > 20, "{truth}");

    let found = insight(&server, "/insight?limit=1000", 3_000).await;
    let numbers = &found["numbers"];
    let figures = (sum("never_sent"), sum("reordered"), 0, 0);
    let of = |name: &str| numbers[name].as_u64().unwrap();
    assert_eq!((of("missing"), of("reordered"), of("reused"), of("restarts")), figures);
    let by_source = truth["by_source"].as_array().unwrap();
    assert_eq!(by_source.len(), found["streams"].as_array().unwrap().len());
    for source in by_source {
        let is_it =
            |stream: &&Value| stream["topic"] == source["topic"] && stream["source"] == source["source"];
        let stream = found["streams"].as_array().unwrap().iter().find(is_it).unwrap();
        let sequence = &stream["sequence"];
        let told = [&sequence["missing"], &sequence["reordered"], &sequence["highest"]];
        assert_eq!(told, [&source["never_sent"], &source["reordered"], &source["highest"]], "{source}");
    }
    server.stop().await.unwrap();
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn all_nodes_of_a_store_tell_the_same_sum() {
    let Some(postgres) = TestServer::start(&[]) else { return };
    let url = postgres.url();
    let (one, other) = (Process::start_with(&url, &[]), Process::start_with(&url, &[]));
    one.publish(&numbered("s", [1, 3, 5, 7])).await;
    other.publish(&numbered("s", [2, 3, 8])).await;
    // A node that ends has kept all that it counted.
    one.signal("-TERM");
    assert!(one.wait().success());
    let counted = async || other.get("/insight").await["totals"]["stored"] == 6;
    until("the sum is known", counted).await;
    let told = other.get("/insight").await;
    assert_eq!((&told["nodes"], &told["totals"]["duplicates"]), (&json!(2), &json!(1)));
    assert_eq!(told["streams"][0]["sequence"]["gaps"], json!([[4, 4], [6, 6]]));
    // One that starts takes over what it had. All tell the same, some seconds after it was counted.
    let third = Process::start_with(&url, &[]);
    let counted = async || third.get("/insight").await["totals"] == told["totals"];
    until("the third node knows the sum", counted).await;
    assert_eq!(other.get("/insight").await["totals"], told["totals"]);
}
