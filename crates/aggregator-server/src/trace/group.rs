//! The spans of a commit group and of its commits.

use std::sync::Arc;
use std::time::Instant;

use aggregator_core::StoreError;

use super::context::SpanContext;
use super::span::{Kind, Links, Parent, Span, Stopwatch};
use super::{RequestSpan, Tracer};

/// Spans of calls of the store in one group.
const MAX_COMMIT_SPANS: usize = 32;

/// The span of a commit group with events of sampled requests. It has a trace of its own, because it serves many others.
#[derive(Debug)]
pub(crate) struct GroupSpan {
    tracer: Arc<Tracer>,
    context: SpanContext,
    clock: Stopwatch,
    requests: Links,
    /// Calls of the store.
    commits: usize,
}

impl GroupSpan {
    /// Begins the span of a group that serves the requests of these spans. `None` if there are none.
    pub(crate) fn begin<'s>(mut served: impl Iterator<Item = &'s Arc<RequestSpan>>) -> Option<Self> {
        let first = served.next()?;
        let mut group = Self {
            tracer: Arc::clone(&first.tracer),
            context: SpanContext::root(),
            clock: Stopwatch::start(),
            requests: Links::default(),
            commits: 0,
        };
        for request in std::iter::once(first).chain(served) {
            request.served_by(group.context);
            group.requests.add(request.context);
        }
        Some(group)
    }

    /// Notes a call of the store that has ended now. A group whose events are tried one by one has many of them: the first ones
    /// get a span, the others are counted.
    pub(crate) fn committed(
        &mut self,
        began: Instant,
        store: &'static str,
        events: usize,
        failure: Option<&StoreError>,
    ) {
        self.commits += 1;
        if self.commits > MAX_COMMIT_SPANS {
            return;
        }
        let mut attributes = vec![("aggregator.store", store.into()), ("aggregator.events", events.into())];
        // Without its words: they can name topics.
        attributes.extend(failure.map(|error| ("error.type", kind(error).into())));
        self.tracer.export(Span {
            context: self.context.child(),
            parent: Some(Parent { span: self.context.span, is_remote: false }),
            kind: Kind::Internal,
            name: "commit".into(),
            time: self.clock.part(began),
            attributes,
            links: Links::default(),
            has_failed: failure.is_some(),
        });
    }

    /// Ends it. `requests` and `events` count all of the group, sampled or not.
    pub(crate) fn end(self, requests: usize, events: usize) {
        self.tracer.export(Span {
            context: self.context,
            parent: None,
            kind: Kind::Internal,
            name: "commit group".into(),
            time: self.clock.stop(),
            attributes: vec![
                ("aggregator.requests", requests.into()),
                ("aggregator.events", events.into()),
                ("aggregator.commits", self.commits.into()),
            ],
            links: self.requests,
            has_failed: false,
        });
    }
}

fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::NoSpace { .. } => "no-space",
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::Invalid(_) => "invalid",
        StoreError::Poisoned { .. } => "failed",
        _ => "_OTHER",
    }
}
