//! Checks of the parsers of publish requests: see [`crate::fuzz`].

use std::collections::BTreeSet;

use aggregator_core::event::{MAX_EVENT_ID_BYTES, MAX_SOURCE_BYTES};
use aggregator_core::{Batch, Event, EventRef, LoneSurrogates, Timestamp, Topic};
use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Uri};

use super::decode::{DecodeLimits, Decoded, decode};
use super::options::PublishOptions;
use crate::auth::Principal;
use crate::fuzz::check_problem;
use crate::http::problem::Problem;

const LIMITS: DecodeLimits =
    DecodeLimits { max_events: 20, max_payload_depth: 8, lone_surrogates: LoneSurrogates::Refuse };

/// The body of a publish request.
pub fn publish_body(data: &[u8]) {
    let decoded = match read(data, LIMITS, &Principal::Operator) {
        Ok(decoded) => decoded,
        Err(problem) => return check_problem(&problem, data.len()),
    };
    check_fates(&decoded);
    assert!(decoded.forbidden.is_empty(), "the operator may publish everything");
    decoded.batch.iter().for_each(check_event);
    check_other_forms(&decoded.batch);
    if decoded.received > 1 {
        let fewer = DecodeLimits { max_events: decoded.received - 1, ..LIMITS };
        assert!(read(data, fewer, &Principal::Operator).is_err(), "one event too many");
    }
    // The same body of somebody who may publish nothing, and under a rule that allows more.
    let of_nobody = read(data, LIMITS, &Principal::Nobody).expect("its form is the same");
    check_fates(&of_nobody);
    assert!(of_nobody.batch.is_empty() && of_nobody.received == decoded.received);
    let keep = DecodeLimits { lone_surrogates: LoneSurrogates::Keep, ..LIMITS };
    let kept = read(data, keep, &Principal::Operator).expect("its form is the same");
    assert!(kept.batch.len() >= decoded.batch.len());
}

fn read(data: &[u8], limits: DecodeLimits, publisher: &Principal) -> Result<Decoded, Problem> {
    let at = Timestamp::from_micros(1_767_225_600_000_000);
    decode(&Bytes::copy_from_slice(data), at, limits, publisher)
}

/// Every item is an event of the batch or has errors.
fn check_fates(decoded: &Decoded) {
    assert!(decoded.received <= LIMITS.max_events);
    assert!(!decoded.single || decoded.received == 1);
    let bad: BTreeSet<_> = decoded.errors.iter().map(|error| error.index).collect();
    assert_eq!(decoded.batch.len() + bad.len(), decoded.received, "an item has no fate");
    assert!(decoded.errors.is_sorted_by_key(|error| error.index));
    assert!(decoded.forbidden.is_sorted_by(|a, b| a < b));
    assert!(decoded.forbidden.iter().all(|index| bad.contains(&Some(*index))));
    for error in &decoded.errors {
        assert!(error.index.is_some_and(|index| index < decoded.received), "{error:?}");
        assert!(error.field.chars().count() <= 64 && !error.detail.is_empty(), "{error:?}");
        assert!(error.detail.len() <= 500, "{} bytes are told", error.detail.len());
    }
}

fn check_event(event: EventRef<'_>) {
    let is_text = |text: &str, max| (1..=max).contains(&text.len()) && !text.contains(char::is_control);
    assert!(Topic::new(event.topic()).is_ok(), "{event:?}");
    assert!(is_text(event.event_id(), MAX_EVENT_ID_BYTES) && is_text(event.source(), MAX_SOURCE_BYTES));
    assert!(is_text(event.timestamp(), 64) && event.sequence().is_none_or(|n| i64::try_from(n).is_ok()));
    let again = Event::new("t", "1").and_then(|again| again.with_payload(event.payload()));
    assert_eq!(again.expect("it is JSON").view().payload(), event.payload(), "it is not compact");
    // A parser that refuses halves of surrogate pairs, and numbers that are too large.
    if let Err(error) = serde_json::from_str::<serde_json::Value>(event.payload()) {
        assert!(error.to_string().starts_with("number out of range"), "{error}: {}", event.payload());
    }
    if !event.payload().contains('"') {
        let (end, depth) = event.payload().bytes().fold((0_usize, 0), |(depth, most), byte| match byte {
            b'[' | b'{' => (depth + 1, most.max(depth + 1)),
            b']' | b'}' => (depth - 1, most),
            _ => (depth, most),
        });
        assert!(end == 0 && depth <= LIMITS.max_payload_depth, "{depth} levels: {}", event.payload());
    }
}

/// The events written again, as each form of a body, are the same events.
fn check_other_forms(batch: &Batch) {
    let events: Vec<_> = batch.iter().map(written).collect();
    let list = format!(" [{} ] ", events.join(" ,\n"));
    for body in [format!(r#"{{"events":{list}}}"#), list] {
        check_same(&body, batch, false);
    }
    if let [event] = &events[..] {
        check_same(event, batch, true);
    }
}

fn check_same(body: &str, batch: &Batch, single: bool) {
    let again = read(body.as_bytes(), LIMITS, &Principal::Operator).expect("they were good events");
    assert!(again.errors.is_empty() && again.single == single, "{:?} of {body}", again.errors);
    assert!(again.batch.iter().eq(batch.iter()), "other events come of {body}");
}

fn written(event: EventRef<'_>) -> String {
    let text = |text: &str| serde_json::to_string(text).expect("a string is JSON");
    let sequence = event.sequence().map_or_else(String::new, |n| format!(r#""sequence": {n}, "#));
    format!(
        r#"{{{sequence}"payload": {}, "topic":{},"source":{},"timestamp":{},"event_id":{}}}"#,
        event.payload(),
        text(event.topic()),
        text(event.source()),
        text(event.timestamp()),
        text(event.event_id()),
    )
}

/// The query of a publish request; behind a line feed, its header `Prefer`.
pub fn publish_query(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let query = str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let Ok(uri) = format!("/publish?{query}").parse::<Uri>() else { return };
    let mut headers = HeaderMap::new();
    if let Some(Ok(prefer)) = parts.next().map(HeaderValue::from_bytes) {
        headers.insert("prefer", prefer);
    }
    let options = match PublishOptions::parse(&uri, &headers) {
        Ok(options) => options,
        Err(problem) => return check_problem(&problem, data.len()),
    };
    assert!(!options.preferred || options.queued && !query.contains("ack="));
    // Whoever says nothing waits for the disk.
    assert!(!options.queued || query.contains("queued") || query.contains('%') || options.preferred);
    assert!(!options.preferred || !headers.is_empty());
}
