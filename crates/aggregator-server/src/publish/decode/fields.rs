//! The fields of one event: captured as raw JSON, checked afterwards.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::de::{Deserializer, Visitor};
use serde_json::value::RawValue;

/// How many faults of one event are reported. Each has a short text, so an answer is not much larger than its request.
pub(super) const MAX_FAULTS: usize = 8;

/// A field's name and what is wrong with it.
pub(super) type FieldFault = (Cow<'static, str>, String);

/// The fields of one event, each as it is written.
#[derive(Default)]
pub(super) struct Fields<'de> {
    pub(super) topic: Option<&'de RawValue>,
    pub(super) event_id: Option<&'de RawValue>,
    pub(super) timestamp: Option<&'de RawValue>,
    pub(super) source: Option<&'de RawValue>,
    pub(super) payload: Option<&'de RawValue>,
    pub(super) sequence: Option<&'de RawValue>,
    pub(super) faults: Vec<FieldFault>,
}

impl<'de> Fields<'de> {
    pub(super) fn set(&mut self, name: Name, value: &'de RawValue) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        let (field, name) = match name {
            Name::Topic => (&mut self.topic, "topic"),
            Name::EventId => (&mut self.event_id, "event_id"),
            Name::Timestamp => (&mut self.timestamp, "timestamp"),
            Name::Source => (&mut self.source, "source"),
            Name::Payload => (&mut self.payload, "payload"),
            Name::Sequence => (&mut self.sequence, "sequence"),
            Name::Events => {
                return self.faults.push(("events".into(), "cannot stand beside an event".into()));
            }
            Name::Other(name) => {
                let detail =
                    "is not a field of an event: topic, event_id, timestamp, source, payload, sequence";
                return self.faults.push((name.into(), detail.into()));
            }
        };
        if field.replace(value).is_some() {
            self.faults.push((name.into(), "is given twice".into()));
        }
    }
}

pub(super) fn required<'de>(
    name: &'static str,
    raw: Option<&'de RawValue>,
    faults: &mut Vec<FieldFault>,
) -> Option<Cow<'de, str>> {
    match raw {
        Some(raw) => string(name, raw, faults),
        None => {
            faults.push((name.into(), "is missing".into()));
            None
        }
    }
}

/// A string, borrowed where it needs no unescaping.
pub(super) fn string<'de>(
    name: &'static str,
    raw: &'de RawValue,
    faults: &mut Vec<FieldFault>,
) -> Option<Cow<'de, str>> {
    let text = raw.get();
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        faults.push((name.into(), format!("must be a string, not {}", kind(text))));
        return None;
    };
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    match serde_json::from_str::<String>(text) {
        Ok(string) => Some(Cow::Owned(string)),
        Err(_) => {
            let detail = r"has half a surrogate pair, which is no character: send the whole pair, or \ufffd in its place";
            faults.push((name.into(), detail.into()));
            None
        }
    }
}

pub(super) fn number(name: &'static str, raw: &RawValue, faults: &mut Vec<FieldFault>) -> Option<u64> {
    let number = raw.get().parse().ok();
    if number.is_none() {
        faults.push((name.into(), format!("must be a whole number from 0, not {}", kind(raw.get()))));
    }
    number
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "this number",
    }
}

/// The key of an object: a field of an event, `events`, or anything else.
pub(super) enum Name {
    Topic,
    EventId,
    Timestamp,
    Source,
    Payload,
    Sequence,
    Events,
    Other(String),
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Name, E> {
                Ok(match key {
                    "topic" => Name::Topic,
                    "event_id" => Name::EventId,
                    "timestamp" => Name::Timestamp,
                    "source" => Name::Source,
                    "payload" => Name::Payload,
                    "sequence" => Name::Sequence,
                    "events" => Name::Events,
                    other => Name::Other(other.chars().take(MAX_NAME_CHARS).collect()),
                })
            }
        }
        deserializer.deserialize_identifier(NameVisitor)
    }
}

/// How much of an unknown field's name is repeated to its sender.
const MAX_NAME_CHARS: usize = 64;
