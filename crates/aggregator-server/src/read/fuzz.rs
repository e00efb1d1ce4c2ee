//! Checks of the parsers of read requests: see [`crate::fuzz`].

use aggregator_core::{Order, Query, Topics};
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::tail::stream;
use super::{events, lookup};
use crate::auth::Principal;
use crate::fuzz::check_problem;

/// The query of `GET /events`.
pub fn events_query(data: &[u8]) {
    let Some(uri) = uri(data) else { return };
    let request = |uri: &Uri| events::request(uri, &Principal::Operator, Query::MAX_LIMIT);
    let asked = match request(&uri) {
        Ok(asked) => asked,
        Err(problem) => return check_problem(&problem, data.len()),
    };
    let query = &asked.query;
    assert!((1..=Query::MAX_LIMIT).contains(&query.limit));
    assert!(asked.wait.as_secs() <= events::MAX_WAIT as u64);
    assert!(query.order == Order::Ascending || asked.wait.is_zero() && !asked.latest);
    assert!(!asked.latest || query.after.is_none());
    check_topics(query);
    let mut pairs = pairs(query);
    pairs.push(("order", if query.order == Order::Ascending { "asc" } else { "desc" }.to_owned()));
    pairs.push(("limit", query.limit.to_string()));
    pairs.push(("wait", asked.wait.as_secs().to_string()));
    if asked.latest {
        pairs.push(("after", "latest".to_owned()));
    }
    let again = request(&written(&pairs)).unwrap_or_else(|problem| panic!("{pairs:?}: {problem:?}"));
    assert_eq!(again.query, asked.query, "it is not read as it is written: {pairs:?}");
    assert_eq!((again.latest, again.wait), (asked.latest, asked.wait));
    // Who may read nothing is refused, whatever is asked for.
    assert!(events::request(&uri, &Principal::Nobody, Query::MAX_LIMIT).is_err());
}

/// The query of `GET /events/stream`; behind a line feed, the header `Last-Event-ID`.
pub fn stream_query(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let Some(uri) = parts.next().and_then(uri) else { return };
    let mut headers = HeaderMap::new();
    if let Some(Ok(id)) = parts.next().map(HeaderValue::from_bytes) {
        headers.insert("last-event-id", id);
    }
    let (query, latest) = match stream::query(&uri, &headers, &Principal::Operator) {
        Ok(asked) => asked,
        Err(problem) => return check_problem(&problem, data.len()),
    };
    assert!(query.until.is_none() && query.order == Order::Ascending);
    assert!(!latest || query.after.is_none());
    check_topics(&query);
    let id = headers.get("last-event-id").filter(|id| !id.is_empty());
    assert!(id.is_none() || query.after.is_some() && !latest, "a client does not go on where it was");
    let mut pairs = pairs(&query);
    if latest {
        pairs.push(("after", "latest".to_owned()));
    }
    let again = stream::query(&written(&pairs), &HeaderMap::new(), &Principal::Operator);
    assert_eq!(again.expect("it was good"), (query, latest), "it is not read as it is written: {pairs:?}");
}

fn uri(query: &[u8]) -> Option<Uri> {
    format!("/events?{}", str::from_utf8(query).ok()?).parse().ok()
}

fn check_topics(query: &Query) {
    assert!((1..=Topics::MAX).contains(&query.topics.selectors().len()));
    assert_eq!(query.topics.to_string().parse().as_ref(), Ok(&query.topics));
}

fn pairs(query: &Query) -> Vec<(&'static str, String)> {
    let topics = query.topics.selectors().iter().map(|selector| ("topic", selector.to_string()));
    let others = [
        ("event_id", query.event_id.as_ref().map(ToString::to_string)),
        ("source", query.source.as_ref().map(ToString::to_string)),
        ("since", query.since.map(|at| at.to_string())),
        ("until", query.until.map(|at| at.to_string())),
        ("after", query.after.as_ref().map(ToString::to_string)),
    ];
    topics.chain(others.into_iter().filter_map(|(name, value)| Some((name, value?)))).collect()
}

fn written(pairs: &[(&str, String)]) -> Uri {
    let encoded =
        |(name, value): &(&str, String)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    let query: Vec<_> = pairs.iter().map(encoded).collect();
    uri(query.join("&").as_bytes()).expect("percent encoding makes it a query")
}

/// The body of `POST /lookup`.
pub fn lookup_body(data: &[u8]) {
    const LIMIT: usize = 20;
    let ids = match lookup::requested_ids(data, LIMIT) {
        Ok(ids) => ids,
        Err(problem) => return check_problem(&problem, data.len()),
    };
    assert!(ids.len() <= LIMIT);
    let written: Vec<_> = ids
        .iter()
        .map(|id| {
            let source = id.source.as_ref().map(ToString::to_string);
            json!({"topic": id.topic.as_str(), "event_id": id.event_id.as_str(), "source": source})
        })
        .collect();
    let again = lookup::requested_ids(json!({ "ids": written }).to_string().as_bytes(), LIMIT);
    assert_eq!(again.expect("they were good"), ids, "they are not read as they are written");
    assert!(ids.is_empty() || lookup::requested_ids(data, ids.len() - 1).is_err(), "one id too many");
}
