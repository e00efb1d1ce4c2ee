//! Events as they are published.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::error::Error;

/// An event to publish.
///
/// The pair of topic and event id is its identity: whatever is published again under the same identity is not stored
/// again. So make the id once, where the event happens, and not anew for each try. The server checks the fields, and says
/// which one breaks a rule.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    topic: String,
    event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

impl Event {
    /// An event with this identity, and nothing else: the server takes `{}` for its payload, the time of its arrival for
    /// its timestamp, and `unknown` for its source.
    #[must_use]
    pub fn new(topic: impl Into<String>, event_id: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            event_id: event_id.into(),
            timestamp: None,
            source: None,
            payload: None,
            sequence: None,
        }
    }

    /// When it happened: a time in the form of RFC 3339, with an offset or `Z`.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: impl Into<String>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// Who published it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The publisher's own counter, at most 2^63 − 1.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// What happened, as anything that can be written as JSON.
    ///
    /// # Errors
    /// [`Error::Payload`] if it cannot be written as JSON.
    pub fn with_payload<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self, Error> {
        self.payload = Some(to_raw_value(payload).map_err(Error::Payload)?);
        Ok(self)
    }

    /// What happened, as JSON that is sent and kept as it is spelled.
    ///
    /// # Errors
    /// [`Error::Payload`] if it is not JSON.
    pub fn with_json_payload(mut self, json: impl Into<String>) -> Result<Self, Error> {
        self.payload = Some(RawValue::from_string(json.into()).map_err(Error::Payload)?);
        Ok(self)
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its id.
    #[must_use]
    pub fn event_id(&self) -> &str {
        &self.event_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(event: &Event) -> String {
        serde_json::to_string(event).unwrap()
    }

    #[test]
    fn what_is_not_given_is_not_sent() {
        assert_eq!(json(&Event::new("orders", "o-1")), r#"{"topic":"orders","event_id":"o-1"}"#);
    }

    #[test]
    fn a_payload_of_json_keeps_its_spelling() {
        let event = Event::new("t", "\"")
            .with_timestamp("2026-01-31T12:00:00Z")
            .with_source("shop")
            .with_sequence(7)
            .with_json_payload(r#"{"b":1.50,"a":1e400}"#)
            .unwrap();
        assert_eq!(
            json(&event),
            r#"{"topic":"t","event_id":"\"","timestamp":"2026-01-31T12:00:00Z","source":"shop","payload":{"b":1.50,"a":1e400},"sequence":7}"#
        );
    }

    #[test]
    fn a_payload_that_is_no_json_is_refused_by_name() {
        let error = Event::new("t", "1").with_json_payload("{").unwrap_err();
        assert!(error.to_string().starts_with("payload is not JSON: "), "{error}");
        let no_string_key = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(Event::new("t", "1").with_payload(&no_string_key), Err(Error::Payload(_))));
    }
}
