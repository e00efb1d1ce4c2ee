//! Decodes the body of a publish request into a checked batch, in one pass that borrows from the body.
//!
//! Fields are captured as raw JSON first and checked afterwards. So a wrong type is a fault of one event, with the name of
//! the field, and does not end the whole body.

mod fields;

use std::fmt;

use aggregator_core::event::RawEvent;
use aggregator_core::{Batch, BatchBuilder, LoneSurrogates, Scope, Timestamp};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::fields::{Fields, MAX_FAULTS, Name, number, required, string};
use crate::auth::Principal;
use crate::http::problem::{ItemError, Problem};

/// The limits of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeLimits {
    pub(crate) max_events: usize,
    pub(crate) max_payload_depth: usize,
    pub(crate) lone_surrogates: LoneSurrogates,
}

/// What a body held.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The good events.
    pub(crate) batch: Batch,
    /// What is wrong with the other items, by ascending index.
    pub(crate) errors: Vec<ItemError>,
    /// The items among them whose topics the publisher may not publish, ascending. Each has one error.
    pub(crate) forbidden: Vec<usize>,
    /// All items, good and bad.
    pub(crate) received: usize,
    /// Whether the body was one event, and not a list of one.
    pub(crate) single: bool,
}

/// Reads one event, an array of events, or `{"events":[…]}`.
pub(crate) fn decode(
    body: &Bytes,
    received_at: Timestamp,
    limits: DecodeLimits,
    publisher: &Principal,
) -> Result<Decoded, Problem> {
    let builder = BatchBuilder::new(body.clone(), received_at)
        .map_err(|error| Problem::malformed(format!("the body {}", error.reason)))?
        .with_max_payload_depth(limits.max_payload_depth)
        .with_lone_surrogates(limits.lone_surrogates);
    let text = builder.body();
    if text.trim_ascii().is_empty() {
        return Err(Problem::malformed(
            r#"the body is empty: send an event, an array of events, or {"events":[…]}"#,
        ));
    }
    let mut collector = ItemCollector {
        builder,
        publisher,
        errors: Vec::new(),
        forbidden: Vec::new(),
        received: 0,
        limits,
        too_many: false,
        single: false,
    };
    let mut json = serde_json::Deserializer::from_str(&text);
    let result = Body(&mut collector).deserialize(&mut json);
    if collector.too_many {
        return Err(Problem::too_large(format!(
            "the request has more than {} events (--max-batch-events): send them in several",
            limits.max_events
        )));
    }
    result.map_err(|error| Problem::malformed_json("the body is JSON, but not as expected", &error))?;
    json.end().map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::malformed(format!(
            "the body has more behind its first JSON value, at line {line} column {column}: send several events as \
             an array"
        ))
    })?;
    Ok(Decoded {
        batch: collector.builder.finish(),
        errors: collector.errors,
        forbidden: collector.forbidden,
        received: collector.received,
        single: collector.single,
    })
}

/// Collects the items one by one.
struct ItemCollector<'p> {
    builder: BatchBuilder,
    publisher: &'p Principal,
    errors: Vec<ItemError>,
    forbidden: Vec<usize>,
    received: usize,
    limits: DecodeLimits,
    too_many: bool,
    single: bool,
}

impl ItemCollector<'_> {
    /// Counts an item; its index, or `None` if it is one too many.
    fn next(&mut self) -> Option<usize> {
        if self.received == self.limits.max_events {
            self.too_many = true;
            return None;
        }
        self.received += 1;
        Some(self.received - 1)
    }

    /// Nothing else is said of an item whose topic the publisher may not publish.
    fn forbid(&mut self, index: usize, topic: &str) {
        const SHOWN_CHARS: usize = 255;
        let shown: String = topic.chars().take(SHOWN_CHARS).collect();
        let detail = format!("needs the scope publish:{shown}");
        self.errors.push(ItemError { index: Some(index), field: "topic".into(), detail });
        self.forbidden.push(index);
    }

    fn take(&mut self, index: usize, fields: Fields<'_>) {
        let mut faults = fields.faults;
        let topic = required("topic", fields.topic, &mut faults);
        if let Some(topic) = topic.as_deref()
            && !self.publisher.may_publish(topic)
        {
            return self.forbid(index, topic);
        }
        let event_id = required("event_id", fields.event_id, &mut faults);
        let timestamp = fields.timestamp.and_then(|raw| string("timestamp", raw, &mut faults));
        let source = fields.source.and_then(|raw| string("source", raw, &mut faults));
        let sequence = fields.sequence.and_then(|raw| number("sequence", raw, &mut faults));
        let event = RawEvent {
            // A valid value stands in for a missing field, so that the other fields are still checked.
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

/// The whole body.
struct Body<'s, 'p>(&'s mut ItemCollector<'p>);

impl<'de> DeserializeSeed<'de> for Body<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_, '_> {
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
struct Items<'s, 'p>(&'s mut ItemCollector<'p>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
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
struct Item<'s, 'p>(&'s mut ItemCollector<'p>);

impl Item<'_, '_> {
    fn index<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        // The message is not shown: the collector knows why.
        self.0.next().ok_or_else(|| E::custom("too many events"))
    }

    fn not_an_event<E: serde::de::Error>(mut self, what: &str) -> Result<(), E> {
        let index = self.index()?;
        let detail = format!("must be an event, not {what}");
        self.0.errors.push(ItemError { index: Some(index), field: "event".into(), detail });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_, '_> {
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
mod tests;
