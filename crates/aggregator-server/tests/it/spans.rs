//! Spans, as a collector gets them.

mod collector;
mod events;
mod trouble;

use std::sync::Arc;

use aggregator_core::store::faulty::{Failure, FaultyStore, Naming};
use aggregator_core::{DedupStore, MemoryStore, Partitions};
use aggregator_server::Config;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::collector::{Collector, Manner, attribute, attributes};
use crate::support::{Answer, Process, Server, event, events, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Of a client whose span has these flags.
fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn links(span: &Span) -> Vec<(String, String)> {
    span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect()
}

/// What leads to this span.
fn link_to(span: &Span) -> (String, String) {
    (hex(&span.trace_id), hex(&span.span_id))
}

/// Publishes with these headers.
async fn publish(server: &Server, headers: &[(&str, &str)], events: &Value) -> Answer {
    let request = server.client.post(format!("{}/publish", server.url)).json(events);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::of(request.send().await.unwrap()).await
}

async fn start(collector: &Collector) -> Server {
    Server::start(Arc::new(MemoryStore::default()), collector.config()).await
}

#[tokio::test]
async fn a_request_continues_the_trace_of_its_client_and_is_linked_with_its_group() {
    let collector = Collector::start(Manner::Takes).await;
    let server = start(&collector).await;
    let sent = traceparent("01");
    let headers = [("traceparent", sent.as_str()), ("x-request-id", "mine-1")];
    let events = json!([{"topic": "secret.topic", "event_id": "secret-id-1", "source": "secret-source", "payload": "secret-payload"},
                        {"topic": "secret.topic", "event_id": "secret-id-2"}]);
    assert_eq!(publish(&server, &headers, &events).await.status, 202);

    let request = collector.named("POST /publish", 1).await.remove(0);
    assert_eq!((hex(&request.trace_id).as_str(), hex(&request.parent_span_id).as_str()), (TRACE, PARENT));
    assert_ne!(hex(&request.span_id), PARENT);
    assert_eq!(request.kind(), SpanKind::Server);
    // Sampled, and its parent is another process's.
    assert_eq!(request.flags, 0x301);
    let told = attributes(&request.attributes);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/publish"),
        ("http.response.status_code", "202"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("aggregator.request_id", "mine-1"),
    ] {
        assert!(told.contains(&(key, value.to_owned())), "{key}: {told:?}");
    }
    assert!(request.status.is_none());

    let group = collector.named("commit group", 1).await.remove(0);
    assert!(hex(&group.trace_id) != TRACE && group.parent_span_id.is_empty(), "it serves many traces");
    assert_eq!((links(&group), links(&request)), (vec![link_to(&request)], vec![link_to(&group)]));
    assert_eq!((group.kind(), group.flags), (SpanKind::Internal, 0x101));
    let counts =
        ["requests", "events", "commits"].map(|name| attribute(&group, &format!("aggregator.{name}")));
    assert_eq!(counts, ["1", "2", "1"]);

    let commit = collector.named("commit", 1).await.remove(0);
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&group.trace_id, &group.span_id));
    assert_eq!(
        (attribute(&commit, "aggregator.events"), attribute(&commit, "aggregator.store")),
        ("2".into(), "memory".into())
    );
    assert!(request.start_time_unix_nano <= group.start_time_unix_nano);
    let times = [&group, &commit].map(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
    let [(begin, end), (inner_begin, inner_end)] = times;
    assert!(begin <= inner_begin && inner_begin <= inner_end && inner_end <= end, "{times:?}");

    let resource = collector.exports().remove(0).resource_spans.remove(0).resource.unwrap();
    let resource = attributes(&resource.attributes);
    assert!(resource.contains(&("service.name", "aggregator-server".to_owned())), "{resource:?}");
    assert!(
        ["service.version", "service.instance.id"]
            .iter()
            .all(|key| resource.iter().any(|(name, _)| name == key))
    );
    assert!(collector.knows("mine-1") && !collector.knows("secret"), "a trace tells nothing of an event");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_client_says_whether_its_request_is_traced_and_chance_where_it_says_nothing() {
    let collector = Collector::start(Manner::Takes).await;
    let config = Config { otlp_sample_ratio: "0".parse().unwrap(), ..collector.config() };
    let seldom = Server::start(Arc::new(MemoryStore::default()), config).await;
    let always = start(&collector).await;
    let (sampled, unsampled) = (traceparent("01"), traceparent("00"));
    publish(&seldom, &[], &event("t", 1)).await;
    publish(&always, &[("traceparent", &unsampled)], &event("t", 2)).await;
    // What breaks a rule counts for nothing.
    let (malformed, upper) = (traceparent("1"), sampled.to_uppercase());
    for wrong in [vec![&malformed], vec![&upper], vec![&sampled, &sampled]] {
        let mut headers: Vec<_> = wrong.iter().map(|value| ("traceparent", value.as_str())).collect();
        publish(&seldom, &headers, &event("t", 3)).await;
        headers.push(("x-request-id", "anew"));
        publish(&always, &headers, &event("t", 3)).await;
    }
    publish(&seldom, &[("traceparent", &sampled), ("x-request-id", "last")], &event("t", 4)).await;
    seldom.stop().await.unwrap();
    always.stop().await.unwrap();

    let spans: Vec<_> =
        collector.spans().into_iter().filter(|span| span.kind() == SpanKind::Server).collect();
    let ids: Vec<_> = spans.iter().map(|span| attribute(span, "aggregator.request_id")).collect();
    assert_eq!(ids.iter().filter(|id| *id == "anew").count(), 3, "{ids:?}");
    assert!(ids.len() == 4 && ids.contains(&"last".to_owned()), "{ids:?}");
    for (span, id) in spans.iter().zip(&ids) {
        let is_anew = hex(&span.trace_id) != TRACE && span.parent_span_id.is_empty();
        assert_eq!(is_anew, id == "anew", "{span:?}");
    }
}

#[tokio::test]
async fn a_span_has_the_pattern_of_the_path_and_never_what_a_client_makes_up() {
    let collector = Collector::start(Manner::Takes).await;
    let server = start(&collector).await;
    for (method, path) in [
        ("GET", "/made-up"),
        ("DELETE", "/admin/keys/made-up"),
        ("MADE-UP", "/publish"),
        ("GET", "/topics?topic=made-up"),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        server.client.request(method, format!("{}{path}", server.url)).send().await.unwrap();
    }
    server.stop().await.unwrap();
    let mut names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    names.sort();
    assert_eq!(names, ["DELETE /admin/keys/{id}", "GET", "GET /topics", "HTTP /publish"]);
    let lost = collector.named("GET", 1).await.remove(0);
    assert!(!attributes(&lost.attributes).iter().any(|(key, _)| *key == "http.route"));
    let other = collector.named("HTTP /publish", 1).await.remove(0);
    assert_eq!(attribute(&other, "http.request.method"), "_OTHER");
    assert!(!collector.knows("made-up") && !collector.knows("MADE-UP"));
}

#[tokio::test]
async fn a_group_is_linked_with_a_request_that_was_answered_before_it() {
    let collector = Collector::start(Manner::Takes).await;
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    store.hold();
    let server = Server::start(Arc::clone(&store) as Arc<dyn DedupStore>, collector.config()).await;
    assert_eq!(server.post("/publish?ack=queued", event("t", 1).to_string()).await.status, 202);
    let request = collector.named("POST /publish", 1).await.remove(0);
    store.go_on();
    let group = collector.named("commit group", 1).await.remove(0);
    assert_eq!(links(&group), [link_to(&request)]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_commit_that_fails_says_how_and_tells_nothing_of_the_events() {
    let collector = Collector::start(Manner::Takes).await;
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    store.refuse(["secret".to_owned()], Naming::First);
    let server = Server::start(Arc::clone(&store) as Arc<dyn DedupStore>, collector.config()).await;
    assert_eq!(server.publish(&event("secret", "secret")).await.status, 422);
    store.fail_nth(1, Failure::Unavailable);
    assert_eq!(server.publish(&event("secret", "other")).await.status, 503);
    let commits = collector.named("commit", 2).await;
    let kinds: Vec<_> = commits.iter().map(|commit| attribute(commit, "error.type")).collect();
    assert_eq!(kinds, ["invalid", "unavailable"]);
    assert!(commits.iter().all(|commit| commit.status.as_ref().unwrap().code() == StatusCode::Error));
    let requests = collector.named("POST /publish", 2).await;
    assert!(requests[0].status.is_none(), "422 is the client's mistake");
    assert_eq!(requests[1].status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(attribute(&requests[1], "error.type"), "503");
    assert!(!collector.knows("secret"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_group_is_linked_with_all_its_sampled_requests_once() {
    let collector = Collector::start(Manner::Takes).await;
    // A request has a job for each of its partitions.
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new(Partitions::new(4).unwrap()))));
    store.hold();
    let config = Config { otlp_sample_ratio: "0".parse().unwrap(), ..collector.config() };
    let server = Server::start(Arc::clone(&store) as Arc<dyn DedupStore>, config).await;
    let first = server.publish_later("/publish", &event("t", 0));
    until("the first group is held", async || store.appends() == 1).await;
    let topics: Vec<_> = (0..20).map(|topic| event(&format!("t{topic}"), 1)).collect();
    let (sampled, unsampled) = (traceparent("01"), traceparent("00"));
    let together = async {
        let queued = async {
            server.until("two requests wait", |stats| stats["queue"]["events"] == 42).await;
            store.go_on();
        };
        let (first, second) = (json!(topics), json!([event("a", 1)]));
        let headers = ([("traceparent", sampled.as_str())], [("traceparent", unsampled.as_str())]);
        let second_sampled = json!(
            topics.iter().map(|event| json!({"topic": event["topic"], "event_id": "2"})).collect::<Vec<_>>()
        );
        tokio::join!(
            publish(&server, &headers.0, &first),
            publish(&server, &headers.0, &second_sampled),
            publish(&server, &headers.1, &second),
            queued
        );
    };
    together.await;
    assert_eq!(first.await.unwrap(), 202);
    server.stop().await.unwrap();
    let requests = collector.named("POST /publish", 2).await;
    let groups: Vec<_> = collector.spans().into_iter().filter(|span| span.name == "commit group").collect();
    assert!(groups.iter().any(|group| links(group).len() == 2), "{groups:?}");
    for request in &requests {
        let served: Vec<_> =
            groups.iter().filter(|group| links(group).contains(&link_to(request))).map(link_to).collect();
        assert!(!served.is_empty());
        let mut linked = links(request);
        linked.sort();
        let mut served = served;
        served.sort();
        assert_eq!(linked, served, "each one once, and both ways");
    }
}

#[tokio::test]
async fn what_waits_is_exported_before_the_program_ends() {
    let collector = Collector::start(Manner::Takes).await;
    let directory = TempDir::new().unwrap();
    let url = collector.url();
    let process = Process::start(&directory.path().join("a.db"), &["--otlp-endpoint", &url]);
    process.publish(&events("t", 0..3)).await;
    process.signal("-TERM");
    let status = tokio::task::spawn_blocking(|| process.wait()).await.unwrap();
    assert!(status.success());
    let mut names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    names.sort();
    assert_eq!(names, ["POST /publish", "commit", "commit group"]);
}

#[test]
fn an_address_that_is_no_url_of_a_collector_is_a_wrong_option() {
    let (code, told) = crate::support::refused(&["--otlp-endpoint", "localhost:4318"]);
    assert!(
        code == 2 && told.contains("--otlp-endpoint") && told.contains("http://localhost:4318"),
        "{told}"
    );
}
