//! From the body of a publish request to a checked batch, in one pass that borrows from the body.
//!
//! Fields are taken as raw JSON first and checked after, so that a wrong type is one event's fault
//! with a name, and not the end of the whole body.

use std::borrow::Cow;
use std::fmt;

use aggregator_core::event::RawEvent;
use aggregator_core::{Batch, BatchBuilder, Scope, Timestamp};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::{ItemError, Problem};

/// Bounds of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max_events: usize,
    pub(crate) max_payload_depth: usize,
}

/// What a body held.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The good events.
    pub(crate) batch: Batch,
    /// What is wrong with the others, by ascending index.
    pub(crate) errors: Vec<ItemError>,
    /// All items, good and bad.
    pub(crate) received: usize,
    /// Whether the body was one event, and not a list of one.
    pub(crate) single: bool,
}

/// Reads one event, an array of events, or `{"events":[…]}`.
pub(crate) fn decode(body: &Bytes, received_at: Timestamp, bounds: Bounds) -> Result<Decoded, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::malformed(format!("the body is not UTF-8: bad byte at position {}", error.valid_up_to()))
    })?;
    let builder = BatchBuilder::new(body.clone(), received_at)
        .map_err(|error| Problem::malformed(error.to_string()))?
        .with_max_payload_depth(bounds.max_payload_depth);
    let mut sink = Sink { builder, errors: Vec::new(), received: 0, bounds, too_many: false, single: false };
    let mut json = serde_json::Deserializer::from_str(text);
    let result = Body(&mut sink).deserialize(&mut json).and_then(|()| json.end());
    if sink.too_many {
        return Err(Problem::too_large(format!(
            "the request has more than {} events (--max-batch-events): send them in several",
            bounds.max_events
        )));
    }
    result.map_err(|error| Problem::malformed_json("the body is not JSON as expected", &error))?;
    Ok(Decoded {
        batch: sink.builder.finish(),
        errors: sink.errors,
        received: sink.received,
        single: sink.single,
    })
}

/// Takes the items one by one.
struct Sink {
    builder: BatchBuilder,
    errors: Vec<ItemError>,
    received: usize,
    bounds: Bounds,
    too_many: bool,
    single: bool,
}

impl Sink {
    /// Counts an item; its index, or `None` if it is one too many.
    fn next(&mut self) -> Option<usize> {
        if self.received == self.bounds.max_events {
            self.too_many = true;
            return None;
        }
        self.received += 1;
        Some(self.received - 1)
    }

    fn take(&mut self, index: usize, fields: Fields<'_>) {
        let mut faults = fields.faults;
        let topic = required("topic", fields.topic, &mut faults);
        let event_id = required("event_id", fields.event_id, &mut faults);
        let timestamp = fields.timestamp.and_then(|raw| string("timestamp", raw, &mut faults));
        let source = fields.source.and_then(|raw| string("source", raw, &mut faults));
        let sequence = fields.sequence.and_then(|raw| number("sequence", raw, &mut faults));
        let event = RawEvent {
            // Where a field is missing, a good value stands in, so that the others are still checked.
            topic: topic.as_deref().unwrap_or("missing"),
            event_id: event_id.as_deref().unwrap_or("missing"),
            timestamp: timestamp.as_deref(),
            source: source.as_deref(),
            payload: fields.payload,
            sequence,
            scope: Scope::Topic,
        };
        let checked = if faults.is_empty() { self.builder.push(&event) } else { self.builder.check(&event) };
        if let Err(invalid) = checked {
            faults.extend(invalid.into_iter().map(|fault| (fault.field.into(), fault.reason)));
        }
        let item = |(field, detail)| ItemError { index: Some(index), field, detail };
        self.errors.extend(faults.into_iter().take(MAX_FAULTS).map(item));
    }
}

/// So many faults of one event are told; each has a short text, so an answer is not much larger than
/// what it answers.
const MAX_FAULTS: usize = 8;

/// A field's name and what is wrong with it.
type Fault = (Cow<'static, str>, String);

/// The fields of one event, each as it is written.
#[derive(Default)]
struct Fields<'de> {
    topic: Option<&'de RawValue>,
    event_id: Option<&'de RawValue>,
    timestamp: Option<&'de RawValue>,
    source: Option<&'de RawValue>,
    payload: Option<&'de RawValue>,
    sequence: Option<&'de RawValue>,
    faults: Vec<Fault>,
}

impl<'de> Fields<'de> {
    fn set(&mut self, name: Name, value: &'de RawValue) {
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

fn required<'de>(
    name: &'static str,
    raw: Option<&'de RawValue>,
    faults: &mut Vec<Fault>,
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
fn string<'de>(name: &'static str, raw: &'de RawValue, faults: &mut Vec<Fault>) -> Option<Cow<'de, str>> {
    let text = raw.get();
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        faults.push((name.into(), format!("must be a string, not {}", kind(text))));
        return None;
    };
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    match serde_json::from_str::<String>(text) {
        Ok(string) => Some(Cow::Owned(string)),
        Err(_) => {
            faults.push((name.into(), "has an escape that is no character (half a surrogate pair)".into()));
            None
        }
    }
}

fn number(name: &'static str, raw: &RawValue, faults: &mut Vec<Fault>) -> Option<u64> {
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
enum Name {
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

/// So much of an unknown field's name is repeated to its sender.
const MAX_NAME_CHARS: usize = 64;

/// The whole body.
struct Body<'s>(&'s mut Sink);

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, an array of events, or {\"events\": [...]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        Items(self.0).visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Fields::default();
        let mut batch = false;
        let mut other = false;
        while let Some(name) = map.next_key()? {
            if matches!(name, Name::Events) && !batch && !other {
                batch = true;
                map.next_value_seed(Items(self.0))?;
            } else {
                other = true;
                fields.set(name, map.next_value()?);
            }
        }
        if !batch {
            self.0.single = true;
            if let Some(index) = self.0.next() {
                self.0.take(index, fields);
            }
        } else if other {
            // Neither an event nor a list of them; what was meant cannot be guessed.
            return Err(A::Error::custom("`events` cannot stand beside other fields"));
        }
        Ok(())
    }
}

/// A list of events.
struct Items<'s>(&'s mut Sink);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Item(self.0))?.is_some() {}
        Ok(())
    }
}

/// One element of a list, which should be an event.
struct Item<'s>(&'s mut Sink);

impl Item<'_> {
    fn index<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        // The message is not shown: the sink knows why.
        self.0.next().ok_or_else(|| E::custom("too many events"))
    }

    fn not_an_event<E: serde::de::Error>(mut self, what: &str) -> Result<(), E> {
        let index = self.index()?;
        let detail = format!("must be an event, not {what}");
        self.0.errors.push(ItemError { index: Some(index), field: "event".into(), detail });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let index = self.index()?;
        let mut fields = Fields::default();
        while let Some(name) = map.next_key()? {
            fields.set(name, map.next_value()?);
        }
        self.0.take(index, fields);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.not_an_event("an array")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.not_an_event("a string")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.not_an_event("null")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.not_an_event("a boolean")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.not_an_event("a number")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.not_an_event("a number")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.not_an_event("a number")
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::EventRef;

    use super::*;

    const BOUNDS: Bounds = Bounds { max_events: 5, max_payload_depth: 9 };

    fn decoded(body: impl Into<Bytes>) -> Decoded {
        decode(&body.into(), Timestamp::from_micros(0), BOUNDS).unwrap()
    }

    fn errors(body: &str) -> Vec<(Option<usize>, String)> {
        let decoded = decoded(body.to_owned());
        decoded.errors.into_iter().map(|error| (error.index, error.field.into_owned())).collect()
    }

    fn summary<'a>(event: &EventRef<'a>) -> (&'a str, &'a str, &'a str) {
        (event.topic(), event.event_id(), event.payload())
    }

    #[test]
    fn the_three_forms_are_read() {
        let one = r#"{"topic":"t","event_id":"1","payload":{"a": [1, 2]}}"#;
        for (body, count, single) in [
            (one.to_owned(), 1, true),
            (format!(" [{one} , {one}]\n"), 2, false),
            (format!(r#"{{"events":[{one},{one},{one}]}}"#), 3, false),
            ("[]".into(), 0, false),
            (r#"{"events": []}"#.into(), 0, false),
        ] {
            let decoded = decoded(body.clone());
            assert_eq!((decoded.received, decoded.single, decoded.errors), (count, single, vec![]), "{body}");
            assert_eq!(decoded.batch.len(), count);
            assert!(decoded.batch.view().iter().all(|e| summary(&e) == ("t", "1", r#"{"a":[1,2]}"#)));
        }
    }

    #[test]
    fn escapes_are_resolved_in_fields_and_kept_in_payloads() {
        let decoded = decoded(r#"{"topic":"a\u002eb","event_id":"\ud83d\ude00\/\"","payload":"\u0041"}"#);
        let view = decoded.batch.view();
        assert_eq!(summary(&view.event(0)), ("a.b", "\u{1F600}/\"", r#""\u0041""#));
    }

    #[test]
    fn defaults_stand_in_for_what_is_left_out() {
        let decoded = decoded(r#"{"topic":"t","event_id":"1"}"#);
        let event = decoded.batch.view().event(0);
        assert_eq!((event.source(), event.payload(), event.sequence()), ("unknown", "{}", None));
        assert_eq!(event.timestamp(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn every_fault_is_named_with_its_index_and_the_others_are_taken() {
        let body = r#"[{"topic":"t","event_id":"1"}, 7, {"event_id":5,"colour":[],"topic":"a..b"},
                       {"topic":"t","event_id":"2","event_id":"3","sequence":-1}, {"topic":"t","event_id":"4"}]"#;
        let field = |index, name: &str| (Some(index), name.to_owned());
        assert_eq!(
            errors(body),
            [
                field(1, "event"),
                field(2, "colour"),
                field(2, "event_id"),
                field(2, "topic"),
                field(3, "event_id"),
                field(3, "sequence")
            ]
        );
        assert_eq!(decoded(body).batch.len(), 2);
        assert_eq!(errors("{}"), [field(0, "topic"), field(0, "event_id")]);
    }

    #[test]
    fn wrong_types_are_faults_of_their_fields() {
        for (json, field) in [
            (r#"{"topic":1,"event_id":"1"}"#, "topic"),
            (r#"{"topic":"t","event_id":null}"#, "event_id"),
            (r#"{"topic":"t","event_id":"1","timestamp":0}"#, "timestamp"),
            (r#"{"topic":"t","event_id":"1","source":["x"]}"#, "source"),
            (r#"{"topic":"t","event_id":"1","sequence":"7"}"#, "sequence"),
            (r#"{"topic":"t","event_id":"1","sequence":1.0}"#, "sequence"),
            (r#"{"topic":"t","event_id":"\ud800"}"#, "event_id"),
            (r#"{"topic":"t","event_id":"a\u0000b"}"#, "event_id"),
            (r#"{"topic":"t","event_id":"1","payload":[[[[[[[[[[]]]]]]]]]]}"#, "payload"),
        ] {
            assert_eq!(errors(json), [(Some(0), field.to_owned())], "{json}");
        }
        for payload in ["null", "true", "-1.5e3", "\"x\"", "[]", "{}"] {
            assert_eq!(errors(&format!(r#"{{"topic":"t","event_id":"1","payload":{payload}}}"#)), []);
        }
    }

    #[test]
    fn what_is_not_json_as_expected_is_refused_whole() {
        let deep = "[".repeat(100_000);
        for body in [
            "",
            " ",
            "hello",
            "{",
            "[",
            "[{]",
            "7",
            "null",
            "\"x\"",
            "{} {}",
            "[] x",
            r#"{"events":{}}"#,
            r#"{"events":7}"#,
            r#"{"events":[],"topic":"t"}"#,
            r#"{"topic":"t","events":[]}"#,
            r#"{"events":[],"events":[]}"#,
            r#"{"topic":"t","event_id":"1","payload":{]}"#,
            r#"[{"topic":"t" "event_id":"1"}]"#,
            &deep,
        ] {
            let result = decode(&body.to_owned().into(), Timestamp::from_micros(0), BOUNDS);
            assert!(result.is_err() || !result.unwrap().errors.is_empty(), "{body:.40}");
        }
        assert!(
            decode(&Bytes::from_static(b"{\"topic\":\"\xff\"}"), Timestamp::from_micros(0), BOUNDS).is_err()
        );
    }

    #[test]
    fn too_many_events_are_refused_before_they_are_read() {
        let one = r#"{"topic":"t","event_id":"1"}"#;
        assert_eq!(decoded(format!("[{}]", [one; 5].join(","))).received, 5);
        let body = format!("[{}, this is not even JSON", [one; 6].join(","));
        let problem = decode(&body.into(), Timestamp::from_micros(0), BOUNDS).unwrap_err();
        assert!(format!("{problem:?}").contains("--max-batch-events"), "{problem:?}");
    }
}
