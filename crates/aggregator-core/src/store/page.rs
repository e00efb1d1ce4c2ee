//! Makes one page of what several partitions hold.

use crate::cursor::{Cursor, Position};
use crate::query::{Order, Page, Query, StoredEvent};
use crate::store::StoreInfo;
use crate::{Partition, StoreError, Timestamp, WrongCursor};

/// What a page is made of: a [`StoredEvent`], or what a backend knows of one before it fetches it.
pub trait Entry {
    /// The key by which partitions are merged: `processed_at`, partition, offset.
    fn place(&self) -> (Timestamp, Partition, u64);

    /// The length of its payload.
    fn payload_bytes(&self) -> usize;
}

impl Entry for StoredEvent {
    fn place(&self) -> (Timestamp, Partition, u64) {
        (self.processed_at, self.partition, self.offset)
    }

    fn payload_bytes(&self) -> usize {
        self.payload.len()
    }
}

/// What a partition holds.
pub struct Ends {
    /// Up to here, topics of the query were purged; 0 if none was.
    pub purged_offset: u64,
    /// The newest offset.
    pub last_offset: u64,
}

/// Refuses positions from which a reader would miss events without being told:
///
/// * a position after the newest offset ([`StoreError::WrongCursor`]). The store was put back to an older state, and
///   its offsets will be given out again.
/// * a position before events that retention removed ([`StoreError::Expired`]), unless its reader knows of the
///   removal. A reader that starts anew accepts the removals of before. A reader that reads backwards ends at the
///   removal.
///
/// # Errors
/// Those two; otherwise what `ends` meets.
pub fn check_positions(
    query: &Query,
    store: &StoreInfo,
    positions: &mut [Position],
    ends: impl Fn(Partition) -> Result<Ends, StoreError>,
) -> Result<(), StoreError> {
    let mut expired = false;
    for position in &mut *positions {
        let Ends { purged_offset, last_offset } = ends(position.partition)?;
        if query.order == Order::Descending && query.after.is_none() {
            // Events that are stored from now on are newer than the beginning of this walk, so it never reads them.
            position.offset = last_offset.saturating_add(1);
        }
        if query.after.is_some() && position.is_beyond(last_offset, query.order) {
            return Err(StoreError::WrongCursor(WrongCursor::AheadOfStore));
        }
        expired |= query.after.is_some() && purged_offset > position.offset.max(position.horizon);
        position.horizon = position.horizon.max(purged_offset);
    }
    if expired && query.order == Order::Ascending {
        return Err(StoreError::Expired { oldest: query.cursor(store, positions.to_vec()) });
    }
    Ok(())
}

/// What one partition has for a page.
pub struct Scan<E = StoredEvent> {
    /// Where the scan began.
    pub from: Position,
    /// The events that pass the query's filters, in its order, at most [`Query::limit`].
    pub events: Vec<E>,
    /// The last offset looked at; where the scan began if there was nothing.
    pub scanned_to: u64,
    /// Whether there was nothing beyond `scanned_to`.
    pub exhausted: bool,
}

/// Collects the events of a [`Scan`] and knows when it has to end.
pub struct Scanner<'q, E = StoredEvent> {
    query: &'q Query,
    scan: Scan<E>,
    scanned: usize,
    payload_bytes: usize,
}

impl<'q, E: Entry> Scanner<'q, E> {
    /// For a partition's part of a page.
    pub fn new(query: &'q Query, from: Position) -> Self {
        let scan = Scan { from, events: Vec::new(), scanned_to: from.offset, exhausted: true };
        Self { query, scan, scanned: 0, payload_bytes: 0 }
    }

    /// What is asked for.
    pub fn query(&self) -> &'q Query {
        self.query
    }

    /// Whether no further row fits. Ask before each row.
    pub fn is_full(&mut self) -> bool {
        let full = self.scan.events.len() >= self.query.limit
            || self.scanned >= Query::MAX_SCANNED
            || self.payload_bytes >= Query::MAX_PAYLOAD_BYTES;
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

    /// Notes that the row at `offset` was looked at. `event` is that row, if it passed the filters.
    pub fn looked_at(&mut self, offset: u64, event: Option<E>) {
        self.scanned += 1;
        self.scan.scanned_to = offset;
        if let Some(event) = event {
            self.payload_bytes += event.payload_bytes();
            self.scan.events.push(event);
        }
    }

    /// What was collected.
    pub fn finish(self) -> Scan<E> {
        self.scan
    }
}

/// Merges the scans by (`processed_at`, partition, offset). What does not fit is left for the next
/// page: the cursor of its partition stays before it.
pub fn merge(query: &Query, store: &StoreInfo, scans: Vec<Scan>) -> Page {
    let Merged { entries: events, next, caught_up } = merge_entries(query, store, scans);
    Page { events, next, caught_up }
}

/// A page before its events are fetched.
pub struct Merged<E> {
    /// What it consists of, in its order.
    pub entries: Vec<E>,
    /// See [`Page::next`].
    pub next: Cursor,
    /// See [`Page::caught_up`].
    pub caught_up: bool,
}

/// What [`merge`] does, for any kind of entry.
pub fn merge_entries<E: Entry>(query: &Query, store: &StoreInfo, scans: Vec<Scan<E>>) -> Merged<E> {
    let mut caught_up = true;
    let mut positions = Vec::with_capacity(scans.len());
    let mut queues: Vec<_> = Vec::with_capacity(scans.len());
    for scan in scans {
        caught_up &= scan.exhausted;
        positions.push((scan.from, scan.scanned_to));
        queues.push(scan.events.into_iter().peekable());
    }
    let mut entries: Vec<E> = Vec::new();
    let mut payload_bytes = 0;
    while entries.len() < query.limit && payload_bytes < Query::MAX_PAYLOAD_BYTES {
        let heads = queues.iter_mut().enumerate().filter_map(|(i, queue)| Some((queue.peek()?.place(), i)));
        let next = match query.order {
            Order::Ascending => heads.min(),
            Order::Descending => heads.max(),
        };
        let Some((_, partition)) = next else { break };
        let Some(entry) = queues[partition].next() else { break };
        payload_bytes += entry.payload_bytes();
        positions[partition].0.offset = entry.place().2;
        entries.push(entry);
    }
    for ((position, scanned_to), queue) in positions.iter_mut().zip(&mut queues) {
        if queue.peek().is_some() {
            caught_up = false;
        } else {
            position.offset = *scanned_to;
        }
    }
    let positions = positions.into_iter().map(|(position, _)| position).collect();
    Merged { entries, next: query.cursor(store, positions), caught_up }
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
                scanner.looked_at(offset, Some(Large { partition: 0, offset, bytes }));
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
                Scan { from, events, scanned_to: 4, exhausted: true }
            });
            let page = merge_entries(&query(), &store, scans.into());
            assert_eq!((page.entries.len(), page.caught_up), (fits, false), "{bytes} bytes each");
            let offsets: Vec<_> = page.next.positions.iter().map(|position| position.offset).collect();
            assert_eq!(offsets, [fits as u64, 0]);
        }
    }
}
