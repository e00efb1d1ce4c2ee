//! What is published: types that cannot hold anything invalid.

mod batch;
mod fields;
mod hint;
mod payload;
mod stored_row;
mod topic;
mod topics;

pub use batch::{Batch, BatchBuilder, RawEvent};
pub use fields::{EventId, Identity, MAX_EVENT_ID_BYTES, MAX_SOURCE_BYTES, Scope, Source};
pub use hint::{Hint, HintOwner};
pub use payload::{
    DEFAULT_PAYLOAD_DEPTH, ERASED_PAYLOAD, LoneSurrogates, digest, equals_digest, equals_payload,
    is_digest_of_erased,
};
pub use stored_row::{CheckedRow, Details, Kept, KeptEvent, MAX_FORGOTTEN_SEQ, StoredRow};
pub use topic::{MAX_TOPIC_BYTES, Partition, Partitions, SLOTS, Topic, TopicSelector, slot};
pub use topics::Topics;

use crate::InvalidField;

/// The source of an event that came without one.
pub const DEFAULT_SOURCE: &str = "unknown";
pub(crate) const DEFAULT_PAYLOAD: &str = "{}";

/// One event that owns its data. A [`Batch`] holds many events without copying them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    topic: Topic,
    event_id: EventId,
    timestamp: String,
    source: Source,
    payload: String,
    sequence: Option<u64>,
    scope: Scope,
}

impl Event {
    /// An event of now, from source `unknown`, with the payload `{}`.
    ///
    /// # Errors
    /// When [`Topic::new`] or [`EventId::new`] refuses its part.
    pub fn new(topic: impl Into<String>, event_id: impl Into<String>) -> Result<Self, InvalidField> {
        Ok(Self {
            topic: Topic::new(topic)?,
            event_id: EventId::new(event_id)?,
            timestamp: crate::Timestamp::now().to_string(),
            source: Source::new(DEFAULT_SOURCE)?,
            payload: DEFAULT_PAYLOAD.to_owned(),
            sequence: None,
            scope: Scope::Topic,
        })
    }

    /// With this payload: any JSON value, kept as text without its insignificant white space. Half a surrogate
    /// pair is kept as well, as [`LoneSurrogates::Keep`] has it.
    ///
    /// # Errors
    /// When it is not JSON, or nested deeper than [`DEFAULT_PAYLOAD_DEPTH`].
    pub fn with_payload(mut self, json: &str) -> Result<Self, InvalidField> {
        let raw = serde_json::from_str::<&serde_json::value::RawValue>(json)
            .map_err(|error| InvalidField::new("payload", format!("is not JSON: {error}")))?;
        self.payload = payload::compact(raw.get(), DEFAULT_PAYLOAD_DEPTH, LoneSurrogates::Keep)?.into_owned();
        Ok(self)
    }

    /// From this source: see [`Source::new`].
    ///
    /// # Errors
    /// When [`Source::new`] refuses it.
    pub fn with_source(mut self, source: impl Into<String>) -> Result<Self, InvalidField> {
        self.source = Source::new(source)?;
        Ok(self)
    }

    /// Published at this time, RFC 3339 with any offset; kept as it is written.
    ///
    /// # Errors
    /// When it is not RFC 3339.
    pub fn with_timestamp(mut self, timestamp: impl Into<String>) -> Result<Self, InvalidField> {
        let timestamp = timestamp.into();
        crate::time::check_rfc3339(&timestamp)?;
        self.timestamp = timestamp;
        Ok(self)
    }

    /// With the publisher's own counter.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// With this scope for its topic. It is used only if this is the first event of its topic.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The view that stores take.
    pub fn view(&self) -> EventRef<'_> {
        EventRef {
            topic: self.topic.as_str(),
            event_id: self.event_id.as_str(),
            timestamp: &self.timestamp,
            source: self.source.as_str(),
            payload: &self.payload,
            sequence: self.sequence,
            content_type: None,
            attributes: None,
            scope: self.scope,
            hint: None,
        }
    }
}

/// A checked event that borrows from an [`Event`] or a [`Batch`]; only these two make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRef<'a> {
    topic: &'a str,
    event_id: &'a str,
    timestamp: &'a str,
    source: &'a str,
    payload: &'a str,
    sequence: Option<u64>,
    content_type: Option<&'a str>,
    attributes: Option<&'a str>,
    scope: Scope,
    hint: Option<Hint>,
}

impl<'a> EventRef<'a> {
    /// What a store noted about it: see [`Batch::set_hints`].
    pub fn hint(&self) -> Option<Hint> {
        self.hint
    }

    /// The topic's name, as [`Topic`] allows it.
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// The publisher's id of the event, as [`EventId`] allows it.
    pub fn event_id(&self) -> &'a str {
        self.event_id
    }

    /// When it happened, RFC 3339 as the publisher wrote it.
    pub fn timestamp(&self) -> &'a str {
        self.timestamp
    }

    /// Who published it, as [`Source`] allows it.
    pub fn source(&self) -> &'a str {
        self.source
    }

    /// The payload: JSON without insignificant white space.
    pub fn payload(&self) -> &'a str {
        self.payload
    }

    /// The publisher's own counter, if it keeps one.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The payload's media type where it is not plain JSON.
    pub fn content_type(&self) -> Option<&'a str> {
        self.content_type
    }

    /// Further attributes as a JSON object, where there are any.
    pub fn attributes(&self) -> Option<&'a str> {
        self.attributes
    }

    /// The scope that its topic gets if this is the first event of the topic.
    pub fn scope(&self) -> Scope {
        self.scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_gives_every_field() {
        let event = EventRef {
            topic: "t",
            event_id: "1",
            timestamp: "2026-01-01T00:00:00Z",
            source: "s",
            payload: "<a/>",
            sequence: Some(7),
            content_type: Some("text/xml"),
            attributes: Some(r#"{"n":1}"#),
            scope: Scope::Source,
            hint: None,
        };
        assert_eq!((event.topic(), event.event_id(), event.source()), ("t", "1", "s"));
        assert_eq!((event.timestamp(), event.payload()), ("2026-01-01T00:00:00Z", "<a/>"));
        assert_eq!((event.sequence(), event.scope(), event.hint()), (Some(7), Scope::Source, None));
        assert_eq!((event.content_type(), event.attributes()), (Some("text/xml"), Some(r#"{"n":1}"#)));
    }
}
