//! The newest events of the store in memory, for all readers at the end of the stream.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use aggregator_core::{Page, Progress, StoredEvent, TopicSelector, Topics};
use bytes::Bytes;

use crate::http::problem::Problem;
use crate::read::event_json;

/// The most events that are kept.
const MAX_EVENTS: usize = 16_384;
/// The most bytes that are kept, about.
const MAX_BYTES: usize = 16 << 20;

/// Some events in a row.
pub(super) struct Segment {
    /// The place before the first one.
    pub(super) before: Progress,
    pub(super) events: Vec<SharedEvent>,
    /// The place after all that was looked at.
    pub(super) after: Progress,
    topics: HashSet<String>,
}

/// An event that several readers may show.
pub(super) struct SharedEvent {
    pub(super) event: StoredEvent,
    /// Rendered for the first reader.
    json: OnceLock<Bytes>,
}

impl Segment {
    pub(super) fn of_page(page: Page) -> Self {
        let mut topics = HashSet::new();
        for event in &page.events {
            if !topics.contains(&event.topic) {
                topics.insert(event.topic.clone());
            }
        }
        let shared = |event| SharedEvent { event, json: OnceLock::new() };
        let (before, after) = page.progress();
        Self { before, events: page.events.into_iter().map(shared).collect(), after, topics }
    }

    /// Whether a reader comes any further with it.
    pub(super) fn moves(&self) -> bool {
        self.before != self.after
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str)
    }

    /// Whether it can have events of these topics. False is certain.
    pub(super) fn may_have(&self, topics: &Topics) -> bool {
        topics.selectors().iter().any(|selector| match selector {
            TopicSelector::Exact(topic) => self.topics.contains(topic.as_str()),
            TopicSelector::Below(_) | TopicSelector::All => true,
        })
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(|shared| shared.event.payload.len() + 512).sum()
    }
}

impl SharedEvent {
    /// The event as one line of JSON.
    pub(super) fn json(&self) -> Result<Bytes, Problem> {
        if let Some(json) = self.json.get() {
            return Ok(json.clone());
        }
        let json = Bytes::from(event_json::line(&self.event)?);
        Ok(self.json.get_or_init(|| json).clone())
    }
}

/// Segments without a gap between them, numbered from the start of the process.
#[derive(Default)]
pub(super) struct Ring {
    segments: VecDeque<Arc<Segment>>,
    /// The number of the first segment that is kept.
    first: u64,
    /// The place before it; `None` while nobody follows the stream.
    start: Option<Progress>,
    events: usize,
    bytes: usize,
}

/// What the ring has for a reader.
pub(super) enum Found {
    /// The segment that it goes on with, and its number.
    Segment(u64, Arc<Segment>),
    /// Nothing yet: it is the segment of this number that will come next.
    End(u64),
    /// The ring does not reach back so far, or nobody follows the stream.
    Missing,
}

impl Ring {
    /// Begins to follow the stream with this segment. Numbers go on, so that those of before are missing.
    pub(super) fn begin(&mut self, first: Segment) {
        self.clear();
        self.start = Some(first.before.clone());
        self.push(first);
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        *self = Self { first: self.end() + 1, ..Self::default() };
    }

    /// Lets go of the events, but not of the stream: readers that have not come to its end go on with pages.
    pub(super) fn forget_events(&mut self) {
        if let Some(last) = self.segments.back() {
            self.start = Some(last.after.clone());
            self.first = self.end();
            (self.events, self.bytes) = (0, 0);
            self.segments.clear();
        }
    }

    pub(super) fn is_followed(&self) -> bool {
        self.start.is_some()
    }

    /// The number of the segment to come.
    fn end(&self) -> u64 {
        self.first + self.segments.len() as u64
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.events += segment.events.len();
        self.bytes += segment.bytes();
        self.segments.push_back(Arc::new(segment));
        while self.segments.len() > 1 && (self.events > MAX_EVENTS || self.bytes > MAX_BYTES) {
            let Some(oldest) = self.segments.pop_front() else { break };
            self.first += 1;
            self.events -= oldest.events.len();
            self.bytes -= oldest.bytes();
            self.start = Some(oldest.after.clone());
        }
    }

    /// The place behind the newest segment.
    pub(super) fn last(&self) -> Found {
        self.get(self.end())
    }

    /// Notes that a reader has read everything, or need not.
    pub(super) fn advance_to_end(&self, progress: &mut Progress) {
        if let Some(last) = self.segments.back() {
            progress.advance_to(&last.after);
        }
    }

    /// The segment of this number.
    pub(super) fn get(&self, number: u64) -> Found {
        if self.start.is_none() || number < self.first || number > self.end() {
            return Found::Missing;
        }
        match self.segments.get(usize::try_from(number - self.first).unwrap_or(usize::MAX)) {
            Some(segment) => Found::Segment(number, Arc::clone(segment)),
            None => Found::End(number),
        }
    }

    /// Where a reader that has come so far goes on: the last place in the ring before which it has read everything.
    pub(super) fn join(&self, progress: &Progress) -> Found {
        let Some(start) = &self.start else { return Found::Missing };
        let mut number = self.end();
        for segment in self.segments.iter().rev() {
            if progress.covers(&segment.after) {
                return self.get(number);
            }
            number -= 1;
        }
        if progress.covers(start) { self.get(number) } else { Found::Missing }
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::{DedupStore as _, DedupStoreExt as _, Event, MemoryStore, Query};

    use super::*;

    #[test]
    fn readers_of_events_that_are_forgotten_go_on_with_pages_and_those_at_the_end_wait() {
        let (store, mut query) = (MemoryStore::default(), Query::of(TopicSelector::All));
        query.after = Some(store.end(&query).unwrap());
        let mut next = |store: &MemoryStore| {
            let page = store.read(&query).unwrap();
            query.after = Some(page.next.clone());
            Segment::of_page(page)
        };
        let (mut ring, first) = (Ring::default(), next(&store));
        let start = first.before.clone();
        ring.begin(first);
        for id in ["1", "2"] {
            store.append_one(&Event::new("t", id).unwrap()).unwrap();
            ring.push(next(&store));
        }
        let Found::Segment(behind, _) = ring.join(&start) else { panic!("the ring has it") };
        let Found::End(end) = ring.last() else { panic!("nothing is behind the end") };
        let mut at_end = start.clone();
        ring.advance_to_end(&mut at_end);

        ring.forget_events();
        assert!(ring.is_followed());
        assert!(matches!((ring.get(behind), ring.join(&start)), (Found::Missing, Found::Missing)));
        assert!(matches!(ring.get(end), Found::End(number) if number == end));
        assert!(matches!(ring.join(&at_end), Found::End(number) if number == end));
        store.append_one(&Event::new("t", "3").unwrap()).unwrap();
        ring.push(next(&store));
        let Found::Segment(number, segment) = ring.get(end) else { panic!("the stream goes on") };
        assert_eq!((number, &*segment.events[0].event.event_id), (end, "3"));
    }
}
