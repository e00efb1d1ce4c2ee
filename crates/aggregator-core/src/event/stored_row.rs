//! What a store keeps of an event, as it moves from one store to another.

use std::borrow::Cow;
use std::ops::Deref;

use serde_json::value::RawValue;

use super::payload::{LoneSurrogates, compact};
use super::{DEFAULT_SOURCE, Scope, digest, fields, topic};
use crate::{InvalidField, Timestamp, time};

/// How deep a payload may be nested in a row: what `--max-json-depth` takes at most, less the three
/// levels around a payload. The store it comes from had its own bound.
const MAX_PAYLOAD_DEPTH: usize = 1021;

/// A row of a store, whatever is left of it: an event, the stub of a purged one, or an identity alone.
///
/// It knows nothing of its offset and of its partition, which are the store's own matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The topic.
    pub topic: String,
    /// The topic's scope; `None` where it is not known: then it is the one the topic has, and
    /// [`Scope::Topic`] if it is new.
    pub scope: Option<Scope>,
    /// The publisher's id.
    pub event_id: String,
    /// Who published it. Always there with an event; without one, only where the scope asks for it.
    pub source: Option<String>,
    /// When it was stored.
    pub processed_at: Timestamp,
    /// What is left of it.
    pub kept: Kept,
}

/// What is left of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Event(KeptEvent),
    /// Its payload was purged.
    Stub {
        /// Its place in the topic.
        seq: u64,
        /// [`digest`] of the payload.
        digest: [u8; 16],
    },
    /// Nothing but the identity was ever known: it has no seq, and any payload repeats it.
    Identity,
}

/// What an event says beyond its identity and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// Its place in the topic.
    pub seq: u64,
    /// When it happened, as the publisher wrote it.
    pub timestamp: String,
    /// JSON text without insignificant white space.
    pub payload: String,
    /// The publisher's own counter.
    pub sequence: Option<u64>,
    /// The payload's media type where it is not plain JSON.
    pub content_type: Option<String>,
    /// Further attributes as a JSON object without insignificant white space.
    pub attributes: Option<String>,
}

/// A [`StoredRow`] that breaks no rule of its fields; what stores import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRow(StoredRow);

impl Deref for CheckedRow {
    type Target = StoredRow;

    fn deref(&self) -> &StoredRow {
        &self.0
    }
}

impl CheckedRow {
    /// The row.
    pub fn into_inner(self) -> StoredRow {
        self.0
    }
}

/// The fields in which two events with one identity can differ, borrowed from wherever they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "see `StoredRow` and `KeptEvent`")]
pub struct Details<'a> {
    pub source: &'a str,
    pub timestamp: &'a str,
    pub payload: &'a str,
    pub sequence: Option<u64>,
    pub content_type: Option<&'a str>,
    pub attributes: Option<&'a str>,
}

impl StoredRow {
    /// Its place in the topic.
    pub fn seq(&self) -> Option<u64> {
        match &self.kept {
            Kept::Event(event) => Some(event.seq),
            Kept::Stub { seq, .. } => Some(*seq),
            Kept::Identity => None,
        }
    }

    /// The source as an identity has it.
    pub fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(DEFAULT_SOURCE)
    }

    /// The bytes of its payload.
    pub fn payload_bytes(&self) -> usize {
        match &self.kept {
            Kept::Event(event) => event.payload.len(),
            Kept::Stub { .. } | Kept::Identity => 0,
        }
    }

    /// Whether an event that is stored under its identity says the same.
    pub fn is_event(&self, stored: Details<'_>) -> bool {
        match &self.kept {
            Kept::Event(event) => event.details(self.source()) == stored,
            Kept::Stub { digest: kept, .. } => *kept == digest(stored.payload),
            Kept::Identity => true,
        }
    }

    /// Whether a stub that is stored under its identity stays of the same event.
    pub fn is_stub(&self, stored: Option<[u8; 16]>) -> bool {
        match (&self.kept, stored) {
            (Kept::Event(event), Some(stored)) => digest(&event.payload) == stored,
            (Kept::Stub { digest, .. }, Some(stored)) => *digest == stored,
            (Kept::Identity, _) | (_, None) => true,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// One entry per bad field.
    pub fn check(self) -> Result<CheckedRow, Vec<InvalidField>> {
        let mut faults = Vec::new();
        faults.extend(topic::check(&self.topic).err());
        faults.extend(fields::check_event_id(&self.event_id).err());
        faults.extend(self.source.as_deref().and_then(|source| fields::check_source(source).err()));
        if let Kept::Event(event) = &self.kept {
            if self.source.is_none() {
                faults.push(InvalidField::new("source", "is missing: an event has one"));
            }
            event.check(&mut faults);
        }
        if faults.is_empty() { Ok(CheckedRow(self)) } else { Err(faults) }
    }
}

impl KeptEvent {
    /// All in which it can differ from another event with its identity; `source` is that of its row.
    pub fn details<'a>(&'a self, source: &'a str) -> Details<'a> {
        Details {
            source,
            timestamp: &self.timestamp,
            payload: &self.payload,
            sequence: self.sequence,
            content_type: self.content_type.as_deref(),
            attributes: self.attributes.as_deref(),
        }
    }

    fn check(&self, faults: &mut Vec<InvalidField>) {
        faults.extend(time::check_stored(&self.timestamp).err());
        faults.extend(check_json("payload", &self.payload).err());
        if self.sequence.is_some_and(|sequence| i64::try_from(sequence).is_err()) {
            faults.push(InvalidField::new("sequence", format!("must be at most {}", i64::MAX)));
        }
        if let Some(content_type) = &self.content_type {
            faults.extend(fields::check_text("content_type", content_type, fields::MAX_SOURCE_BYTES).err());
        }
        if let Some(attributes) = &self.attributes {
            faults.extend(check_json("attributes", attributes).err());
            if !attributes.starts_with('{') {
                faults.push(InvalidField::new("attributes", "must be a JSON object"));
            }
        }
    }
}

/// Stores compare payloads byte by byte, so one that is not compact would make conflicts of repeats.
fn check_json(field: &'static str, json: &str) -> Result<(), InvalidField> {
    let raw = serde_json::from_str::<&RawValue>(json)
        .map_err(|error| InvalidField::new(field, format!("is not JSON: {error}")))?;
    let compacted = compact(raw.get(), MAX_PAYLOAD_DEPTH, LoneSurrogates::Keep)
        .map_err(|error| InvalidField::new(field, error.reason))?;
    if matches!(compacted, Cow::Borrowed(same) if same.len() == json.len()) {
        return Ok(());
    }
    Err(InvalidField::new(field, "has white space that means nothing: take it out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(payload: &str) -> StoredRow {
        StoredRow {
            topic: "t".into(),
            scope: None,
            event_id: "1".into(),
            source: Some("s".into()),
            processed_at: Timestamp::from_micros(1),
            kept: Kept::Event(KeptEvent {
                seq: 1,
                timestamp: "2026-01-01T00:00:00Z".into(),
                payload: payload.into(),
                sequence: None,
                content_type: None,
                attributes: None,
            }),
        }
    }

    #[test]
    fn payloads_are_taken_as_they_are_kept_and_not_otherwise() {
        for good in ["{}", "null", "1e400", r#""\ud800""#, r#"{"a b":[1,2.50]}"#] {
            assert!(row(good).check().is_ok(), "{good}");
        }
        for bad in ["", "{} ", " 1", "{\"a\": 1}", "{", "1 2", "\"\n\""] {
            assert_eq!(row(bad).check().unwrap_err()[0].field, "payload", "{bad:?}");
        }
    }

    #[test]
    fn every_bad_field_is_named() {
        let mut bad = row("{}");
        (bad.topic, bad.event_id, bad.source) = ("a..b".into(), "a\nb".into(), None);
        let Kept::Event(event) = &mut bad.kept else { panic!("it is one") };
        (event.timestamp, event.sequence) = ("yesterday".into(), Some(u64::MAX));
        (event.content_type, event.attributes) = (Some("a\tb".into()), Some("[]".into()));
        let fields: Vec<_> = bad.check().unwrap_err().iter().map(|fault| fault.field).collect();
        let expected = ["topic", "event_id", "source", "timestamp", "sequence", "content_type", "attributes"];
        assert_eq!(fields, expected);
    }
}
