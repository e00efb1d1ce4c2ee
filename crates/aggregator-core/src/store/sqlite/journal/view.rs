//! A topic as of a reader's snapshot: what the tables say of it, and its tail.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension as _, Params, Result};

use super::{Replayed, Span, Tails, replay};
use crate::query::Order;
use crate::store::sqlite::catalog::{PartitionState, TopicRow};
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};

/// Makes views of the topics of one snapshot.
pub(crate) struct Views<'s> {
    snapshot: &'s Connection,
    tails: &'s Tails,
    partition: &'s PartitionState,
    /// What the snapshot's own journal says, where memory knows no tails.
    replayed: OnceCell<Replayed>,
}

/// A topic as of a snapshot.
pub(crate) struct TopicView {
    /// With what its tail says.
    pub(crate) row: TopicRow,
    /// The spans that are in no table, ascending.
    tail: Box<[Span]>,
    /// The table has the spans up to this offset.
    folded_through: u64,
}

impl<'s> Views<'s> {
    pub(crate) fn of(snapshot: &'s Connection, tails: &'s Tails, partition: &'s PartitionState) -> Self {
        Self { snapshot, tails, partition, replayed: OnceCell::new() }
    }

    /// The topic whose row in the snapshot's table is `row`. `None` if memory is of another commit than the snapshot: the
    /// caller begins with a new snapshot.
    pub(crate) fn view(&self, name: &str, mut row: TopicRow) -> Result<Option<TopicView>> {
        let folded_through = row.last_offset;
        let tail = if self.tails.are_known() {
            let missing = self.tails.missing(row.id, folded_through, self.partition.last_offset);
            let Some(missing) = missing else { return Ok(None) };
            (row.duplicates, row.conflicts) = (missing.duplicates, missing.conflicts);
            row.last_seq += missing.spans.iter().map(Span::len).sum::<u64>();
            row.last_offset = missing.spans.last().map_or(row.last_offset, |span| span.last);
            missing.spans
        } else {
            // The topics of a damaged file, of which some may be whole.
            let mut delta = self.replayed()?.of(row.id).cloned().unwrap_or_default();
            row.add(name, &mut delta)?;
            delta.spans.into()
        };
        Ok(Some(TopicView { row, tail, folded_through }))
    }

    fn replayed(&self) -> Result<&Replayed> {
        if let Some(replayed) = self.replayed.get() {
            return Ok(replayed);
        }
        let replayed = replay(self.snapshot, self.partition)?;
        Ok(self.replayed.get_or_init(|| replayed))
    }
}

impl TopicView {
    /// That of its first event which was not purged.
    pub(crate) fn first_offset(&self, connection: &Connection) -> Result<Option<u64>> {
        Ok(self.span_after(connection, 0)?.map(|span| span.first))
    }

    /// The last span that begins before `offset`.
    pub(crate) fn span_before(&self, connection: &Connection, offset: u64) -> Result<Option<Span>> {
        let in_tail = self.tail.partition_point(|span| span.first < offset);
        if in_tail > 0 {
            return Ok(Some(self.tail[in_tail - 1]));
        }
        const SQL: &str =
            "SELECT first_offset, last_offset FROM spans WHERE topic_id = ?1 AND first_offset < ?2
             ORDER BY first_offset DESC LIMIT 1";
        self.query_span(connection, SQL, offset)
    }

    /// The first span that begins after `offset`.
    pub(crate) fn span_after(&self, connection: &Connection, offset: u64) -> Result<Option<Span>> {
        const SQL: &str =
            "SELECT first_offset, last_offset FROM spans WHERE topic_id = ?1 AND first_offset > ?2
             ORDER BY first_offset LIMIT 1";
        if offset < self.folded_through
            && let Some(span) = self.query_span(connection, SQL, offset)?
        {
            return Ok(Some(span));
        }
        let behind = self.tail.partition_point(|span| span.first <= offset);
        Ok(self.tail.get(behind).copied())
    }

    fn query_span(&self, connection: &Connection, sql: &str, offset: u64) -> Result<Option<Span>> {
        // No offset is larger than SQLite's integers.
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let mut select = connection.prepare_cached(sql)?;
        let span = |row: &rusqlite::Row<'_>| Ok(Span { first: row.get(0)?, last: row.get(1)? });
        let found = select.query_row((self.row.id, offset), span).optional()?;
        if let Some(Span { first, .. }) = found.filter(|span| span.last < span.first) {
            let what = format!("the span of topic {} at offset {first} ends before it begins", self.row.id);
            return Err(Corruption::error(what));
        }
        Ok(found)
    }

    /// Hands `take` the events beyond the offset `from`, until it breaks.
    pub(crate) fn each_event(
        &self,
        connection: &Connection,
        order: Order,
        from: u64,
        mut take: impl FnMut(&EventRow<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        match order {
            Order::Ascending => {
                if from < self.folded_through && self.of_table(connection, order, from, &mut take)?.is_break()
                {
                    return Ok(());
                }
                self.of_tail(connection, order, from, self.tail.iter(), &mut take).map(drop)
            }
            Order::Descending => {
                if self.of_tail(connection, order, from, self.tail.iter().rev(), &mut take)?.is_break() {
                    return Ok(());
                }
                self.of_table(connection, order, from, &mut take).map(drop)
            }
        }
    }

    fn of_table(
        &self,
        connection: &Connection,
        order: Order,
        from: u64,
        take: &mut impl FnMut(&EventRow<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        each(connection, &select_sql(order), (from, self.row.id), take)
    }

    fn of_tail<'s>(
        &self,
        connection: &Connection,
        order: Order,
        from: u64,
        spans: impl Iterator<Item = &'s Span>,
        take: &mut impl FnMut(&EventRow<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let (direction, first, last) = match order {
            Order::Ascending => ("ASC", from.saturating_add(1), u64::MAX),
            Order::Descending => ("DESC", 0, from.saturating_sub(1)),
        };
        let sql = format!(
            "SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset >= ?1 AND e.offset <= ?2 ORDER BY e.offset {direction}"
        );
        for span in spans {
            let part = (span.first.max(first), span.last.min(last));
            if part.0 <= part.1 && each(connection, &sql, part, take)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn each(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    take: &mut impl FnMut(&EventRow<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params)?;
    while let Some(row) = rows.next()? {
        if take(&EventRow::read(row)?)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The events of topic ?2 beyond the offset ?1: a nested loop over the topic's spans, in their order.
fn select_sql(order: Order) -> String {
    // One bound on each side of the rowid: with two bounds on one side, SQLite would begin the scan of each span at the
    // farther one.
    match order {
        Order::Ascending => format!(
            "SELECT {EVENT_COLUMNS} FROM spans s
             CROSS JOIN events e ON e.offset >= max(s.first_offset, ?1 + 1) AND e.offset <= s.last_offset
             WHERE s.topic_id = ?2 AND s.first_offset >= coalesce(
                 (SELECT max(first_offset) FROM spans WHERE topic_id = ?2 AND first_offset <= ?1), 0)
             ORDER BY s.first_offset, e.offset"
        ),
        Order::Descending => format!(
            "SELECT {EVENT_COLUMNS} FROM spans s
             CROSS JOIN events e ON e.offset >= s.first_offset AND e.offset <= min(s.last_offset, ?1 - 1)
             WHERE s.topic_id = ?2 AND s.first_offset < ?1
             ORDER BY s.first_offset DESC, e.offset DESC"
        ),
    }
}
