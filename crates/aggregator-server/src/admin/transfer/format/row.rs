//! The lines of an export that hold rows: events, stubs, identities alone, and marks of forgotten events.

use std::borrow::Cow;

use aggregator_core::event::{CheckedRow, Kept, KeptEvent, MAX_FORGOTTEN_SEQ, StoredRow};
use aggregator_core::{Scope, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{fault_list, parse_scope, parse_time, write_line};

/// A row. An event has a payload, a stub has a digest, an identity alone has neither. The mark of forgotten events has
/// `forgotten_seq`, which a program that does not know marks refuses.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten_seq: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "even_null", skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "even_null", skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    processed_at: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
}

/// Tells a payload `null` from a missing field.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Writes a row. Fails if the stored payload is not JSON, because then the store is damaged.
pub(in crate::admin::transfer) fn write_row(
    out: &mut Vec<u8>,
    row: &StoredRow,
) -> Result<(), serde_json::Error> {
    let event = match &row.kept {
        Kept::Event(event) => Some(event),
        Kept::Stub { .. } | Kept::Identity | Kept::Forgotten { .. } => None,
    };
    let forgotten_seq = row.seq().filter(|_| row.is_forgotten());
    let digest = match &row.kept {
        Kept::Stub { digest, .. } => Some(format!("{:032x}", u128::from_be_bytes(*digest))),
        Kept::Event(_) | Kept::Identity | Kept::Forgotten { .. } => None,
    };
    let payload = event.map(|event| raw(&event.payload)).transpose()?;
    let attributes = event.and_then(|event| event.attributes.as_deref()).map(raw).transpose()?;
    let line = Row {
        topic: row.topic.as_str().into(),
        scope: row.scope.filter(|&scope| scope != Scope::default()).map(|scope| scope.as_str().into()),
        seq: row.seq().filter(|_| !row.is_forgotten()),
        forgotten_seq,
        event_id: (!row.is_forgotten()).then(|| row.event_id.as_str().into()),
        timestamp: event.map(|event| event.timestamp.as_str().into()),
        source: row.source.as_deref().map(Into::into),
        payload,
        digest: digest.map(Into::into),
        sequence: event.and_then(|event| event.sequence),
        content_type: event.and_then(|event| event.content_type.as_deref()).map(Into::into),
        attributes,
        processed_at: Some(row.processed_at.to_string().into()),
        released: row.released,
    };
    write_line(out, &line)
}

fn raw(json: &str) -> Result<&RawValue, serde_json::Error> {
    serde_json::from_str(json)
}

impl Row<'_> {
    pub(super) fn into_stored(self) -> Result<CheckedRow, String> {
        let at = self.processed_at.as_deref().ok_or("processed_at: is missing")?;
        let processed_at = parse_time(at)?;
        if let Some(seq) = self.forgotten_seq {
            return self.into_mark(seq, processed_at);
        }
        let kept = match (self.payload, self.digest.as_deref(), self.seq) {
            (Some(payload), None, Some(seq)) => Kept::Event(KeptEvent {
                seq,
                timestamp: self.timestamp.ok_or("timestamp: is missing")?.into_owned(),
                payload: payload.get().to_owned(),
                sequence: self.sequence,
                content_type: self.content_type.map(Cow::into_owned),
                attributes: self.attributes.map(|raw| raw.get().to_owned()),
            }),
            (None, Some(digest), Some(seq)) => Kept::Stub { seq, digest: parse_digest(digest)? },
            (None, None, None) => Kept::Identity,
            _ => return Err("seq: goes with either a payload or a digest, and they with a seq".into()),
        };
        let row = StoredRow {
            topic: self.topic.into_owned(),
            scope: Some(scope_of(self.scope.as_deref())?),
            event_id: self.event_id.ok_or("event_id: is missing")?.into_owned(),
            source: self.source.map(Cow::into_owned),
            processed_at,
            released: self.released,
            kept,
        };
        row.check().map_err(|faults| fault_list(&faults))
    }

    fn into_mark(self, seq: u64, processed_at: Timestamp) -> Result<CheckedRow, String> {
        let Self { topic, scope, .. } = self;
        let others = [
            self.seq.is_some() || self.sequence.is_some() || self.released,
            self.event_id.is_some() || self.source.is_some() || self.timestamp.is_some(),
            self.payload.is_some() || self.digest.is_some(),
            self.content_type.is_some() || self.attributes.is_some(),
        ];
        if others.contains(&true) {
            return Err("forgotten_seq: goes with topic, scope and processed_at alone".to_owned());
        }
        if !(1..=MAX_FORGOTTEN_SEQ).contains(&seq) {
            return Err(format!(
                "forgotten_seq: must be 1 to {MAX_FORGOTTEN_SEQ}, the seq of an event that there was"
            ));
        }
        let row = StoredRow {
            topic: topic.into_owned(),
            scope: Some(scope_of(scope.as_deref())?),
            event_id: String::new(),
            source: None,
            processed_at,
            released: false,
            kept: Kept::Forgotten { seq },
        };
        row.check().map_err(|faults| fault_list(&faults))
    }
}

fn scope_of(text: Option<&str>) -> Result<Scope, String> {
    text.map_or(Ok(Scope::default()), parse_scope)
}

fn parse_digest(text: &str) -> Result<[u8; 16], String> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digest = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    digest.map(u128::to_be_bytes).ok_or_else(|| "digest: must be 32 hexadecimal digits".to_owned())
}
