//! A page, and the cursors behind its events.

use std::iter::FusedIterator;
use std::slice;

use super::{Progress, StoredEvent};
use crate::Cursor;
use crate::cursor::Position;
use crate::event::SLOTS;

/// Some events in a row, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// At most [`Query::limit`](super::Query::limit) events. Several partitions are merged by (`processed_at`, partition,
    /// offset).
    pub events: Vec<StoredEvent>,
    /// What to put into [`Query::after`](super::Query::after) for the next page.
    pub next: Cursor,
    /// Whether there was nothing more when the page was read. A page that is not caught up can still
    /// be empty: go on.
    pub caught_up: bool,
    /// Where it begins, with the fingerprints of the anchors.
    start: Vec<Position>,
    /// Where it ends: the positions of `next`, in the same way.
    end: Vec<Position>,
    /// See [`Self::of_shards`]. A store that is not made of shards has at most as many partitions as there are slots.
    partitions_per_shard: u16,
}

impl Page {
    /// For backends; [`crate::store::backend::merge`] makes one as well. `from_to` is where the page begins in every
    /// partition, as [`check_positions`](crate::store::backend::check_positions) left it, and where it ends.
    pub fn new(
        from_to: (Vec<Position>, Vec<Position>),
        events: Vec<StoredEvent>,
        next: Cursor,
        caught_up: bool,
    ) -> Self {
        let (start, end) = from_to;
        Self { events, next, caught_up, start, end, partitions_per_shard: SLOTS }
    }

    /// For a store of shards with so many partitions each. Every shard makes the anchors of its events with its own numbers of
    /// partitions, and so have the cursors of this page to be made.
    pub(crate) fn of_shards(self, partitions_per_shard: u16) -> Self {
        Self { partitions_per_shard: partitions_per_shard.min(self.partitions_per_shard), ..self }
    }

    /// Takes it apart: its events, where it begins and ends, and [`Self::of_shards`].
    pub(crate) fn into_parts(self) -> (Vec<StoredEvent>, Vec<Position>, Vec<Position>, u16) {
        (self.events, self.start, self.end, self.partitions_per_shard)
    }

    /// The cursor before the first event. It knows of all removals that the reader was told of.
    pub fn start(&self) -> Cursor {
        self.cursors().cursor
    }

    /// How far its reader has come before the first event, and behind everything that was looked at.
    pub fn progress(&self) -> (Progress, Progress) {
        let progress = |positions| Progress::new(positions, self.partitions_per_shard);
        (progress(&self.start), progress(&self.end))
    }

    /// Behind the newest row of every partition, as of the page's snapshot.
    pub(crate) fn newest(&self) -> Vec<Position> {
        let mut positions = self.start.clone();
        positions.iter_mut().for_each(|position| position.move_to(position.newest));
        positions
    }

    /// A cursor for each event, in their order: "everything up to and with this event is read". [`Self::next`] lies
    /// where the last one does, or further on, behind what the filters left out.
    pub fn cursors(&self) -> Cursors<'_> {
        let mut cursor = self.next.clone();
        cursor.put_to(&self.start);
        Cursors {
            events: self.events.iter(),
            positions: self.start.clone(),
            cursor,
            partitions_per_shard: self.partitions_per_shard,
        }
    }

    /// The cursor after the event at this index; `None` if the page has no such event. For many events,
    /// [`Self::cursors`] costs less.
    pub fn cursor_after(&self, index: usize) -> Option<Cursor> {
        self.cursors().nth(index)
    }
}

/// See [`Page::cursors`].
#[derive(Debug, Clone)]
pub struct Cursors<'p> {
    events: slice::Iter<'p, StoredEvent>,
    positions: Vec<Position>,
    cursor: Cursor,
    partitions_per_shard: u16,
}

impl Cursors<'_> {
    fn advance(&mut self) -> Option<()> {
        let event = self.events.next()?;
        let index = self.positions.binary_search_by_key(&event.partition, |position| position.partition);
        let index = index.expect("a page has events of the partitions that its query is about");
        let before = self.positions[index];
        self.positions[index].move_to(event.anchor_in_shard(self.partitions_per_shard));
        self.cursor.go_on(index, before, self.positions[index]);
        Some(())
    }
}

impl Iterator for Cursors<'_> {
    type Item = Cursor;

    fn next(&mut self) -> Option<Cursor> {
        self.advance()?;
        Some(self.cursor.clone())
    }

    fn nth(&mut self, n: usize) -> Option<Cursor> {
        for _ in 0..n {
            self.advance()?;
        }
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.events.size_hint()
    }
}

impl ExactSizeIterator for Cursors<'_> {}

impl FusedIterator for Cursors<'_> {}
