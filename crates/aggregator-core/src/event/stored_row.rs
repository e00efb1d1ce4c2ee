//! What a store keeps of an event, as it moves from one store to another.

use std::borrow::Cow;
use std::ops::Deref;

use serde_json::value::RawValue;

use super::payload::{ERASED_PAYLOAD, equals_digest, is_digest_of_erased};
use super::payload::{LoneSurrogates, compact};
use super::{DEFAULT_SOURCE, Scope, digest, fields, topic};
use crate::{InvalidField, Timestamp, time};

/// How deep the payload of a row may be nested: the most that `--max-json-depth` takes, less the three levels around
/// a payload. The store that the row comes from had its own limit.
const MAX_PAYLOAD_DEPTH: usize = 1021;

/// No mark says that a topic has forgotten more events: 8.8 million million. Nothing before a mark shows that there were so many,
/// and the topic goes on behind it, so no store may come to the end of its numbers: neither of a topic's, nor of the sum of
/// a million topics.
pub const MAX_FORGOTTEN_SEQ: u64 = (1 << 43) - 1;

/// A row of a store, whatever is left of it: an event, the stub of a purged one, an identity alone, or the mark that stands
/// for the oldest events of a topic, of which nothing is left.
///
/// It has neither an offset nor a partition: each store gives a row its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// The topic.
    pub topic: String,
    /// The topic's scope. `None` if it is not known: then the scope that the topic has is used, and
    /// [`Scope::Topic`] if the topic is new.
    pub scope: Option<Scope>,
    /// The publisher's id. Empty in the mark of forgotten events.
    pub event_id: String,
    /// Who published it. A whole event always has a source. A stub or an identity has one only where the scope
    /// needs it.
    pub source: Option<String>,
    /// When it was stored.
    pub processed_at: Timestamp,
    /// Whether its identity was released: then a later row may have the same identity.
    pub released: bool,
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
    /// Only the identity was ever known. It has no seq, and an event with any payload is a repeat of it.
    Identity,
    /// The topic's events up to `seq` were forgotten: see [`Forget`](crate::store::Forget). A topic has at
    /// most one such row. Its time is that of the event of this seq.
    Forgotten {
        /// The seq of the last one; 0 if only identities without seqs were forgotten.
        seq: u64,
    },
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

/// The fields in which two events with the same identity can differ, borrowed from where they are kept.
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

impl<'a> Details<'a> {
    /// `stored`, with what erasing took from it as it is here.
    fn not_erased(self, stored: Details<'a>) -> Details<'a> {
        let Details { payload, content_type, attributes, .. } = self;
        Details { payload, content_type, attributes, ..stored }
    }
}

impl StoredRow {
    /// Its place in the topic.
    pub fn seq(&self) -> Option<u64> {
        match &self.kept {
            Kept::Event(event) => Some(event.seq),
            Kept::Stub { seq, .. } | Kept::Forgotten { seq } => Some(*seq),
            Kept::Identity => None,
        }
    }

    /// Whether it stands for forgotten events, and so has no identity.
    pub fn is_forgotten(&self) -> bool {
        matches!(self.kept, Kept::Forgotten { .. })
    }

    /// Whether it is the row of its identity that has this seq in a store, and is released there or not. Identities that
    /// were imported alone have no seq to tell them apart, but all of them are the same: released, or not.
    pub fn is_at(&self, seq: Option<u64>, released: bool) -> bool {
        self.seq() == seq && (seq.is_some() || self.released || !released)
    }

    /// The source as an identity has it.
    pub fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(DEFAULT_SOURCE)
    }

    /// The bytes of its payload.
    pub fn payload_bytes(&self) -> usize {
        match &self.kept {
            Kept::Event(event) => event.payload.len(),
            Kept::Stub { .. } | Kept::Identity | Kept::Forgotten { .. } => 0,
        }
    }

    /// Whether the event stored under this identity has the same content, as far as both know it. This row may have
    /// content that was erased there, but not the other way round.
    pub fn is_event(&self, stored: Details<'_>) -> bool {
        let is_erased = stored.payload == ERASED_PAYLOAD;
        match &self.kept {
            Kept::Event(event) => {
                let here = event.details(self.source());
                here == if is_erased { here.not_erased(stored) } else { stored }
            }
            Kept::Stub { digest: kept, .. } => is_erased || *kept == digest(stored.payload),
            Kept::Identity => true,
            Kept::Forgotten { .. } => false,
        }
    }

    /// Whether a stub stored under this identity is the stub of the same event. `None` stands for an identity that was
    /// imported alone, which is the same as any event.
    pub fn is_stub(&self, stored: Option<[u8; 16]>) -> bool {
        match (&self.kept, stored) {
            (Kept::Event(event), Some(stored)) => equals_digest(stored, &event.payload),
            (Kept::Stub { digest, .. }, Some(stored)) => *digest == stored || is_digest_of_erased(stored),
            (Kept::Forgotten { .. }, _) => false,
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
        match self.kept {
            Kept::Forgotten { seq } => self.check_mark(seq, &mut faults),
            _ => faults.extend(fields::check_event_id(&self.event_id).err()),
        }
        faults.extend(self.source.as_deref().and_then(|source| fields::check_source(source).err()));
        if let Kept::Event(event) = &self.kept {
            if self.source.is_none() {
                faults.push(InvalidField::new("source", "is missing: an event has one"));
            }
            event.check(&mut faults);
        }
        if faults.is_empty() { Ok(CheckedRow(self)) } else { Err(faults) }
    }

    fn check_mark(&self, seq: u64, faults: &mut Vec<InvalidField>) {
        if seq > MAX_FORGOTTEN_SEQ {
            let reason = format!("must be at most {MAX_FORGOTTEN_SEQ}");
            faults.push(InvalidField::new("forgotten_seq", reason));
        }
        if !self.event_id.is_empty() || self.source.is_some() || self.released {
            faults.push(InvalidField::new("event_id", "a mark of forgotten events has no identity"));
        }
    }
}

impl KeptEvent {
    /// The fields in which two events with the same identity can differ. `source` is the source of this event's row.
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
            faults.extend(check_attributes(attributes).err());
        }
    }
}

/// Checks the further attributes of an event.
pub(super) fn check_attributes(json: &str) -> Result<(), InvalidField> {
    check_json("attributes", json)?;
    if json.starts_with('{') { Ok(()) } else { Err(InvalidField::new("attributes", "must be a JSON object")) }
}

/// Checks that a text is JSON and compact. Stores compare payloads byte by byte, so a payload that is not compact
/// would turn its repeats into conflicts.
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
            released: false,
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

    #[test]
    fn a_row_is_the_same_as_the_stub_of_its_payload_and_as_no_other() {
        let event = row("[1]");
        let stub = StoredRow { kept: Kept::Stub { seq: 1, digest: digest("[1]") }, ..row("") };
        let alone = StoredRow { kept: Kept::Identity, ..row("") };
        for known in [&event, &stub] {
            assert!(known.is_stub(Some(digest("[1]"))) && !known.is_stub(Some(digest("[2]"))));
            assert!(known.is_stub(None), "an identity alone is the same as any event");
        }
        assert!(alone.is_stub(Some(digest("[2]"))));
    }
}
