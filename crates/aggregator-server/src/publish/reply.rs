//! The reply to a publish request: counts, and a result per item.

use std::fmt::{self, Write as _};

use aggregator_core::{Batch, Outcome, Timestamp};
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::http::response::json_text;

use super::outcomes::{ItemCounts, ItemOutcome, ItemOutcomes};

/// What a reply tells.
pub(super) struct Reply<'a> {
    pub(super) outcomes: &'a ItemOutcomes,
    pub(super) batch: &'a Batch,
    pub(super) single: bool,
    pub(super) received_at: Timestamp,
    pub(super) durability: &'static str,
    /// Whether the answer comes before the commit.
    pub(super) queued: bool,
    pub(super) results: bool,
    pub(super) preference_applied: bool,
}

/// The usual size of one result.
const RESULT_BYTES: usize = 192;

/// Writes the text directly. For a large request, a serializer that formats a timestamp per item took nearly as long as
/// decoding the events.
pub(super) fn render(reply: &Reply<'_>) -> Response {
    let items = reply.outcomes.items();
    let mut body = String::with_capacity(256 + if reply.results { items.len() * RESULT_BYTES } else { 0 });
    write_reply(&mut body, reply).expect("a String takes everything");
    let mut response = json_text(StatusCode::ACCEPTED, body);
    if reply.preference_applied {
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

fn write_reply(body: &mut String, reply: &Reply<'_>) -> fmt::Result {
    let items = reply.outcomes.items();
    body.push_str(r#"{"status":"accepted""#);
    if let ([ItemOutcome::Accepted(index, _)], true) = (items, reply.single) {
        body.push_str(r#","event_id":"#);
        push_string(body, reply.batch.event_id(*index));
    }
    let ItemCounts { stored, duplicates, conflicts, rejected, queued } = reply.outcomes.count();
    write!(
        body,
        r#","received":{},"stored":{stored},"duplicates":{duplicates},"conflicts":{conflicts},"rejected":{rejected}"#,
        items.len()
    )?;
    if reply.queued {
        write!(body, r#","queued":{queued}"#)?;
    }
    write!(body, r#","durability":"{}","received_at":"{}""#, reply.durability, reply.received_at)?;
    if reply.results {
        body.push_str(r#","results":["#);
        write_results(body, reply)?;
        body.push(']');
    }
    body.push('}');
    Ok(())
}

fn write_results(body: &mut String, reply: &Reply<'_>) -> fmt::Result {
    // Most events of a request have the same time, so its text is kept.
    let mut shown: Option<(Timestamp, String)> = None;
    for (position, outcome) in reply.outcomes.items().iter().enumerate() {
        if position > 0 {
            body.push(',');
        }
        let (index, receipt) = match outcome {
            ItemOutcome::Accepted(index, receipt) => (*index, receipt),
            ItemOutcome::Rejected(errors) => {
                body.push_str(r#"{"outcome":"rejected","errors":"#);
                body.push_str(&serde_json::to_string(errors).map_err(|_| fmt::Error)?);
                body.push('}');
                continue;
            }
        };
        // A topic has no character that JSON escapes.
        body.push_str(r#"{"topic":""#);
        body.push_str(reply.batch.topic(index));
        body.push_str(r#"","event_id":"#);
        push_string(body, reply.batch.event_id(index));
        body.push_str(r#","outcome":""#);
        body.push_str(receipt.map_or("queued", |receipt| word(receipt.outcome)));
        body.push('"');
        if let Some(seq) = receipt.and_then(|receipt| receipt.seq) {
            write!(body, r#","seq":{seq}"#)?;
        }
        if let Some(receipt) = receipt {
            let at = receipt.processed_at;
            let (_, text) = match &mut shown {
                Some(shown) if shown.0 == at => shown,
                other => other.insert((at, at.to_string())),
            };
            body.push_str(r#","processed_at":""#);
            body.push_str(text);
            body.push('"');
        }
        body.push('}');
    }
    Ok(())
}

/// Writes a string without control characters as JSON.
fn push_string(body: &mut String, text: &str) {
    body.push('"');
    if text.bytes().any(|byte| byte == b'"' || byte == b'\\') {
        body.push_str(&text.replace('\\', r"\\").replace('"', r#"\""#));
    } else {
        body.push_str(text);
    }
    body.push('"');
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Stored => "stored",
        Outcome::Duplicate => "duplicate",
        Outcome::Conflict => "conflict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_as_a_serializer_writes_them() {
        for text in ["", "plain", "\"", "\\", r#"a\"b\\c"d"#, "ä/😀\u{85}"] {
            let mut written = String::new();
            push_string(&mut written, text);
            assert_eq!(written, serde_json::to_string(text).unwrap());
        }
    }
}
