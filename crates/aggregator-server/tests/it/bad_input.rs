//! Whatever is wrong with a request: the right status, the field by name, and nothing stored.

use std::sync::Arc;

use aggregator_core::MemoryStore;
use aggregator_server::Config;
use aggregator_server::config::ByteSize;
use serde_json::json;

use crate::support::{Answer, Server, event, events};

async fn assert_nothing_stored(server: &Server) {
    let stats = server.stats().await;
    assert_eq!((&stats["received"], &stats["topics_total"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn bodies_that_are_no_json_as_expected_are_malformed() {
    let server = Server::volatile().await;
    let deep = "[".repeat(1 << 20);
    let not_utf8: &[u8] = b"{\"topic\":\"t\",\"event_id\":\"\xff\"}";
    let bodies: [&[u8]; 11] = [
        b"",
        b"hello",
        b"{\"topic\":",
        b"7",
        b"\"x\"",
        b"{\"events\":7}",
        b"[] []",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\xef\xbb\xbf[]",
        not_utf8,
        b"{\"topic\":\"t\",\"event_id\":\"1\"}\n{\"topic\":\"t\",\"event_id\":\"2\"}",
    ];
    for body in bodies {
        let answer = server.post("/publish", body.to_vec()).await;
        assert!(answer.problem(400, "malformed-body").is_empty(), "{body:?}");
    }
    server.post("/publish", deep).await.problem(400, "malformed-body");
    assert_nothing_stored(&server).await;
}

#[tokio::test]
async fn events_that_break_a_rule_are_named_by_field() {
    let server = Server::volatile().await;
    let long = |n: usize| "x".repeat(n);
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for (body, field) in [
        (r#"{"event_id":"1"}"#.to_owned(), "topic"),
        (r#"{"topic":"t"}"#.into(), "event_id"),
        (r#"{"topic":"","event_id":"1"}"#.into(), "topic"),
        (r#"{"topic":"t","event_id":""}"#.into(), "event_id"),
        (r#"{"topic":["t"],"event_id":"1"}"#.into(), "topic"),
        (r#"{"topic":"t","event_id":17}"#.into(), "event_id"),
        (r#"{"topic":"t","event_id":null}"#.into(), "event_id"),
        (format!(r#"{{"topic":"{}","event_id":"1"}}"#, long(300)), "topic"),
        (r#"{"topic":"a b","event_id":"1"}"#.into(), "topic"),
        (r#"{"topic":"a..b","event_id":"1"}"#.into(), "topic"),
        (r#"{"topic":"ä","event_id":"1"}"#.into(), "topic"),
        (format!(r#"{{"topic":"t","event_id":"{}"}}"#, long(257)), "event_id"),
        (r#"{"topic":"t","event_id":"a\u0000"}"#.into(), "event_id"),
        (r#"{"topic":"t","event_id":"a\u001fb"}"#.into(), "event_id"),
        (r#"{"topic":"t","event_id":"\ud800"}"#.into(), "event_id"),
        (r#"{"topic":"t","event_id":"1","timestamp":"yesterday"}"#.into(), "timestamp"),
        (r#"{"topic":"t","event_id":"1","timestamp":"2026-01-31T12:00:00"}"#.into(), "timestamp"),
        (r#"{"topic":"t","event_id":"1","timestamp":1767225600}"#.into(), "timestamp"),
        (r#"{"topic":"t","event_id":"1","source":""}"#.into(), "source"),
        (r#"{"topic":"t","event_id":"1","source":{}}"#.into(), "source"),
        (r#"{"topic":"t","event_id":"1","sequence":-1}"#.into(), "sequence"),
        (r#"{"topic":"t","event_id":"1","sequence":18446744073709551615}"#.into(), "sequence"),
        (r#"{"topic":"t","event_id":"1","sequence":99999999999999999999}"#.into(), "sequence"),
        (r#"{"topic":"t","event_id":"1","colour":"red"}"#.into(), "colour"),
        (r#"{"topic":"t","event_id":"1","Topic":"t"}"#.into(), "Topic"),
        (r#"{"topic":"t","event_id":"1","topic":"u"}"#.into(), "topic"),
        (format!(r#"{{"topic":"t","event_id":"1","payload":{}}}"#, nested(125)), "payload"),
        (format!(r#"{{"topic":"t","event_id":"1","payload":{}}}"#, nested(200_000)), "payload"),
    ] {
        let errors = server.post("/publish", body.clone()).await.problem(422, "invalid-events");
        assert_eq!(errors, [(Some(0), field.to_owned())], "{body:.80}");
        let errors = server.post("/publish", format!("[{},{body}]", event("t", 1))).await;
        assert_eq!(errors.problem(422, "invalid-events"), [(Some(1), field.to_owned())], "{body:.80}");
    }
    for element in ["7", "null", "true", "\"x\"", "[]", "-1.5"] {
        let errors = server.post("/publish", format!("[{element}]")).await.problem(422, "invalid-events");
        assert_eq!(errors, [(Some(0), "event".to_owned())]);
    }
    assert_nothing_stored(&server).await;
    let deepest = format!(r#"{{"topic":"t","event_id":"1","payload":{}}}"#, nested(124));
    assert_eq!(server.post("/publish", deepest).await.status, 202);
    let page: serde_json::Result<serde_json::Value> = serde_json::from_str(
        &server.client.get(format!("{}/events", server.url)).send().await.unwrap().text().await.unwrap(),
    );
    assert_eq!(page.unwrap()["count"], 1, "what is taken can be read by a parser that takes 127 levels");
}

#[tokio::test]
async fn query_parameters_are_checked_by_name() {
    let server = Server::volatile().await;
    server.publish(&event("t", 1)).await;
    for (path, parameter) in [
        ("/events?topic=a..b", "topic"),
        ("/events?topic=", "topic"),
        ("/events?topic=a*", "topic"),
        ("/events?limit=0", "limit"),
        ("/events?limit=1001", "limit"),
        ("/events?limit=-1", "limit"),
        ("/events?limit=ten", "limit"),
        ("/events?limit=1&limit=2", "limit"),
        ("/events?order=up", "order"),
        ("/events?after=nonsense", "after"),
        ("/events?after=", "after"),
        ("/events?event_id=1", "event_id"),
        ("/events?topic=t.*&event_id=1", "event_id"),
        ("/events?topic=t&event_id=%00", "event_id"),
        ("/events?since=yesterday", "since"),
        ("/events?until=7", "until"),
        ("/events?source=", "source"),
        ("/events?colour=red", "colour"),
        ("/events?topic=t&event_id=%FF", "event_id"),
        ("/events?0&1&2&3&4&5&6&7&8&9&10&11&12&13&14&15&16", "16"),
        ("/topics?limit=1001", "limit"),
        ("/topics?after=a..b", "after"),
        ("/topics?x", "x"),
        ("/stats?x=1", "x"),
        ("/readyz?x=1", "x"),
        ("/livez?x=1", "x"),
        ("/?x=1", "x"),
    ] {
        let errors = server.get(path).await.problem(400, "bad-parameter");
        assert_eq!(errors, [(None, parameter.to_owned())], "{path}");
    }
    for (path, parameter) in [
        ("/publish?results=some", "results"),
        ("/publish?on_invalid=ignore", "on_invalid"),
        ("/publish?ack=never", "ack"),
        ("/publish?wait=1", "wait"),
        ("/lookup?x=1", "x"),
    ] {
        let errors = server.post(path, event("t", 2).to_string()).await.problem(400, "bad-parameter");
        assert_eq!(errors, [(None, parameter.to_owned())], "{path}");
    }
    assert_eq!(server.stats().await["received"], 1);
}

#[tokio::test]
async fn an_answer_is_not_much_larger_than_what_it_answers() {
    let server = Server::volatile().await;
    let many = |part: &str, count: usize| vec![part; count].join(",");
    for body in [
        format!("{{{}}}", many(r#""":0"#, 200_000)),
        format!("{{{}}}", many(r#""topic":0"#, 100_000)),
        format!("\"{}\"", "\u{85}".repeat(500_000)),
        format!("{{\"events\":\"{}\"}}", "y".repeat(1_000_000)),
        format!("{{\"{}\":0}}", "k".repeat(1_000_000)),
    ] {
        let answer = server.post("/publish", body).await;
        assert!(answer.status.is_client_error());
        assert!(answer.json.to_string().len() < 4_000, "{} bytes", answer.json.to_string().len());
    }
    let body = format!("{{\"ids\":[],\"{}\":0}}", "k".repeat(1_000_000));
    let answer = server.post("/lookup", body).await;
    assert!(answer.problem(400, "malformed-body").is_empty() && answer.json.to_string().len() < 1_000);
}

#[tokio::test]
async fn the_ends_of_time_are_no_trouble() {
    let server = Server::volatile().await;
    for at in ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00%2B01:00"] {
        server.get(&format!("/events?since={at}")).await.problem(400, "bad-parameter");
    }
    let body = r#"{"topic":"t","event_id":"1","timestamp":"9999-12-31T23:59:59-23:59"}"#;
    assert_eq!(server.post("/publish", body).await.status, 202);
}

#[tokio::test]
async fn a_plus_that_became_a_space_is_explained() {
    let server = Server::volatile().await;
    for parameter in ["since", "until"] {
        let answer = server.get(&format!("/events?{parameter}=2026-01-01T00:00:00+01:00")).await;
        assert_eq!(answer.problem(400, "bad-parameter"), [(None, parameter.to_owned())]);
        answer.tells(&["%2B", "2026-01-01T00:00:00%2B01:00"]);
        let answer = server.get(&format!("/events?{parameter}=2026-01-01T00:00:00%2B01:00")).await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn only_what_rfc_3339_puts_between_date_and_time_is_taken() {
    let server = Server::volatile().await;
    for (between, status) in
        [("T", 200), ("t", 200), ("%20", 200), ("_", 400), ("-", 400), ("x", 400), ("", 400)]
    {
        let answer = server.get(&format!("/events?since=2026-01-01{between}00:00:00Z")).await;
        assert_eq!(answer.status, status, "{between:?}");
    }
    let body = r#"{"topic":"t","event_id":"1","timestamp":"2026-01-01_00:00:00Z"}"#;
    let errors = server.post("/publish", body).await.problem(422, "invalid-events");
    assert_eq!(errors, [(Some(0), "timestamp".to_owned())]);
}

#[tokio::test]
async fn half_a_surrogate_pair_is_refused_by_name() {
    let server = Server::volatile().await;
    for payload in [
        r#""\ud800""#,
        r#""\uDFFF""#,
        r#"{"a":["\\\ud83d"]}"#,
        r#"{"\ud83d":1}"#,
        r#""\ud83d\ud83d\ude00""#,
        r#""\ud83d\n\ude00""#,
        r#""\ud83d \ude00""#,
        r#""\ude00\ud83d""#,
    ] {
        let event = |id: u32| format!(r#"{{"topic":"t","event_id":"{id}","payload":{payload}}}"#);
        for (body, index) in [(event(1), 0), (format!(r#"[{{"topic":"t","event_id":"0"}},{}]"#, event(1)), 1)]
        {
            let answer = server.post("/publish", body).await;
            assert_eq!(
                answer.problem(422, "invalid-events"),
                [(Some(index), "payload".to_owned())],
                "{payload}"
            );
            answer.tells(&["half a surrogate pair", "\\u"]);
        }
    }
    for field in ["topic", "event_id", "source", "timestamp"] {
        let mut body =
            serde_json::Map::from_iter([("topic".into(), json!("t")), ("event_id".into(), json!("1"))]);
        body.insert(field.into(), json!("HALF"));
        let body = json!(body).to_string().replace("HALF", "\\ud83d");
        let answer = server.post("/publish", body).await;
        assert_eq!(answer.problem(422, "invalid-events"), [(Some(0), field.to_owned())]);
        answer.tells(&["half a surrogate pair"]);
    }
    assert_nothing_stored(&server).await;
    for whole in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#"{"\u0041\uD83D\uDE00\uffff":"\\\\ud800"}"#] {
        let body = format!(r#"{{"topic":"t","event_id":{},"payload":{whole}}}"#, json!(whole));
        assert_eq!(server.post("/publish", body).await.status, 202, "{whole}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_in_whole_sentences() {
    let server = Server::volatile().await;
    for (body, detail) in [
        (r#"{"topic":"t"}"#, "event 0: event_id is missing"),
        (r#"[{"topic":"t","event_id":"1"},{"topic":"","event_id":"2"}]"#, "event 1: topic must not be empty"),
        ("[7]", "event 0 must be an event, not a number"),
        ("[{},7]", "3 faults, which `errors` lists; the first: event 0: topic is missing"),
        ("", "the body is empty: send an event, an array of events, or {\"events\":[…]}"),
        (
            "{\"topic\":\"t\",\"event_id\":\"1\"}\n{\"topic\":\"t\",\"event_id\":\"2\"}",
            "the body has more behind its first JSON value, at line 2 column 1: send several events as an array",
        ),
    ] {
        let answer = server.post("/publish", body).await;
        assert_eq!(answer.json["detail"], detail, "{body}");
    }
    let detail = async |body: &str| server.post("/publish", body.to_owned()).await.json["detail"].to_string();
    assert!(detail("hello").await.contains("the body is not JSON: expected value at line 1 column 1"));
    assert!(detail("7").await.contains("the body is JSON, but not as expected: invalid type: integer `7`"));
    let lookup = async |body: &str| server.post("/lookup", body.to_owned()).await.json["detail"].to_string();
    for body in ["", "[]", "7", r#"{"ids":7}"#, r#"{"ids":[7]}"#, r#"{"ids":[["t","1",null]]}"#, r#"[[]]"#] {
        let detail = lookup(body).await;
        assert!(!detail.contains("struct") && !detail.contains("sequence"), "{body}: {detail}");
        assert!(detail.contains("the body is"), "{body}: {detail}");
    }
    let ids = r#"{"ids":[{"topic":"t","event_id":""}]}"#;
    assert_eq!(server.post("/lookup", ids).await.json["detail"], "id 0: event_id must not be empty");
}

#[tokio::test]
async fn a_pattern_that_is_none_is_told_what_was_meant() {
    let server = Server::volatile().await;
    for (sent, meant) in [
        ("orders*", "orders.*"),
        ("orders.**", "orders.*"),
        ("orders.eu*", "orders.eu.*"),
        ("orders.%3E", "orders.*"),
        ("orders.%23", "orders.*"),
        ("orders.", "orders.*"),
    ] {
        let answer = server.get(&format!("/events?topic={sent}")).await;
        assert_eq!(answer.problem(400, "bad-parameter"), [(None, "topic".to_owned())], "{sent}");
        answer.tells(&[&format!("did you mean {meant}")]);
    }
    for sent in ["*.eu", "orders.*.eu", "*rders", "**", ".*"] {
        let answer = server.get(&format!("/events?topic={sent}")).await;
        assert_eq!(answer.problem(400, "bad-parameter"), [(None, "topic".to_owned())], "{sent}");
        answer.tells(&["orders.*"]);
    }
}

#[tokio::test]
async fn cursors_are_good_for_their_query_and_store_only() {
    let server = Server::volatile().await;
    server.publish(&events("t", 0..3)).await;
    let page = server.get("/events?topic=t&limit=1").await.json;
    let cursor = page["next"].as_str().unwrap();
    for query in ["topic=u", "topic=t.*", "topic=t&order=desc", "topic=t&source=x"] {
        let answer = server.get(&format!("/events?{query}&after={cursor}")).await;
        assert_eq!(answer.problem(400, "cursor-of-another-query"), [(None, "after".to_owned())], "{query}");
        answer.tells(&["order as they were", "or begin without `after`"]);
    }
    let other = Server::volatile().await;
    let answer = other.get(&format!("/events?topic=t&after={cursor}")).await;
    assert_eq!(answer.problem(400, "cursor-of-another-store"), [(None, "after".to_owned())]);
    answer.tells(&["begin without `after`"]);
}

#[tokio::test]
async fn lookups_are_checked_item_by_item() {
    let server = Server::volatile().await;
    for body in ["", "[]", "{}", r#"{"ids":7}"#, r#"{"ids":[],"x":1}"#, r#"{"ids":[{"topic":"t"}]}"#] {
        server.post("/lookup", body).await.problem(400, "malformed-body");
    }
    let body = json!({"ids": [{"topic": "t", "event_id": "1"}, {"topic": "", "event_id": "1"}, {"topic": "t", "event_id": ""}]});
    let errors = server.post("/lookup", body.to_string()).await.problem(422, "invalid-events");
    assert_eq!(errors, [(Some(1), "topic".to_owned()), (Some(2), "event_id".to_owned())]);
}

#[tokio::test]
async fn other_media_types_and_encodings_are_refused() {
    let server = Server::volatile().await;
    let send = async |name: &str, value: &str| {
        let request = server.client.post(format!("{}/publish", server.url)).header(name, value);
        Answer::of(request.body(event("t", 1).to_string()).send().await.unwrap()).await
    };
    for media in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/xml", ""]
    {
        send("content-type", media).await.problem(415, "unsupported-media-type");
    }
    for encoding in ["br", "deflate", "gzip, zstd", "gzip, gzip", "aws-chunked", ""] {
        send("content-encoding", encoding).await.problem(415, "unsupported-media-type");
    }
    send("content-encoding", "gzip").await.problem(400, "malformed-body");
    assert_nothing_stored(&server).await;
    assert_eq!(send("content-type", "Application/JSON; charset=utf-8").await.status, 202);
    assert_eq!(send("content-encoding", "identity").await.status, 202);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let server = Server::volatile().await;
    for path in ["/nothing", "/events/", "/publish/1", "//", "/%00"] {
        server.get(path).await.problem(404, "not-found");
    }
    let answer = server.get("/publish").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "POST");
    for path in ["/events", "/stats", "/", "/readyz", "/topics"] {
        let answer = server.post(path, "{}").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.headers["allow"], "GET,HEAD", "{path}");
    }
}

fn small() -> Config {
    let max_batch_events = std::num::NonZeroUsize::new(5).unwrap();
    Config { max_batch_events, max_body_bytes: ByteSize(2_000), ..Config::default() }
}

#[tokio::test]
async fn too_much_is_refused_whole() {
    let server = Server::start(Arc::new(MemoryStore::default()), small()).await;
    let answer = server.publish(&events("t", 0..6)).await;
    answer.problem(413, "too-large");
    assert!(answer.json["detail"].as_str().unwrap().contains("5 events (--max-batch-events)"));
    server.post("/publish?on_invalid=skip", events("t", 0..6).to_string()).await.problem(413, "too-large");
    let ids: Vec<_> = (0..6).map(|n| json!({"topic": "t", "event_id": n.to_string()})).collect();
    server.post("/lookup", json!({"ids": ids}).to_string()).await.problem(413, "too-large");

    let mut large = event("t", 1);
    large["payload"] = json!("x".repeat(2_000));
    let answer = server.publish(&large).await;
    answer.problem(413, "too-large");
    assert!(answer.json["detail"].as_str().unwrap().contains("2000 (--max-body-bytes)"));
    assert_nothing_stored(&server).await;
    assert_eq!(server.publish(&events("t", 0..5)).await.status, 202);
}
