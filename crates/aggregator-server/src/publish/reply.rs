//! The fates of a request's items, and how they are told.

use std::fmt::{self, Write as _};

use aggregator_core::{Batch, Outcome, Receipt, Timestamp};
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::http::problem::ItemError;
use crate::http::routes::json_text;

/// What became of one item.
enum Fate {
    /// It is the batch's event with this index; it was queued, or has a receipt.
    Accepted(usize, Option<Receipt>),
    /// With everything that is wrong with it.
    Rejected(Vec<ItemError>),
}

/// What became of each item of a request, by its place in the request.
pub(super) struct Fates {
    items: Vec<Fate>,
    /// The place in the request of each event of the batch.
    places: Vec<usize>,
    /// What is wrong with the request as a whole: the store named no item.
    of_all: Vec<ItemError>,
}

impl Fates {
    /// Of `received` items, of which those with `errors` did not get into the batch.
    pub(super) fn new(received: usize, errors: Vec<ItemError>) -> Self {
        let mut fates = Self {
            items: Vec::with_capacity(received),
            places: Vec::with_capacity(received),
            of_all: Vec::new(),
        };
        let mut errors = errors.into_iter().peekable();
        for place in 0..received {
            let mut own = Vec::new();
            while let Some(error) = errors.next_if(|error| error.index == Some(place)) {
                own.push(error);
            }
            if own.is_empty() {
                fates.items.push(Fate::Accepted(fates.places.len(), None));
                fates.places.push(place);
            } else {
                fates.items.push(Fate::Rejected(own));
            }
        }
        fates
    }

    /// These events of the batch have these receipts.
    pub(super) fn decided(&mut self, indices: &[u32], receipts: &[Receipt]) {
        for (&index, &receipt) in indices.iter().zip(receipts) {
            let index = index as usize;
            self.items[self.places[index]] = Fate::Accepted(index, Some(receipt));
        }
    }

    /// The store refused these events of the batch, or the batch where no event is named.
    pub(super) fn refused(&mut self, errors: Vec<ItemError>) {
        for mut error in errors {
            let Some(index) = error.index else {
                self.of_all.push(error);
                continue;
            };
            let place = self.places[index];
            error.index = Some(place);
            match &mut self.items[place] {
                Fate::Rejected(errors) => errors.push(error),
                fate => *fate = Fate::Rejected(vec![error]),
            }
        }
    }

    /// Everything that is wrong with the request: first what names no item, then the items by their places.
    pub(super) fn take_errors(&mut self) -> Vec<ItemError> {
        let errors = |fate| match fate {
            Fate::Rejected(errors) => errors,
            Fate::Accepted(..) => Vec::new(),
        };
        let of_items = std::mem::take(&mut self.items).into_iter().flat_map(errors);
        std::mem::take(&mut self.of_all).into_iter().chain(of_items).collect()
    }

    pub(super) fn rejected(&self) -> usize {
        self.items.iter().filter(|fate| matches!(fate, Fate::Rejected(_))).count()
    }

    fn count(&self) -> Counts {
        let mut counts = Counts::default();
        for fate in &self.items {
            match fate {
                Fate::Rejected(_) => counts.rejected += 1,
                Fate::Accepted(_, None) => counts.queued += 1,
                Fate::Accepted(_, Some(receipt)) => match receipt.outcome {
                    Outcome::Stored => counts.stored += 1,
                    Outcome::Duplicate => counts.duplicates += 1,
                    Outcome::Conflict => counts.conflicts += 1,
                },
            }
        }
        counts
    }
}

/// How many items had each fate.
#[derive(Default)]
struct Counts {
    stored: usize,
    duplicates: usize,
    conflicts: usize,
    rejected: usize,
    queued: usize,
}

/// Everything a reply is made of.
pub(super) struct Reply<'a> {
    pub(super) fates: &'a Fates,
    pub(super) batch: &'a Batch,
    pub(super) single: bool,
    pub(super) received_at: Timestamp,
    pub(super) durability: &'static str,
    /// Whether it was answered before the commit.
    pub(super) queued: bool,
    pub(super) results: bool,
    pub(super) preference_applied: bool,
}

/// A result takes about so many bytes.
const RESULT_BYTES: usize = 192;

/// Written as text at once: for a large request a serializer, given a timestamp per item, took nearly as
/// long as decoding the events did.
pub(super) fn render(reply: &Reply<'_>) -> Response {
    let items = &reply.fates.items;
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
    let items = &reply.fates.items;
    body.push_str(r#"{"status":"accepted""#);
    if let ([Fate::Accepted(index, _)], true) = (items.as_slice(), reply.single) {
        body.push_str(r#","event_id":"#);
        push_string(body, reply.batch.event_id(*index));
    }
    let Counts { stored, duplicates, conflicts, rejected, queued } = reply.fates.count();
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
    // Most of a request's events are stored at one time.
    let mut shown: Option<(Timestamp, String)> = None;
    for (place, fate) in reply.fates.items.iter().enumerate() {
        if place > 0 {
            body.push(',');
        }
        let (index, receipt) = match fate {
            Fate::Accepted(index, receipt) => (*index, receipt),
            Fate::Rejected(errors) => {
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

/// A string that has no control characters, as JSON.
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
