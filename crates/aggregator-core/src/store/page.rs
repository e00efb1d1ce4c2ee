//! Makes one page of what several partitions hold.

use crate::cursor::{Anchor, Cursor, Fingerprint, Position};
use crate::event::SLOTS;
use crate::query::{Order, Page, Query, StoredEvent};
use crate::store::StoreInfo;
use crate::{Partition, StoreError, Timestamp, WrongCursor};

/// What a page is made of: a [`StoredEvent`], or what a backend knows of one before it fetches it.
pub trait Entry {
    /// The key by which partitions are merged: `processed_at`, partition, offset.
    fn place(&self) -> (Timestamp, Partition, u64);

    /// The length of its payload.
    fn payload_bytes(&self) -> usize;

    /// Its row, as cursors keep it.
    fn anchor(&self) -> Anchor;
}

impl Entry for StoredEvent {
    fn place(&self) -> (Timestamp, Partition, u64) {
        (self.processed_at, self.partition, self.offset)
    }

    fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    fn anchor(&self) -> Anchor {
        self.anchor_in_shard(SLOTS)
    }
}

/// What a partition holds, as of the page's snapshot. The default is that of an empty one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// Up to here, topics of the query were purged; 0 if none was.
    pub purged_offset: u64,
    /// The newest row; [`Anchor::NONE`] if there is none.
    pub newest: Anchor,
    /// Of the row at [`Position::anchor_offset`]. If there is no such row, whatever it is does not matter. `None` if the row
    /// was [forgotten](crate::store::Forget): nobody can tell then whether it is the one that the cursor means.
    pub anchor: Option<Fingerprint>,
}

/// Refuses positions from which a reader would miss events without being told:
///
/// * a position after the newest offset, or at a row that is another one now ([`StoreError::WrongCursor`]). The store was
///   put back to an older state, and its offsets are given out again.
/// * a position before events that retention removed ([`StoreError::Expired`]), unless its reader knows of the
///   removal. A reader that starts anew accepts the removals of before. A reader that reads backwards ends at the
///   removal.
///
/// The positions that it lets pass know their anchors and the removals that their reader knows of.
///
/// # Errors
/// Those two; otherwise what `ends` meets.
pub fn check_positions(
    query: &Query,
    store: &StoreInfo,
    positions: &mut [Position],
    ends: impl Fn(Position) -> Result<Ends, StoreError>,
) -> Result<(), StoreError> {
    let (mut ahead, mut expired) = (false, false);
    // What the cursor has to have, if all rows at which it stands are there.
    let mut found = Some(Fingerprint::default());
    for position in &mut *positions {
        let Ends { purged_offset, newest, anchor } = ends(*position)?;
        let last_offset = newest.offset;
        position.newest = newest;
        ahead |= position.anchor.offset > last_offset;
        let row = position.anchor_offset(last_offset);
        let fingerprint = anchor.unwrap_or_default();
        position.anchor = row.map_or(Anchor::NONE, |offset| Anchor { offset, fingerprint });
        if position.is_descending_start() {
            // Events that are stored from now on are newer than the beginning of this walk, so it never reads them.
            position.offset = last_offset.saturating_add(1);
        } else if row.is_some() && anchor.is_none() {
            found = None;
        } else if let Some(found) = &mut found {
            found.toggle(position.anchor.fingerprint);
        }
        expired |= purged_offset > position.offset.max(position.horizon);
        position.horizon = position.horizon.max(purged_offset);
    }
    let Some(after) = &query.after else { return Ok(()) };
    let is_other = |fingerprint| found.is_some_and(|found| found != fingerprint);
    if ahead || after.fingerprint.is_some_and(is_other) {
        let oldest = oldest(query, store, positions, ends)?;
        return Err(StoreError::WrongCursor(match ahead {
            true => WrongCursor::AheadOfStore { oldest },
            false => WrongCursor::OtherHistory { oldest },
        }));
    }
    if expired && query.order == Order::Ascending {
        return Err(StoreError::Expired { oldest: query.cursor(store, positions) });
    }
    Ok(())
}

/// The beginning of what is stored. It knows of the removals of before.
fn oldest(
    query: &Query,
    store: &StoreInfo,
    positions: &[Position],
    ends: impl Fn(Position) -> Result<Ends, StoreError>,
) -> Result<Cursor, StoreError> {
    let start = |position: &Position| {
        let horizon = ends(*position)?.purged_offset;
        Ok(Position { horizon, ..Position::start(position.partition, query.order) })
    };
    let starts = positions.iter().map(start).collect::<Result<Vec<_>, StoreError>>()?;
    Ok(query.cursor(store, &starts))
}

/// What one partition has for a page.
pub struct Scan<E = StoredEvent> {
    /// Where the scan began.
    pub from: Position,
    /// The events that pass the query's filters, in its order, at most [`Query::limit`].
    pub events: Vec<E>,
    /// At the last row looked at; where the scan began if there was nothing.
    pub to: Position,
    /// Whether there was nothing beyond `to`.
    pub exhausted: bool,
}

/// The most rows of other topics in a scan. A store that finds the rows of a topic without those between them comes to this
/// only if the query has too many topics for that.
const MAX_PASSED: usize = 10 * Query::MAX_SCANNED;

/// Collects the events of a [`Scan`] and knows when it has to end.
pub struct Scanner<'q, E = StoredEvent> {
    query: &'q Query,
    scan: Scan<E>,
    /// Rows of the query's topics.
    scanned: usize,
    /// Rows of other topics.
    passed: usize,
    payload_bytes: usize,
}

impl<'q, E: Entry> Scanner<'q, E> {
    /// For a partition's part of a page.
    pub fn new(query: &'q Query, from: Position) -> Self {
        let scan = Scan { from, events: Vec::new(), to: from, exhausted: true };
        Self { query, scan, scanned: 0, passed: 0, payload_bytes: 0 }
    }

    /// What is asked for.
    pub fn query(&self) -> &'q Query {
        self.query
    }

    /// At the last row looked at.
    pub fn position(&self) -> Position {
        self.scan.to
    }

    /// Whether no further row fits. Ask before each row.
    pub fn is_full(&mut self) -> bool {
        let full = self.scan.events.len() >= self.query.limit
            || self.scanned >= Query::MAX_SCANNED
            || self.passed >= MAX_PASSED
            || self.query.is_full_of(self.payload_bytes);
        self.scan.exhausted = !full;
        full
    }

    /// Whether this row and all later rows are outside the time filter: `processed_at` never goes back.
    pub fn is_past(&self, processed_at: Timestamp) -> bool {
        match self.query.order {
            Order::Ascending => self.query.until.is_some_and(|until| processed_at >= until),
            Order::Descending => self.query.since.is_some_and(|since| processed_at < since),
        }
    }

    /// Notes a row of a topic that the query is not about. How many there are does not end the page, until there are very
    /// many: its reader may not be one who may know of them.
    pub fn passed_by(&mut self, row: Anchor) {
        self.passed += 1;
        self.scan.to.move_to(row);
    }

    /// Notes that a row of the query's topics was looked at. `event` is that row, if it passed the filters.
    pub fn looked_at(&mut self, row: Anchor, event: Option<E>) {
        self.scanned += 1;
        self.scan.to.move_to(row);
        if let Some(event) = event {
            self.payload_bytes += event.payload_bytes();
            self.scan.events.push(event);
        }
    }

    /// What was collected.
    ///
    /// An ascending reader that looked at everything that its query is about need not look at the rest either. So the next
    /// page of a reader who waits for rare events looks at what is stored until then, and not at everything again.
    pub fn finish(mut self) -> Scan<E> {
        let Scan { from, to, exhausted, .. } = &mut self.scan;
        if *exhausted && self.query.order == Order::Ascending && to.offset < from.newest.offset {
            to.move_to(from.newest);
        }
        self.scan
    }
}

/// Merges the scans by (`processed_at`, partition, offset). What does not fit is left for the next
/// page: the cursor of its partition stays before it.
pub fn merge(query: &Query, store: &StoreInfo, scans: Vec<Scan>) -> Page {
    let Merged { start, end, entries, next, caught_up } = merge_entries(query, store, scans);
    Page::new((start, end), entries, next, caught_up)
}

/// A page before its events are fetched.
pub struct Merged<E> {
    /// Where it begins.
    pub start: Vec<Position>,
    /// Where it ends: the positions of `next`.
    pub end: Vec<Position>,
    /// What it consists of, in its order.
    pub entries: Vec<E>,
    /// See [`Page::next`].
    pub next: Cursor,
    /// See [`Page::caught_up`].
    pub caught_up: bool,
}

/// What [`merge`] does, for any kind of entry.
pub fn merge_entries<E: Entry>(query: &Query, store: &StoreInfo, scans: Vec<Scan<E>>) -> Merged<E> {
    let start: Vec<_> = scans.iter().map(|scan| scan.from).collect();
    let mut caught_up = scans.iter().all(|scan| scan.exhausted);
    let mut positions: Vec<_> = scans.iter().map(|scan| scan.to).collect();
    let mut queues: Vec<_> = scans.into_iter().map(|scan| scan.events.into_iter().peekable()).collect();
    let mut entries: Vec<E> = Vec::new();
    // Of each partition, which entry is its last one.
    let mut last = vec![None; queues.len()];
    let mut payload_bytes = 0;
    while entries.len() < query.limit && !query.is_full_of(payload_bytes) {
        let heads = queues.iter_mut().enumerate().filter_map(|(i, queue)| Some((queue.peek()?.place(), i)));
        let next = match query.order {
            Order::Ascending => heads.min(),
            Order::Descending => heads.max(),
        };
        let Some((_, partition)) = next else { break };
        let Some(entry) = queues[partition].next() else { break };
        payload_bytes += entry.payload_bytes();
        last[partition] = Some(entries.len());
        entries.push(entry);
    }
    for (partition, _) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.len() > 0) {
        caught_up = false;
        positions[partition] = start[partition];
        if let Some(last) = last[partition] {
            positions[partition].move_to(entries[last].anchor());
        }
    }
    Merged { start, next: query.cursor(store, &positions), end: positions, entries, caught_up }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Partitions;
    use crate::TopicSelector;
    use crate::store::{Durability, StoreId};

    /// An event that is as large as a test says.
    #[derive(Clone, Copy)]
    struct Large {
        partition: u16,
        offset: u64,
        bytes: usize,
    }

    impl Entry for Large {
        fn place(&self) -> (Timestamp, Partition, u64) {
            (Timestamp::from_micros(0), Partition(self.partition), self.offset)
        }

        fn payload_bytes(&self) -> usize {
            self.bytes
        }

        fn anchor(&self) -> Anchor {
            Anchor::new(Partition(self.partition), self.offset, "t", None, "id")
        }
    }

    fn query() -> Query {
        Query::of(TopicSelector::All)
    }

    /// What a store fetches for a page, and how much memory that takes, is bounded before the page is made.
    #[test]
    fn a_partitions_part_ends_with_the_event_that_makes_it_too_large() {
        let query = query();
        let start = Position::start(Partition(0), Order::Ascending);
        for (bytes, fits) in [(Query::MAX_PAYLOAD_BYTES, 1), (Query::MAX_PAYLOAD_BYTES / 4, 4), (1, 100)] {
            let mut scanner = Scanner::new(&query, start);
            let mut offset = 0;
            while offset < 1_000 && !scanner.is_full() {
                offset += 1;
                let large = Large { partition: 0, offset, bytes };
                scanner.looked_at(large.anchor(), Some(large));
            }
            let scan = scanner.finish();
            assert_eq!((scan.events.len(), scan.exhausted), (fits, false), "{bytes} bytes each");
        }
    }

    #[test]
    fn a_page_of_several_partitions_ends_with_the_event_that_makes_it_too_large() {
        let partitions = Partitions::new(2).unwrap();
        let store = StoreInfo::new("test", StoreId::new(), Durability::Volatile, partitions);
        for (bytes, fits) in [(Query::MAX_PAYLOAD_BYTES, 1), (Query::MAX_PAYLOAD_BYTES / 3, 4)] {
            let scans = [0, 1].map(|partition| {
                let events = (1..=4).map(|offset| Large { partition, offset, bytes }).collect();
                let from = Position::start(Partition(partition), Order::Ascending);
                Scan { from, events, to: Position { offset: 4, ..from }, exhausted: true }
            });
            let page = merge_entries(&query(), &store, scans.into());
            assert_eq!((page.entries.len(), page.caught_up), (fits, false), "{bytes} bytes each");
            let offsets: Vec<_> = page.next.positions.iter().map(|position| position.offset).collect();
            assert_eq!(offsets, [fits as u64, 0]);
        }
    }
}
