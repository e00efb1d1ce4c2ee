//! A span that has ended, as it waits for its export.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime};

use super::context::SpanContext;

/// What happened, when, and to which other spans it belongs. No value in it is a topic, an id or a source of an event, a payload
/// or a key: whoever may look at traces need not be allowed to read events.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) context: SpanContext,
    pub(crate) parent: Option<Parent>,
    pub(crate) kind: Kind,
    pub(crate) name: Cow<'static, str>,
    pub(crate) time: Time,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    pub(crate) links: Links,
    pub(crate) has_failed: bool,
}

/// The span around this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent {
    pub(crate) span: NonZeroU64,
    /// Whether it is a client's.
    pub(crate) is_remote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers a request.
    Server,
    /// Work of this process.
    Internal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Cow<'static, str>),
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// When a span began, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    pub(crate) began: SystemTime,
    pub(crate) took: Duration,
}

/// Takes the time of a span. The clock of the system may be set meanwhile, so the length comes from another one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch {
    began: SystemTime,
    at: Instant,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { began: SystemTime::now(), at: Instant::now() }
    }

    pub(crate) fn stop(self) -> Time {
        Time { began: self.began, took: self.at.elapsed() }
    }

    /// The time of a part that began later and ends now.
    pub(crate) fn part(self, began: Instant) -> Time {
        let later = began.saturating_duration_since(self.at);
        Time { began: self.began + later, took: began.elapsed() }
    }
}

/// Spans of other traces that a span belongs to: each one once, and a bounded number of them.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(crate) to: Vec<SpanContext>,
    /// How many there are beyond that.
    pub(crate) left_out: u32,
}

impl Links {
    /// What OpenTelemetry allows a span by default.
    pub(crate) const MAX: usize = 128;

    pub(crate) fn add(&mut self, context: SpanContext) {
        if self.to.contains(&context) {
            return;
        }
        if self.to.len() < Self::MAX {
            self.to.push(context);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}
