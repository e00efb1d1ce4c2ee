//! An event as JSON, the same on every route that shows one.

use aggregator_core::StoredEvent;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::http::problem::Problem;

/// A stored event as readers see it.
#[derive(Serialize)]
pub(super) struct EventJson<'a> {
    topic: &'a str,
    event_id: &'a str,
    timestamp: &'a str,
    source: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a RawValue>,
    seq: u64,
    processed_at: String,
}

impl<'a> EventJson<'a> {
    /// The payload is checked again, because a disk may return something else than what was written.
    pub(super) fn of(event: &'a StoredEvent) -> Result<Self, Problem> {
        let json = |field, text| {
            serde_json::from_str::<&RawValue>(text).map_err(|_| {
                Problem::internal(format!(
                    "the {field} of {} seq {} is corrupt in the store",
                    event.topic, event.seq
                ))
            })
        };
        Ok(Self {
            topic: &event.topic,
            event_id: &event.event_id,
            timestamp: &event.timestamp,
            source: &event.source,
            payload: json("payload", &event.payload)?,
            sequence: event.sequence,
            content_type: event.content_type.as_deref(),
            attributes: event.attributes.as_deref().map(|text| json("attributes", text)).transpose()?,
            seq: event.seq,
            processed_at: event.processed_at.to_string(),
        })
    }
}

/// The event as one line of JSON, without a newline. Payloads hold none: they are stored without white space.
pub(super) fn line(event: &StoredEvent) -> Result<String, Problem> {
    let body = EventJson::of(event)?;
    serde_json::to_string(&body).map_err(|error| Problem::internal(format!("an event: {error}")))
}
