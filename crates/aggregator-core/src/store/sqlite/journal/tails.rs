//! The tails of the topics, in memory.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use super::row::Entry;
use super::{Pending, Replayed, Written};
use crate::store::sqlite::catalog::{Catalog, PartitionState, index_of};

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
    max_retained: u64,
}

/// Some 72 bytes, and 16 for each span that there is room for.
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
    /// The row of the journal in which it begins; 0 if the topic's rows in the tables say all there is.
    since: u64,
}

/// The tail of a topic, for the writer.
pub(super) struct Unfolded {
    pub(super) spans: Vec<Span>,
    /// The offset of the topic's last event before them.
    pub(super) folded_through: u64,
}

/// What a snapshot's tables do not say of a topic.
pub(super) struct Missing {
    pub(super) spans: Box<[Span]>,
    /// All of the topic's. They may be of a commit before or behind the snapshot's.
    pub(super) duplicates: u64,
    pub(super) conflicts: u64,
}

/// Which tails a commit has changed.
#[derive(Default)]
pub(super) struct Changed {
    /// Topics that have a tail now, and the row of the journal in which it begins.
    pub(super) begun: Vec<(i64, u64)>,
    /// Topics whose tails have become long.
    pub(super) long: Vec<i64>,
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
        if self.spans.capacity() > 4 * self.spans.len() {
            self.spans.shrink_to(2 * self.spans.len());
        }
    }
}

impl Tails {
    /// Takes over what was read from the file.
    pub(super) fn set(&self, catalog: &Catalog, replayed: Replayed, max_retained: u64) {
        let mut deltas = replayed.deltas.into_iter();
        let tails = catalog.rows().map(|topic| {
            let delta = deltas.next().unwrap_or_default();
            let folded_through =
                if delta.spans.is_empty() { topic.last_offset } else { delta.folded_through };
            Tail {
                spans: delta.spans,
                folded_through,
                dropped_through: folded_through,
                duplicates: topic.duplicates,
                conflicts: topic.conflicts,
                since: delta.since,
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

    pub(super) fn are_known(&self) -> bool {
        self.with(|state| state.is_some())
    }

    fn with<T>(&self, look: impl FnOnce(Option<&State>) -> T) -> T {
        look(self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    fn with_tail<T: Default>(&self, topic_id: i64, look: impl FnOnce(&Tail) -> T) -> T {
        self.with(|state| state?.topics.get(index_of(topic_id)).map(look)).unwrap_or_default()
    }

    /// How many spans were not folded yet.
    pub(super) fn unfolded(&self) -> usize {
        self.with(|state| state.map_or(0, |state| state.unfolded))
    }

    /// How many spans of a topic were not folded yet.
    pub(super) fn unfolded_spans_of(&self, topic_id: i64) -> usize {
        self.with_tail(topic_id, |tail| tail.unfolded().len())
    }

    /// The row of the journal in which a topic's tail begins; 0 if it has none.
    pub(super) fn since(&self, topic_id: i64) -> u64 {
        self.with_tail(topic_id, |tail| tail.since)
    }

    /// A topic's tail, if it has one.
    pub(super) fn unfolded_of(&self, topic_id: i64) -> Option<Unfolded> {
        self.with_tail(topic_id, |tail| {
            let unfolded =
                || Unfolded { spans: tail.unfolded().to_vec(), folded_through: tail.folded_through };
            (tail.since > 0).then(unfolded)
        })
    }

    /// What a snapshot's tables do not say of a topic. They say where its events are up to `folded_through`, and the
    /// snapshot's last event is at `last_offset`.
    ///
    /// `None` if memory is of another commit: it lacks the last one of the snapshot, or has dropped what was folded since.
    pub(super) fn missing(&self, topic_id: i64, folded_through: u64, last_offset: u64) -> Option<Missing> {
        self.with(|state| {
            let state = state?;
            let tail = state.topics.get(index_of(topic_id))?;
            if state.last_offset < last_offset || tail.dropped_through > folded_through {
                return None;
            }
            let from = tail.spans.partition_point(|span| span.last <= folded_through);
            let spans = tail.spans[from..].iter().take_while(|span| span.first <= last_offset);
            let clipped = spans.map(|span| Span { last: span.last.min(last_offset), ..*span });
            let (duplicates, conflicts) = (tail.duplicates, tail.conflicts);
            Some(Missing { spans: clipped.collect(), duplicates, conflicts })
        })
    }

    /// Takes over what was committed. A tail with so many spans is a `long` one.
    pub(super) fn commit(&self, pending: &Pending, partition: &PartitionState, long: usize) -> Changed {
        let mut guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = guard.as_mut() else { return Changed::default() };
        for written in &pending.written {
            state.written(written);
        }
        let mut changed = Changed::default();
        let mut first = pending.before.last_offset + 1;
        for entry in &pending.entries {
            let tail = state.tail(entry.topic_id);
            if tail.since == 0 {
                tail.since = partition.journal_last;
                changed.begun.push((entry.topic_id, tail.since));
            }
            let has_grown = state.take(entry, first);
            first += entry.stored;
            if has_grown && state.tail(entry.topic_id).unfolded().len() == long {
                changed.long.push(entry.topic_id);
            }
        }
        state.last_offset = partition.last_offset;
        state.drop_retained();
        changed
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
        (tail.duplicates, tail.conflicts, tail.since) = (written.duplicates, written.conflicts, 0);
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
        let grown = entry.stored > 0 && tail.extend(Span { first, last: first + entry.stored - 1 });
        self.unfolded += usize::from(grown);
        grown
    }

    fn drop_retained(&mut self) {
        while self.retained_spans as u64 > self.max_retained
            && let Some((topic_id, through, spans)) = self.retained.pop_front()
        {
            self.retained_spans -= spans;
            self.tail(topic_id).drop_through(through);
        }
    }
}
