//! Many events that share the buffer they arrived in.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::{
    DEFAULT_PAYLOAD, DEFAULT_PAYLOAD_DEPTH, DEFAULT_SOURCE, EventRef, Hint, LoneSurrogates, Scope, fields,
    payload, stored_row, topic,
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
    /// Those of each of the items.
    attributes: Option<String>,
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
            + self.attributes.as_ref().map_or(0, String::capacity)
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
            attributes: self.attributes.as_deref(),
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

    /// Gives each of the events these attributes: a JSON object without insignificant white space.
    ///
    /// # Errors
    /// When it is something else.
    pub fn set_attributes(&mut self, json: String) -> Result<(), InvalidField> {
        stored_row::check_attributes(&json)?;
        self.attributes = Some(json);
        Ok(())
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
            batch: Batch {
                body,
                rewritten: String::new(),
                items: Vec::new(),
                hints: Vec::new(),
                attributes: None,
            },
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
mod tests;
