//! One reader: takes its events in order, from the ring or from pages, and knows how far it has come.

use std::sync::Arc;

use aggregator_core::{Cursor, Progress, Query, StoreError};

use super::Place;
use super::pages::{HeldPage, PAGE_EVENTS};
use super::ring::{Found, Segment, SharedEvent};
use crate::app::App;
use crate::fair::Flow;
use crate::read_pool::ReadError;

/// A reader of the stream that can wait at its end.
pub(super) struct Reader {
    app: Arc<App>,
    place: Place,
    flow: Flow,
    /// What it reads. Before the first page, `after` is where it begins.
    query: Query,
    /// How far it has come; `None` before a page that tells.
    progress: Option<Progress>,
    source: Source,
}

/// Where the next events come from.
enum Source {
    /// To be found: in the ring, if it reaches back so far, or else in a page.
    Unknown,
    /// A page, from this event on.
    Page(HeldPage, usize),
    /// The segment of this number in the ring, from this event on. It is not held: the ring may let go of it.
    Ring(u64, usize),
    /// The segment of this number, which was still to come when the reader looked.
    End(u64),
}

/// Is given an event, and the cursor after it. Says whether it takes another one.
pub(super) type Each<'e> = dyn FnMut(&SharedEvent, &dyn Fn() -> Cursor) -> bool + Send + 'e;

/// What a reader has next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Some events, which were handed out.
    Events,
    /// None, although there may be some behind what was looked at: ask again.
    Looked,
    /// The reader has read everything.
    CaughtUp,
    /// Retention removed events that the reader had not read. It stands behind them now.
    Gap,
}

impl Reader {
    pub(super) fn new(app: Arc<App>, place: Place, flow: Flow, mut query: Query) -> Self {
        query.limit = PAGE_EVENTS;
        Self { app, place, flow, query, progress: None, source: Source::Unknown }
    }

    /// Where the reader stands; `None` if it is the start and no page was read yet.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        match &self.progress {
            Some(progress) => Some(progress.cursor(&self.query, self.app.store.info())),
            None => self.query.after.clone(),
        }
    }

    pub(super) fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// Hands out events, until `each` has enough or there is nothing in memory.
    pub(super) async fn step(&mut self, each: &mut Each<'_>) -> Result<Step, ReadError> {
        if let Source::Page(..) = self.source
            && let Source::Page(page, from) = std::mem::replace(&mut self.source, Source::Unknown)
        {
            let (step, stopped) = self.walk(page.segment(), from, each);
            if let Some(next) = stopped {
                self.source = Source::Page(page, next);
            }
            return Ok(step);
        }
        let from = if let Source::Ring(_, from) = self.source { from } else { 0 };
        match self.look_into_ring() {
            Found::Segment(number, segment) => {
                let (step, stopped) = self.walk(&segment, from, each);
                self.source = match stopped {
                    Some(next) => Source::Ring(number, next),
                    None => Source::Ring(number + 1, 0),
                };
                Ok(step)
            }
            Found::End(number) => {
                self.source = Source::End(number);
                Ok(Step::CaughtUp)
            }
            Found::Missing => {
                self.source = Source::Unknown;
                // In a box: a reader that waits must not hold what only a read needs.
                Box::pin(self.read_page()).await
            }
        }
    }

    /// What the ring has for this reader.
    fn look_into_ring(&mut self) -> Found {
        let Some(progress) = &mut self.progress else { return Found::Missing };
        let ring = self.app.tails.ring();
        let found = match self.source {
            // Nothing came for this reader, whatever came for others: it need not look through that.
            Source::End(_) if !self.place.is_woken() => ring.last(),
            Source::End(number) | Source::Ring(number, _) => ring.get(number),
            Source::Unknown | Source::Page(..) => ring.join(progress),
        };
        if let Found::End(_) = found {
            // Events are announced under the lock of the ring, so from here on no wake-up is lost.
            self.place.forget_wakeups();
            ring.advance_to_end(progress);
        }
        found
    }

    async fn read_page(&mut self) -> Result<Step, ReadError> {
        self.query.after = self.cursor();
        let page = match self.app.tails.pages.read(&self.app, self.flow, &self.query).await {
            Err(ReadError::Store(StoreError::Expired { oldest })) => {
                (self.query.after, self.progress) = (Some(oldest), None);
                return Ok(Step::Gap);
            }
            page => page?,
        };
        let segment = page.segment();
        if segment.events.is_empty() {
            self.progress = Some(segment.after.clone());
            // Before the ring is there, the end of the stream is where the store ends.
            let waits = page.caught_up() && !self.app.tails.ring().is_followed();
            return Ok(if waits { Step::CaughtUp } else { Step::Looked });
        }
        self.progress = Some(segment.before.clone());
        self.source = Source::Page(page, 0);
        Ok(Step::Looked)
    }

    /// Hands out the events of a segment that the reader has not read yet. Returns where `each` had enough, `None` if the
    /// reader is through.
    fn walk(&mut self, segment: &Segment, from: usize, each: &mut Each<'_>) -> (Step, Option<usize>) {
        let (query, store) = (&self.query, self.app.store.info());
        let Some(progress) = &mut self.progress else { return (Step::Looked, None) };
        let mut step = Step::Looked;
        // Most segments have nothing for a reader of a few topics.
        let skipped = !segment.may_have(&query.topics);
        let events = if skipped { &[] } else { segment.events.get(from..).unwrap_or_default() };
        for (index, shared) in (from..).zip(events) {
            let event = &shared.event;
            if progress.is_past(event)
                || !query.topics.matches(&event.topic)
                || !query.admits(&event.event_id, &event.source, event.processed_at)
            {
                continue;
            }
            progress.advance(event);
            step = Step::Events;
            if !each(shared, &|| progress.cursor(query, store)) {
                return (step, Some(index + 1));
            }
        }
        progress.advance_to(&segment.after);
        (step, None)
    }
}
