//! Making one page of what several partitions hold.

use crate::cursor::Position;
use crate::query::{Order, Page, Query, StoredEvent};
use crate::store::StoreInfo;
use crate::{Partition, StoreError, Timestamp};

/// What a partition holds.
pub(super) struct Ends {
    /// Up to here, topics of the query were purged; 0 if none was.
    pub(super) purged_offset: u64,
    /// The newest offset.
    pub(super) last_offset: u64,
}

/// Refuses positions that would skip events without a word: those beyond what there is (the store was
/// put back to an older state, and its offsets will be given out again), and those before events that
/// retention removed, unless their reader knows of the removal.
///
/// A reader that starts anew accepts what is gone by then; one that reads backwards meets the removal
/// as the end.
pub(super) fn check_positions(
    query: &Query,
    store: &StoreInfo,
    positions: &mut [Position],
    ends: impl Fn(Partition) -> Result<Ends, StoreError>,
) -> Result<(), StoreError> {
    let mut expired = false;
    for position in &mut *positions {
        let Ends { purged_offset, last_offset } = ends(position.partition)?;
        if query.order == Order::Descending && query.after.is_none() {
            // What comes from now on lies before the beginning of this walk, whatever its pages hold.
            position.offset = last_offset.saturating_add(1);
        }
        if query.after.is_some() && position.is_beyond(last_offset, query.order) {
            return Err(StoreError::invalid(
                "after",
                "is ahead of the store, which was put back to an older state: start anew",
            ));
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
pub(super) struct Scan {
    /// Where the scan began.
    pub(super) from: Position,
    /// The events that pass the query's filters, in its order, at most [`Query::limit`].
    pub(super) events: Vec<StoredEvent>,
    /// The last offset looked at; where the scan began if there was nothing.
    pub(super) scanned_to: u64,
    /// Whether there was nothing beyond `scanned_to`.
    pub(super) exhausted: bool,
}

/// Collects the events of a [`Scan`] and knows when it has to end.
pub(super) struct Scanner<'q> {
    query: &'q Query,
    scan: Scan,
    scanned: usize,
    payload_bytes: usize,
}

impl<'q> Scanner<'q> {
    pub(super) fn new(query: &'q Query, from: Position) -> Self {
        let scan = Scan { from, events: Vec::new(), scanned_to: from.offset, exhausted: true };
        Self { query, scan, scanned: 0, payload_bytes: 0 }
    }

    pub(super) fn query(&self) -> &'q Query {
        self.query
    }

    /// Whether the row at hand does not fit any more. Ask before each row.
    pub(super) fn is_full(&mut self) -> bool {
        let full = self.scan.events.len() >= self.query.limit
            || self.scanned >= Query::MAX_SCANNED
            || self.payload_bytes >= Query::MAX_PAYLOAD_BYTES;
        self.scan.exhausted = !full;
        full
    }

    /// Whether neither this row nor any behind it can pass: `processed_at` never goes back.
    pub(super) fn is_past(&self, processed_at: Timestamp) -> bool {
        match self.query.order {
            Order::Ascending => self.query.until.is_some_and(|until| processed_at >= until),
            Order::Descending => self.query.since.is_some_and(|since| processed_at < since),
        }
    }

    /// The row at `offset` was looked at; `event` is it, if it passed.
    pub(super) fn looked_at(&mut self, offset: u64, event: Option<StoredEvent>) {
        self.scanned += 1;
        self.scan.scanned_to = offset;
        if let Some(event) = event {
            self.payload_bytes += event.payload.len();
            self.scan.events.push(event);
        }
    }

    pub(super) fn finish(self) -> Scan {
        self.scan
    }
}

/// Merges the scans by (`processed_at`, partition, offset). What does not fit is left for the next
/// page: the cursor of its partition stays before it.
pub(super) fn merge(query: &Query, store: &StoreInfo, scans: Vec<Scan>) -> Page {
    let mut caught_up = true;
    let mut positions = Vec::with_capacity(scans.len());
    let mut queues: Vec<_> = Vec::with_capacity(scans.len());
    for scan in scans {
        caught_up &= scan.exhausted;
        positions.push((scan.from, scan.scanned_to));
        queues.push(scan.events.into_iter().peekable());
    }
    let mut events = Vec::new();
    let mut payload_bytes = 0;
    while events.len() < query.limit && payload_bytes < Query::MAX_PAYLOAD_BYTES {
        let key = |event: &StoredEvent| (event.processed_at, event.partition, event.offset);
        let heads = queues.iter_mut().enumerate().filter_map(|(i, queue)| Some((key(queue.peek()?), i)));
        let next = match query.order {
            Order::Ascending => heads.min(),
            Order::Descending => heads.max(),
        };
        let Some((_, partition)) = next else { break };
        let Some(event) = queues[partition].next() else { break };
        payload_bytes += event.payload.len();
        positions[partition].0.offset = event.offset;
        events.push(event);
    }
    for ((position, scanned_to), queue) in positions.iter_mut().zip(&mut queues) {
        if queue.peek().is_some() {
            caught_up = false;
        } else {
            position.offset = *scanned_to;
        }
    }
    let positions = positions.into_iter().map(|(position, _)| position).collect();
    Page { events, next: query.cursor(store, positions), caught_up }
}
