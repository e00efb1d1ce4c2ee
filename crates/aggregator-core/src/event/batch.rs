//! Many events that share the buffer they arrived in.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::{
    DEFAULT_PAYLOAD, DEFAULT_PAYLOAD_DEPTH, DEFAULT_SOURCE, EventRef, Hint, LoneSurrogates, Scope, fields,
    payload, topic,
};
use crate::{InvalidField, Timestamp, time};

/// Checked events that borrow from the body of the request that brought them. Only text that had to be rewritten is
/// copied: strings with escapes, and payloads with white space.
#[derive(Debug)]
pub struct Batch {
    body: ByteString,
    rewritten: String,
    items: Vec<Item>,
    /// What a store noted about each of the items, or nothing at all.
    hints: Vec<Option<Hint>>,
}

impl Batch {
    /// How many events there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The bytes it keeps alive.
    pub fn bytes(&self) -> usize {
        self.body.len()
            + self.rewritten.capacity()
            + self.items.capacity() * size_of::<Item>()
            + self.hints.capacity() * size_of::<Option<Hint>>()
    }

    /// The event at `index`.
    ///
    /// # Panics
    /// When `index` is not below the batch's length.
    pub fn event(&self, index: usize) -> EventRef<'_> {
        let item = &self.items[index];
        EventRef {
            topic: self.text(item.topic),
            event_id: self.text(item.event_id),
            timestamp: self.text(item.timestamp),
            source: item.source.map_or(DEFAULT_SOURCE, |span| self.text(span)),
            payload: item.payload.map_or(DEFAULT_PAYLOAD, |span| self.text(span)),
            sequence: item.sequence,
            content_type: None,
            attributes: None,
            scope: item.scope,
            hint: self.hints.get(index).copied().flatten(),
        }
    }

    /// Notes what a store found out about each of the events, in their order. Events without a hint have none from now
    /// on; surplus hints are dropped.
    pub fn set_hints(&mut self, mut hints: Vec<Option<Hint>>) {
        hints.truncate(self.items.len());
        self.hints = hints;
    }

    /// The topic of the event at `index`.
    ///
    /// # Panics
    /// When `index` is not below the batch's length.
    pub fn topic(&self, index: usize) -> &str {
        self.text(self.items[index].topic)
    }

    /// The id of the event at `index`.
    ///
    /// # Panics
    /// When `index` is not below the batch's length.
    pub fn event_id(&self, index: usize) -> &str {
        self.text(self.items[index].event_id)
    }

    /// All events, in order.
    pub fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        (0..self.items.len()).map(|index| self.event(index))
    }

    fn text(&self, span: Span) -> &str {
        let buffer: &str = if span.rewritten { &self.rewritten } else { &self.body };
        &buffer[span.start as usize..span.end as usize]
    }
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    rewritten: bool,
}

#[derive(Debug)]
struct Item {
    topic: Span,
    event_id: Span,
    timestamp: Span,
    source: Option<Span>,
    payload: Option<Span>,
    sequence: Option<u64>,
    scope: Scope,
}

/// An event as a publisher wrote it, before it is checked. Strings are unescaped.
#[derive(Debug, Clone, Copy)]
pub struct RawEvent<'a> {
    /// See [`crate::Topic`].
    pub topic: &'a str,
    /// See [`crate::EventId`].
    pub event_id: &'a str,
    /// RFC 3339; the batch's receipt time if it is missing.
    pub timestamp: Option<&'a str>,
    /// See [`crate::Source`]; `unknown` if it is missing.
    pub source: Option<&'a str>,
    /// Any JSON value; `{}` if it is missing.
    pub payload: Option<&'a RawValue>,
    /// The publisher's own counter.
    pub sequence: Option<u64>,
    /// The scope that the topic gets if this is its first event.
    pub scope: Scope,
}

/// Checks events one by one and makes a [`Batch`] of the good ones.
#[derive(Debug)]
pub struct BatchBuilder {
    batch: Batch,
    max_payload_depth: usize,
    lone_surrogates: LoneSurrogates,
    received_at: Timestamp,
    received_at_span: Option<Span>,
}

impl BatchBuilder {
    /// The largest body, in bytes. Positions in the body and in its rewritten text are kept in 32 bits.
    pub const MAX_BODY_BYTES: usize = 1 << 30;

    /// A builder for events that were parsed from `body`. Events that lie elsewhere are copied. Events without a
    /// timestamp get `received_at`.
    ///
    /// # Errors
    /// When `body` is not UTF-8, or longer than [`Self::MAX_BODY_BYTES`].
    pub fn new(body: Bytes, received_at: Timestamp) -> Result<Self, InvalidField> {
        if body.len() > Self::MAX_BODY_BYTES {
            return Err(InvalidField::new("body", format!("is larger than {} bytes", Self::MAX_BODY_BYTES)));
        }
        let body = ByteString::try_from(body).map_err(|error| {
            let position = error.valid_up_to();
            InvalidField::new("body", format!("is not UTF-8: bad byte at position {position}"))
        })?;
        Ok(Self {
            batch: Batch { body, rewritten: String::new(), items: Vec::new(), hints: Vec::new() },
            max_payload_depth: DEFAULT_PAYLOAD_DEPTH,
            lone_surrogates: LoneSurrogates::default(),
            received_at,
            received_at_span: None,
        })
    }

    /// The body, to parse the events from.
    pub fn body(&self) -> ByteString {
        self.batch.body.clone()
    }

    /// With another bound than [`DEFAULT_PAYLOAD_DEPTH`].
    #[must_use]
    pub fn with_max_payload_depth(mut self, levels: usize) -> Self {
        self.max_payload_depth = levels;
        self
    }

    /// With another rule for half a surrogate pair in a payload than the default of [`LoneSurrogates`].
    #[must_use]
    pub fn with_lone_surrogates(mut self, rule: LoneSurrogates) -> Self {
        self.lone_surrogates = rule;
        self
    }

    /// How many events were taken so far.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether none was taken so far.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Says everything that is wrong with an event, and takes nothing.
    ///
    /// # Errors
    /// One entry per bad field.
    pub fn check(&self, raw: &RawEvent<'_>) -> Result<(), Vec<InvalidField>> {
        self.checked_payload(raw).map(drop)
    }

    /// Takes an event, or says everything that is wrong with it and takes nothing.
    ///
    /// # Errors
    /// One entry per bad field.
    pub fn push(&mut self, raw: &RawEvent<'_>) -> Result<(), Vec<InvalidField>> {
        let payload = self.checked_payload(raw)?;
        if self.batch.items.is_empty() {
            self.batch.items.reserve(self.expected(raw));
        }
        let item = Item {
            topic: self.span(raw.topic),
            event_id: self.span(raw.event_id),
            timestamp: match raw.timestamp {
                Some(timestamp) => self.span(timestamp),
                None => self.received_at(),
            },
            source: raw.source.map(|source| self.span(source)),
            payload: payload.map(|payload| self.span(&payload)),
            sequence: raw.sequence,
            scope: raw.scope,
        };
        self.batch.items.push(item);
        Ok(())
    }

    /// Estimates how many events the body has, as if all were as long as the first one. The estimate has a limit, so
    /// that not too much room is reserved.
    fn expected(&self, first: &RawEvent<'_>) -> usize {
        /// What the names of the fields take, at least.
        const NAMES: usize = 25;
        const MOST: usize = 1024;
        let payload = first.payload.map_or(0, |json| json.get().len());
        let timestamp = first.timestamp.map_or(0, str::len);
        let source = first.source.map_or(0, str::len);
        let length = NAMES + first.topic.len() + first.event_id.len() + timestamp + source + payload;
        (self.batch.body.len() / length).min(MOST)
    }

    /// Checks an event and compacts its payload on the way.
    fn checked_payload<'a>(&self, raw: &RawEvent<'a>) -> Result<Option<Cow<'a, str>>, Vec<InvalidField>> {
        let mut faults = Vec::new();
        faults.extend(topic::check(raw.topic).err());
        faults.extend(fields::check_event_id(raw.event_id).err());
        faults.extend(raw.timestamp.and_then(|timestamp| time::check_rfc3339(timestamp).err()));
        faults.extend(raw.source.and_then(|source| fields::check_source(source).err()));
        if raw.sequence.is_some_and(|sequence| i64::try_from(sequence).is_err()) {
            faults.push(InvalidField::new("sequence", format!("must be at most {}", i64::MAX)));
        }
        if self.batch.rewritten.len() > Self::MAX_BODY_BYTES {
            let reason = format!("rewrites to more than {} bytes", Self::MAX_BODY_BYTES);
            faults.push(InvalidField::new("body", reason));
        }
        let compact =
            |json: &'a RawValue| payload::compact(json.get(), self.max_payload_depth, self.lone_surrogates);
        match raw.payload.map(compact).transpose() {
            Ok(payload) if faults.is_empty() => Ok(payload),
            Ok(_) => Err(faults),
            Err(fault) => {
                faults.push(fault);
                Err(faults)
            }
        }
    }

    /// The batch of what was taken.
    pub fn finish(self) -> Batch {
        self.batch
    }

    fn received_at(&mut self) -> Span {
        if let Some(span) = self.received_at_span {
            return span;
        }
        let span = self.span(&self.received_at.to_string());
        self.received_at_span = Some(span);
        span
    }

    /// Where `text` lies in the body; if it lies elsewhere, it is copied first.
    fn span(&mut self, text: &str) -> Span {
        let body = self.batch.body.as_ptr().addr();
        let at = text.as_ptr().addr().wrapping_sub(body);
        if at.checked_add(text.len()).is_some_and(|end| end <= self.batch.body.len()) {
            return Self::bounded(at, text.len(), false);
        }
        let at = self.batch.rewritten.len();
        self.batch.rewritten.push_str(text);
        Self::bounded(at, text.len(), true)
    }

    fn bounded(at: usize, len: usize, rewritten: bool) -> Span {
        let narrow = |position: usize| {
            u32::try_from(position).expect("a body has at most 1 GiB, and so has the text it grows by")
        };
        Span { start: narrow(at), end: narrow(at + len), rewritten }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw<'a>(topic: &'a str, event_id: &'a str) -> RawEvent<'a> {
        RawEvent {
            topic,
            event_id,
            timestamp: None,
            source: None,
            payload: None,
            sequence: None,
            scope: Scope::Topic,
        }
    }

    #[test]
    fn events_come_back_as_they_were_whether_borrowed_or_copied() {
        let body = Bytes::from_static(br#"orders e-1 {"a": 1} {"b":2}"#);
        let text = std::str::from_utf8(&body).unwrap();
        let json = |from, to| serde_json::from_str::<&RawValue>(&text[from..to]).unwrap();
        let mut builder = BatchBuilder::new(body.clone(), Timestamp::from_micros(1)).unwrap();
        builder.push(&RawEvent { payload: Some(json(11, 19)), ..raw(&text[..6], &text[7..10]) }).unwrap();
        builder.push(&RawEvent { payload: Some(json(20, 27)), ..raw("elsewhere", "ä") }).unwrap();
        builder.push(&RawEvent { source: Some("me"), sequence: Some(7), ..raw("x", "y") }).unwrap();
        let batch = builder.finish();
        let events: Vec<_> = batch.iter().collect();
        assert_eq!(
            (events[0].topic(), events[0].event_id(), events[0].payload()),
            ("orders", "e-1", r#"{"a":1}"#)
        );
        assert_eq!(
            (events[1].topic(), events[1].event_id(), events[1].payload()),
            ("elsewhere", "ä", r#"{"b":2}"#)
        );
        assert_eq!((events[2].source(), events[2].sequence(), events[2].payload()), ("me", Some(7), "{}"));
        assert_eq!(events[0].timestamp(), "1970-01-01T00:00:00.000001Z");
        assert_eq!(events[0].source(), "unknown");
    }

    #[test]
    fn every_bad_field_is_named_and_nothing_is_taken() {
        let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::now()).unwrap();
        let bad = RawEvent {
            timestamp: Some("yesterday"),
            source: Some("a\tb"),
            sequence: Some(u64::MAX),
            ..raw("a..b", "")
        };
        let faults = builder.push(&bad).unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["topic", "event_id", "timestamp", "source", "sequence"]);
        assert_eq!(builder.check(&bad), Err(faults));
        assert_eq!(builder.check(&raw("a.b", "1")), Ok(()));
        assert!(builder.is_empty());
    }

    #[test]
    fn a_batch_says_what_it_holds() {
        let body = "orders e-1";
        let mut builder =
            BatchBuilder::new(Bytes::from_static(body.as_bytes()), Timestamp::from_micros(1)).unwrap();
        assert_eq!(builder.body(), body);
        for (at, (topic, id)) in [("a", "1"), ("b", "2"), ("c", "3")].into_iter().enumerate() {
            assert_eq!((builder.len(), builder.is_empty()), (at, at == 0));
            builder.push(&raw(topic, id)).unwrap();
        }
        let mut batch = builder.finish();
        assert_eq!((batch.len(), batch.is_empty()), (3, false));
        assert_eq!((batch.topic(1), batch.event_id(2)), ("b", "3"));
        let bytes = body.len() + batch.rewritten.capacity() + batch.items.capacity() * size_of::<Item>();
        assert_eq!(batch.bytes(), bytes);
        batch.set_hints(vec![None; 3]);
        assert_eq!(batch.bytes(), bytes + 3 * size_of::<Option<Hint>>());
    }

    #[test]
    fn room_is_made_for_as_many_events_as_the_first_one_lets_expect() {
        let builder = BatchBuilder::new(Bytes::from(vec![b' '; 10_000]), Timestamp::from_micros(1)).unwrap();
        let payload = serde_json::from_str::<&RawValue>(r#"{"total":12}"#).unwrap();
        let first = RawEvent {
            timestamp: Some("2026-01-31T12:00:00Z"),
            source: Some("shop"),
            payload: Some(payload),
            ..raw("orders", "o-1")
        };
        assert_eq!(builder.expected(&first), 10_000 / (25 + 6 + 3 + 20 + 4 + 12));
    }
}
