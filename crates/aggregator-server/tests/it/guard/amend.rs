//! Who erases events and releases identities, what is said of wrong requests, and what the audit keeps.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{MemoryStore, SqliteStore};
use aggregator_server::Config;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Guarded;
use crate::support::asked::Asked;
use crate::support::{Answer, event, until};

async fn lines(request: RequestBuilder) -> Vec<Value> {
    let response = request.send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (200, &ndjson()));
    let text = response.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ndjson() -> reqwest::header::HeaderValue {
    "application/x-ndjson".parse().unwrap()
}

fn named(ids: &[&str]) -> Value {
    let identities: Vec<_> = ids.iter().map(|id| json!({"topic": "t", "event_id": id})).collect();
    json!({"identities": identities, "reason": "asked by the customer"})
}

#[tokio::test]
async fn an_admin_erases_and_releases_and_the_audit_tells_what_and_why_but_no_payload() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let server = Guarded::start(Arc::new(store), Config::default()).await;
    let (admin, all) = (server.key(&["admin"]).await, server.key(&["publish:*", "read:*", "metrics"]).await);
    let sent = json!([
        {"topic": "t", "event_id": "1", "source": "s", "payload": {"name": "jane-of-the-payload"}},
        {"topic": "t", "event_id": "2", "payload": {"name": "kept"}},
    ]);
    server.post(&all, "/publish", &sent).await;
    for path in ["/admin/erase", "/admin/release"] {
        server.post(&all, path, &named(&["1"])).await.problem(403, "forbidden");
    }

    let request = server.request(Method::POST, "/admin/erase").bearer_auth(&admin.key);
    let told = lines(request.json(&named(&["1", "no"]))).await;
    let (last, before) = told.split_last().unwrap();
    assert_eq!(last, &json!({"state": "done", "erased": [{"seqs": [1]}, {"seqs": []}]}));
    assert!(before.iter().all(|line| line["state"] == "overwriting" && line["total"].as_u64() > Some(0)));
    let page = server.get(&all, "/events?topic=t").await.json;
    let payloads: Vec<_> = page["events"].as_array().unwrap().iter().map(|of| &of["payload"]).collect();
    assert_eq!(payloads, [&json!({"erased": true}), &json!({"name": "kept"})]);
    assert_eq!(page["events"][0]["source"], "s", "its place and its other fields stay");
    let again = server.post(&all, "/publish", &event("t", 1)).await;
    assert_eq!((again.outcomes(), &again.json["results"][0]["seq"]), (vec!["duplicate"], &json!(1)));
    let found = server.post(&all, "/lookup", &json!({"ids": named(&["1"])["identities"]})).await;
    assert_eq!(found.json["results"][0]["seq"], 1);

    // The operator's socket does the same.
    let released = server.operate(Method::POST, "/admin/release", named(&["no", "1"])).await;
    assert_eq!((released.status.as_u16(), &released.json["count"]), (200, &json!(2)), "{:?}", released.json);
    let [no, one] = released.json["results"].as_array().unwrap().as_slice() else { panic!("two") };
    assert_eq!(no, &json!({"released": false}));
    assert_eq!((&one["released"], &one["seq"]), (&json!(true), &json!(1)));
    assert_eq!(one["processed_at"], page["events"][0]["processed_at"]);
    let twice = server.operate(Method::POST, "/admin/release", named(&["1"])).await;
    assert_eq!(twice.json["results"], json!([{"released": false}]));
    let found = server.post(&all, "/lookup", &json!({"ids": named(&["1"])["identities"]})).await;
    assert_eq!(found.json["results"][0]["seen"], false);
    let anew = server.post(&all, "/publish", &event("t", 1)).await;
    assert_eq!((anew.outcomes(), &anew.json["results"][0]["seq"]), (vec!["stored"], &json!(3)));
    let all_of_it = server.operator.request(Method::POST, "http://localhost/admin/erase");
    let told = lines(all_of_it.json(&named(&["1"]))).await;
    assert_eq!(told.last().unwrap()["erased"], json!([{"seqs": [1, 3]}]));

    let audit = server.get(&admin, "/admin/audit").await.json;
    let changes = audit["changes"].as_array().unwrap();
    let told: Vec<_> = changes.iter().map(|of| [&of["action"], &of["events"]["state"]]).collect();
    let done = |action: &str| [json!(action), json!("done")];
    assert_eq!(
        told.iter().take(4).map(|of| of.map(Clone::clone)).collect::<Vec<_>>(),
        [done("erase"), done("release"), done("release"), done("erase")]
    );
    assert_eq!(changes[4]["action"], "key-created");
    let first = &changes[3];
    assert_eq!(first["by"], format!("key:{}", admin.id));
    assert_eq!(changes[0]["by"], "admin-socket");
    assert_eq!((&first["events"]["count"], &first["events"]["found"]), (&json!(2), &json!(1)));
    assert_eq!(first["events"]["reason"], "asked by the customer");
    assert_eq!(first["events"]["identities"], named(&["1", "no"])["identities"]);
    assert!(!audit.to_string().contains("jane"), "{audit}");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_request_is_told_every_fault_and_changes_nothing() {
    let server = Guarded::volatile().await;
    let admin = server.key(&["admin"]).await;
    let many: Vec<_> = (0..1_001).map(|id| json!({"topic": "t", "event_id": id.to_string()})).collect();
    let one = json!([{"topic": "t", "event_id": "1"}]);
    for path in ["/admin/erase", "/admin/release"] {
        for (body, status, kind) in [
            (json!({"identities": many}), 413, "too-large"),
            (json!({"identities": []}), 422, "invalid-events"),
            (json!({"identities": one, "reason": " "}), 422, "invalid-events"),
            (json!({"identities": one, "reason": "x".repeat(201)}), 422, "invalid-events"),
            (json!({"identities": one, "reason": "a\nb"}), 422, "invalid-events"),
            (json!({"identities": one, "why": "x"}), 400, "malformed-body"),
            (json!({"ids": one}), 400, "malformed-body"),
            (json!({"identities": [["t", "1", null]]}), 400, "malformed-body"),
            (json!({"identities": [{"topic": "t"}]}), 400, "malformed-body"),
            (json!([]), 400, "malformed-body"),
        ] {
            server.post(&admin, path, &body).await.problem(status, kind);
        }
        let faulty = json!({"identities": [{"topic": "a b", "event_id": "1"}, {"topic": "t", "event_id": ""},
                                           {"topic": "t", "event_id": "1"}, {"topic": "t", "event_id": "1", "source": ""}]});
        let faults = server.post(&admin, path, &faulty).await.problem(422, "invalid-events");
        let at = |index, field: &str| (Some(index), field.to_owned());
        assert_eq!(faults, [at(0, "topic"), at(1, "event_id"), at(3, "source")]);
        let with_parameter =
            server.post(&admin, &format!("{path}?dry_run=1"), &json!({"identities": one})).await;
        with_parameter.problem(400, "bad-parameter");
        let text = server.request(Method::POST, path).bearer_auth(&admin.key).body("{}");
        Answer::of(text.header("content-type", "text/plain").send().await.unwrap())
            .await
            .problem(415, "unsupported-media-type");
    }
    let audit = server.get(&admin, "/admin/audit").await.json;
    assert_eq!(audit["count"], 1, "the key alone: {audit}");
    // What was never seen is no fault.
    let exact = json!({"identities": many[..1_000]});
    let told = lines(server.request(Method::POST, "/admin/erase").bearer_auth(&admin.key).json(&exact)).await;
    assert_eq!(told[0]["erased"].as_array().unwrap().len(), 1_000);
    server.stop().await;
}

/// An erasure is no change of keys, after which nobody would be anonymous.
#[tokio::test]
async fn an_erasure_on_a_server_without_keys_closes_no_door() {
    let server = Guarded::volatile().await;
    server.request(Method::POST, "/publish").json(&event("t", 1)).send().await.unwrap();
    server.operate(Method::POST, "/admin/erase", named(&["1"])).await;
    let anonymous = server.request(Method::POST, "/admin/erase").json(&named(&["1"])).send().await.unwrap();
    assert_eq!(anonymous.status(), 403);
    assert_eq!(
        server.anonymous("/events?topic=t").await.json["events"][0]["payload"],
        json!({"erased": true})
    );
    server.stop().await;
}

#[tokio::test]
async fn the_values_of_conflicts_go_with_the_payloads_that_they_were_of() {
    let server = Guarded::volatile().await;
    let publish = async |id: &str, payload: Value| {
        let event = json!({"topic": "t", "event_id": id, "payload": payload});
        Answer::of(server.request(Method::POST, "/publish").json(&event).send().await.unwrap()).await
    };
    for id in ["1", "2"] {
        publish(id, json!({"name": format!("stored-{id}")})).await;
        assert_eq!(publish(id, json!({"name": format!("sent-{id}")})).await.outcomes(), ["conflict"]);
    }
    let compared = async || {
        let told = server.anonymous("/duplicates").await.json;
        told["duplicates"].as_array().unwrap().iter().filter(|of| of["differences"].is_array()).count() == 2
    };
    until("the conflicts are compared", compared).await;
    let before = server.anonymous("/duplicates").await.json.to_string();
    assert!(before.contains("stored-1") && before.contains("sent-1"), "{before}");
    server.operate(Method::POST, "/admin/erase", named(&["1"])).await;
    let after = server.anonymous("/duplicates").await.json;
    let told = after.to_string();
    assert!(!told.contains("stored-1") && !told.contains("sent-1"), "{told}");
    assert!(told.contains("stored-2") && told.contains("sent-2"), "{told}");
    assert_eq!(after["count"], 2, "that it happened stays");
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_amend_says_so_and_nothing_is_audited() {
    let server = Guarded::start(Arc::new(Asked::default()), Config::default()).await;
    for path in ["/admin/erase", "/admin/release"] {
        let answer: Answer = server.operate(Method::POST, path, named(&["1"])).await;
        let kind = &answer.json["type"];
        assert_eq!((answer.status.as_u16(), kind), (501, &json!("urn:aggregator:problem:unsupported")));
    }
    let audit: Value = server.operate(Method::GET, "/admin/audit", Value::Null).await.json;
    assert_eq!(audit["count"], 0);
    server.stop().await;
}

/// Of a forgotten identity both say what they say of one that never was.
#[tokio::test]
async fn a_forgotten_identity_is_neither_erased_nor_released() {
    let retain = vec!["t=count:1,identities:1ms".parse().unwrap()];
    let config = Config { retain, retain_every: Duration::from_millis(50), ..Config::default() };
    let server = Guarded::start(Arc::new(MemoryStore::default()), config).await;
    let key = server.key(&["admin", "publish:*", "read:*"]).await;
    server.post(&key, "/publish", &json!([event("t", 1), event("t", 2), event("t", 3)])).await;
    let ids = json!({"ids": named(&["2"])["identities"]});
    let found = async || server.post(&key, "/lookup", &ids).await.json["results"][0]["seen"].clone();
    until("it is forgotten", async || found().await == false).await;
    let released = server.operate(Method::POST, "/admin/release", named(&["2", "3"])).await.json;
    assert_eq!(released["results"][0], json!({"released": false}));
    assert_eq!(released["results"][1]["released"], true, "{released}");
    let request = server.request(Method::POST, "/admin/erase").bearer_auth(&key.key);
    let told = lines(request.json(&named(&["2", "3"]))).await;
    assert_eq!(told.last().unwrap(), &json!({"state": "done", "erased": [{"seqs": []}, {"seqs": [3]}]}));
    server.stop().await;
}
