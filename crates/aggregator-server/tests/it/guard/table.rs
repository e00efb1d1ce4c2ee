//! Every scope with every route and every pattern: what is allowed is what the scope says, and no more.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::Guarded;
use crate::support::{Answer, event, until};

const TOPICS: [&str; 6] = ["a", "a.b", "a.b.c", "ab", "ab.c", "z"];
const PATTERNS: [&str; 9] = ["*", "a", "a.*", "a.b", "a.b.*", "ab", "ab.*", "z", "z.*"];

/// What the pattern means, written once more and another way.
fn means(pattern: &str, topic: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => topic.starts_with(beginning),
        None => topic == pattern,
    }
}

/// Whether every topic that `asked` may mean is meant by `granted`. No name has a `!`, so this one stands for all that
/// nobody has thought of.
fn covers(granted: &str, asked: &str) -> bool {
    match asked.strip_suffix('*') {
        Some(beginning) => granted.ends_with('*') && means(granted, &format!("{beginning}!")),
        None => means(granted, asked),
    }
}

/// What is to be erased or released.
fn named(topic: &str) -> Value {
    json!({"identities": [{"topic": topic, "event_id": "1"}]})
}

async fn fill(server: &Guarded) {
    let all: Vec<_> = TOPICS.iter().flat_map(|topic| (0..3).map(|id| event(topic, id))).collect();
    let writer = server.key(&["publish:*"]).await;
    assert_eq!(server.post(&writer, "/publish", &json!(all)).await.status, 202);
    // A repeat in each topic.
    let repeats: Vec<_> = TOPICS.iter().map(|topic| event(topic, 0)).collect();
    assert_eq!(server.post(&writer, "/publish", &json!(repeats)).await.status, 202);
    let reader = server.key(&["read:*"]).await;
    let noted = async || server.get(&reader, "/duplicates").await.json["count"] == repeats.len();
    until("the repeats are noted", noted).await;
}

#[tokio::test]
async fn whoever_may_read_some_topics_reads_these_and_no_others() {
    reads_what_is_granted(Guarded::volatile().await).await;
}

pub(super) async fn reads_what_is_granted(server: Guarded) {
    fill(&server).await;
    for granted in PATTERNS {
        let key = server.key(&[&format!("read:{granted}")]).await;
        for asked in PATTERNS {
            let allowed = covers(granted, asked);
            let what = format!("read:{granted}, asked for {asked}");
            for (path, accept) in [
                ("/events?limit=1000&topic=", "application/json"),
                ("/events?limit=1000&topic=", "application/x-ndjson"),
                ("/events?wait=0&order=asc&after=latest&topic=", "application/json"),
                ("/events?order=desc&topic=", "application/json"),
                ("/events/stream?topic=", "text/event-stream"),
                ("/topics?topic=", "application/json"),
                ("/insight?topic=", "application/json"),
                ("/duplicates?topic=", "application/json"),
            ] {
                let request = server.request(Method::GET, &format!("{path}{asked}")).header("accept", accept);
                let answer = request.bearer_auth(&key.key).send().await.unwrap();
                let wanted = if allowed { 200 } else { 403 };
                assert_eq!(answer.status(), wanted, "{what}: {path}");
                if !allowed {
                    let answer = Answer::of(answer).await;
                    answer.problem(403, "forbidden");
                    answer.tells(&[&format!("read:{asked}")]);
                }
            }
            // Beside a topic that may be read, too.
            let both = server.get(&key, &format!("/events?topic={asked}&topic={granted}")).await;
            assert_eq!(both.status == 200, allowed, "{what}");
        }
        let readable: Vec<_> = TOPICS.into_iter().filter(|topic| means(granted, topic)).collect();
        for path in ["/events", "/events?order=desc", "/events/stream"] {
            let answer = server.request(Method::GET, path).bearer_auth(&key.key).send().await.unwrap();
            assert_eq!(answer.status() == 200, granted == "*", "read:{granted}: {path}");
        }
        let topics = server.get(&key, "/topics").await;
        let listed: Vec<_> =
            topics.json["topics"].as_array().unwrap().iter().map(|topic| &topic["topic"]).collect();
        assert_eq!(listed, readable, "read:{granted}");
        for (path, list) in [("/insight?limit=1000", "streams"), ("/duplicates?limit=1000", "duplicates")] {
            let answer = server.get(&key, path).await;
            let told = answer.json[list].as_array().unwrap().iter().map(|of| of["topic"].as_str().unwrap());
            let told: BTreeSet<_> = told.collect();
            assert_eq!(told, readable.iter().copied().collect(), "read:{granted}: {path}");
        }
        for topic in TOPICS {
            let ids = json!({"ids": [{"topic": topic, "event_id": "1"}, {"topic": topic, "event_id": "no"}]});
            let answer = server.post(&key, "/lookup", &ids).await;
            if readable.contains(&topic) {
                assert_eq!(answer.json["results"][0]["seen"], true, "read:{granted}: {topic}");
            } else {
                let errors = answer.problem(403, "forbidden");
                assert_eq!(errors, [(Some(0), "topic".into()), (Some(1), "topic".into())]);
            }
        }
        assert_eq!(server.post(&key, "/publish", &event("z", "new")).await.status, 403);
        assert_eq!(server.get(&key, "/stats").await.status, 403);
        assert_eq!(server.get(&key, "/admin/keys").await.status, 403);
        for path in ["/admin/erase", "/admin/release"] {
            assert_eq!(server.post(&key, path, &named("a")).await.status, 403, "read:{granted}: {path}");
        }
        server.revoke(&key).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn whoever_may_publish_some_topics_publishes_these_and_reads_nothing() {
    publishes_what_is_granted(Guarded::volatile().await).await;
}

pub(super) async fn publishes_what_is_granted(server: Guarded) {
    let reader = server.key(&["read:*"]).await;
    for (round, granted) in PATTERNS.into_iter().enumerate() {
        let key = server.key(&[&format!("publish:{granted}")]).await;
        let id = |topic: &str| event(topic, format!("{round}-{topic}"));
        for topic in TOPICS {
            let allowed = means(granted, topic);
            let answer = server.post(&key, "/publish", &id(topic)).await;
            if !allowed {
                assert_eq!(answer.problem(403, "forbidden"), [(Some(0), "topic".into())]);
                answer.tells(&[&format!("publish:{topic}")]);
            }
            assert_eq!(answer.status == 202, allowed, "publish:{granted}: {topic}");
        }
        // One item outside: the whole batch is refused, or the item alone.
        let batch: Vec<_> = TOPICS.iter().map(|topic| event(topic, format!("batch-{round}"))).collect();
        let outside: Vec<u64> =
            (0..).zip(TOPICS).filter(|(_, topic)| !means(granted, topic)).map(|(index, _)| index).collect();
        let whole = server.post(&key, "/publish", &json!(batch)).await;
        if outside.is_empty() {
            assert_eq!(whole.status, 202);
        } else {
            let named: Vec<_> =
                whole.problem(403, "forbidden").into_iter().map(|(index, _)| index.unwrap()).collect();
            assert_eq!(named, outside, "publish:{granted}");
            let skipped = server.post(&key, "/publish?on_invalid=skip", &json!(batch)).await;
            assert_eq!(skipped.json["rejected"], outside.len(), "publish:{granted}: {}", skipped.json);
            assert_eq!(skipped.json["stored"], TOPICS.len() - outside.len());
        }
        for path in ["/events?topic=a", "/events/stream?topic=a", "/topics", "/stats", "/admin/keys"] {
            assert_eq!(server.get(&key, path).await.status, 403, "publish:{granted}: {path}");
        }
        let ids = json!({"ids": [{"topic": "a", "event_id": "1"}]});
        assert_eq!(server.post(&key, "/lookup", &ids).await.status, 403);
        for path in ["/admin/erase", "/admin/release"] {
            assert_eq!(server.post(&key, path, &named("a")).await.status, 403, "publish:{granted}: {path}");
        }
        server.revoke(&key).await;
    }
    let stored = server.get(&reader, "/events?limit=1000").await.json["count"].as_u64().unwrap();
    let granted: usize = PATTERNS.iter().map(|p| TOPICS.iter().filter(|topic| means(p, topic)).count()).sum();
    assert_eq!(stored, 2 * granted as u64, "what was refused is not stored");
    server.stop().await;
}

#[tokio::test]
async fn a_topic_that_may_not_be_published_comes_before_all_other_faults() {
    let server = Guarded::volatile().await;
    let key = server.key(&["publish:a.*", "metrics"]).await;
    let batch =
        json!([{"topic": "a.b"}, {"topic": "secret", "event_id": "1"}, {"topic": 5}, {"topic": "s p"}]);
    let answer = server.post(&key, "/publish", &batch).await;
    assert_eq!(answer.problem(403, "forbidden"), [(Some(1), "topic".into()), (Some(3), "topic".into())]);
    let long = json!([{"topic": "x".repeat(100_000), "event_id": "1"}]);
    let answer = server.post(&key, "/publish", &long).await;
    answer.problem(403, "forbidden");
    assert!(answer.json.to_string().len() < 2_000);
    let stats = server.get(&key, "/stats").await.json;
    assert_eq!((&stats["received"], &stats["rejected"]), (&json!(0), &json!(5)));
    server.stop().await;
}

#[tokio::test]
async fn the_counters_are_for_whoever_may_see_them_and_name_only_topics_that_may_be_read() {
    let server = Guarded::volatile().await;
    fill(&server).await;
    for (scopes, named) in [
        (&["metrics"][..], json!([])),
        (&["metrics", "read:a.*"], json!(["a.b", "a.b.c"])),
        (&["metrics", "read:*"], json!(TOPICS)),
    ] {
        let stats: Value = server.get(&server.key(scopes).await, "/stats").await.json;
        assert_eq!(stats["topics"], named, "{scopes:?}");
        assert_eq!(stats["unique_processed"], 3 * TOPICS.len());
    }
    server.stop().await;
}
