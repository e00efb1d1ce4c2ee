//! The tails of the topics, in memory.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use super::row::Entry;
use super::{Pending, Replayed, Written};
use crate::store::sqlite::catalog::{Catalog, index_of};

/// Neighbouring offsets that all have events of one topic: from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    pub(crate) fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// The tails as of the last commit, for the writer and for readers. `None` if the topics could not be read yet.
#[derive(Default)]
pub(crate) struct Tails(RwLock<Option<State>>);

struct State {
    /// That of the last event.
    last_offset: u64,
    /// In the order of the topics' ids.
    topics: Vec<Tail>,
    /// How many spans were not folded yet.
    unfolded: usize,
    /// Topics with spans that were folded and are still here, the longest ago first: up to which offset, and how many.
    retained: VecDeque<(i64, u64, usize)>,
    retained_spans: usize,
    max_retained: usize,
}

/// Some 64 bytes, and 16 for each span.
#[derive(Default)]
struct Tail {
    /// Ascending. The first ones may be folded already.
    spans: Vec<Span>,
    /// The events up to this offset are in the tables.
    folded_through: u64,
    /// No span up to this offset is here.
    dropped_through: u64,
    /// All of the topic's, not only those since it was folded.
    duplicates: u64,
    conflicts: u64,
    /// Whether they are others than those in the table.
    has_repeats: bool,
}

/// What memory knows of a topic beyond what a snapshot's tables say.
pub(crate) struct Behind {
    pub(crate) spans: Box<[Span]>,
    /// As of the last commit, which may be later than the snapshot.
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

impl Tail {
    fn unfolded(&self) -> &[Span] {
        let folded = self.spans.partition_point(|span| span.last <= self.folded_through);
        &self.spans[folded..]
    }

    /// Returns whether this made one span more.
    fn extend(&mut self, span: Span) -> bool {
        match self.spans.last_mut() {
            Some(before) if before.last + 1 == span.first && before.last > self.folded_through => {
                before.last = span.last;
                false
            }
            _ => {
                self.spans.push(span);
                true
            }
        }
    }

    fn drop_through(&mut self, offset: u64) {
        let dropped = self.spans.partition_point(|span| span.last <= offset);
        self.spans.drain(..dropped);
        self.dropped_through = self.dropped_through.max(offset);
        // A topic that was busy once need not keep its memory.
        if self.spans.is_empty() {
            self.spans = Vec::new();
        }
    }
}

impl Tails {
    /// Takes over what was read from the file.
    pub(crate) fn set(&self, catalog: &Catalog, replayed: Replayed, max_retained: usize) {
        let mut deltas = replayed.deltas.into_iter();
        let tails = catalog.rows().map(|topic| {
            let delta = deltas.next().unwrap_or_default();
            let folded_through =
                if delta.spans.is_empty() { topic.last_offset } else { delta.folded_through };
            Tail {
                has_repeats: delta.duplicates > 0,
                spans: delta.spans,
                folded_through,
                dropped_through: folded_through,
                duplicates: topic.duplicates,
                conflicts: topic.conflicts,
            }
        });
        let topics: Vec<_> = tails.collect();
        let state = State {
            last_offset: catalog.partition.last_offset,
            unfolded: topics.iter().map(|tail| tail.spans.len()).sum(),
            topics,
            retained: VecDeque::new(),
            retained_spans: 0,
            max_retained,
        };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    pub(crate) fn are_known(&self) -> bool {
        self.with(|state| state.is_some())
    }

    fn with<T>(&self, look: impl FnOnce(Option<&State>) -> T) -> T {
        look(self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    /// How many spans were not folded yet.
    pub(crate) fn unfolded(&self) -> usize {
        self.with(|state| state.map_or(0, |state| state.unfolded))
    }

    /// What was not folded of a topic; `None` if its rows in the tables say all.
    pub(crate) fn unfolded_of(&self, topic_id: i64) -> Option<Vec<Span>> {
        self.with(|state| {
            let tail = state?.topics.get(index_of(topic_id))?;
            let spans = tail.unfolded();
            (tail.has_repeats || !spans.is_empty()).then(|| spans.to_vec())
        })
    }

    /// Up to which offset the rows of a topic in the tables say where its events are.
    pub(crate) fn folded_through(&self, topic_id: i64) -> u64 {
        let tail = |state: &State| state.topics.get(index_of(topic_id)).map(|tail| tail.folded_through);
        self.with(|state| state.and_then(tail).unwrap_or(0))
    }

    /// What a snapshot's tables do not say of a topic. They say where its events are up to `folded_through`, and the
    /// snapshot's last event is at `last_offset`.
    ///
    /// `None` if memory is of another commit: it lacks the last one of the snapshot, or has dropped what was folded since.
    pub(crate) fn behind(&self, topic_id: i64, folded_through: u64, last_offset: u64) -> Option<Behind> {
        self.with(|state| {
            let state = state?;
            let tail = state.topics.get(index_of(topic_id))?;
            if state.last_offset < last_offset || tail.dropped_through > folded_through {
                return None;
            }
            let from = tail.spans.partition_point(|span| span.last <= folded_through);
            let spans = tail.spans[from..].iter().take_while(|span| span.first <= last_offset);
            let clipped = spans.map(|span| Span { last: span.last.min(last_offset), ..*span });
            Some(Behind { spans: clipped.collect(), duplicates: tail.duplicates, conflicts: tail.conflicts })
        })
    }

    /// Takes over what was committed. Returns the topics whose tails have become `long`.
    pub(super) fn committed(&self, pending: &Pending, last_offset: u64, long: usize) -> Vec<i64> {
        let mut guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = guard.as_mut() else { return Vec::new() };
        for written in &pending.written {
            state.written(written);
        }
        let mut grown = Vec::new();
        let mut first = pending.before.last_offset + 1;
        for entry in &pending.entries {
            let has_grown = state.take(entry, first);
            first += entry.stored;
            if has_grown && state.topics[index_of(entry.topic_id)].unfolded().len() == long {
                grown.push(entry.topic_id);
            }
        }
        state.last_offset = last_offset;
        state.drop_retained();
        grown
    }
}

impl State {
    fn tail(&mut self, topic_id: i64) -> &mut Tail {
        let index = index_of(topic_id);
        if self.topics.len() <= index {
            self.topics.resize_with(index + 1, Tail::default);
        }
        &mut self.topics[index]
    }

    fn written(&mut self, written: &Written) {
        let tail = self.tail(written.topic_id);
        let folded = tail.unfolded().len();
        tail.folded_through = written.last_offset;
        (tail.duplicates, tail.conflicts, tail.has_repeats) = (written.duplicates, written.conflicts, false);
        if folded > 0 {
            self.unfolded -= folded;
            self.retained_spans += folded;
            self.retained.push_back((written.topic_id, written.last_offset, folded));
        }
    }

    /// Returns whether there is one span more. The first event of the entry is at `first`.
    fn take(&mut self, entry: &Entry, first: u64) -> bool {
        let tail = self.tail(entry.topic_id);
        tail.duplicates += entry.duplicates;
        tail.conflicts += entry.conflicts;
        tail.has_repeats |= entry.duplicates > 0;
        let grown = entry.stored > 0 && tail.extend(Span { first, last: first + entry.stored - 1 });
        self.unfolded += usize::from(grown);
        grown
    }

    fn drop_retained(&mut self) {
        while self.retained_spans > self.max_retained
            && let Some((topic_id, through, spans)) = self.retained.pop_front()
        {
            self.retained_spans -= spans;
            self.tail(topic_id).drop_through(through);
        }
    }
}
