//! Which row comes next, if none is missing.

use rusqlite::{Connection, OptionalExtension, Result};

use crate::query::Order;
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::journal::TopicView;
use crate::store::sqlite::row::checksum::EventRow;
use crate::store::sqlite::row::gap::Gap;
use crate::store::sqlite::row::stored_identity::EVENT;

/// The next row that has to come, if no row is missing.
pub(super) enum Expected {
    Anything,
    /// The event with the seq `next`, if that is known. The last one has the seq `last`.
    Seq {
        next: Option<u64>,
        last: u64,
        order: Order,
    },
    /// An event at the offset `next`, or stubs from there to the next event. The last row is at `last`.
    Offset {
        next: u64,
        last: u64,
        order: Order,
    },
}

impl Expected {
    pub(super) fn all(order: Order, from: u64, partition: &PartitionState) -> Self {
        match order {
            Order::Ascending => {
                Self::Offset { next: from.saturating_add(1), last: partition.last_offset, order }
            }
            Order::Descending => {
                Self::Offset { next: from.saturating_sub(1).min(partition.last_offset), last: 1, order }
            }
        }
    }

    pub(super) fn of_topic(
        connection: &Connection,
        topic: &TopicView,
        order: Order,
        from: u64,
    ) -> Result<Self> {
        Ok(match order {
            Order::Ascending => {
                let next = Some(seq_at_or_before(connection, topic, from)? + 1);
                Self::Seq { next, last: topic.row.last_seq, order }
            }
            Order::Descending => {
                let next = (from > topic.row.last_offset).then_some(topic.row.last_seq);
                Self::Seq { next, last: topic.row.purged_seq + 1, order }
            }
        })
    }

    pub(super) fn row(&mut self, connection: &Connection, event: &EventRow<'_>) -> Result<()> {
        match self {
            Self::Anything => {}
            Self::Seq { next, order, .. } => {
                if next.is_some_and(|next| next != event.seq) {
                    let place = (event.offset, event.seq);
                    let missing = format!("events are missing next to offset {} (seq {})", place.0, place.1);
                    return Err(Corruption::error(missing));
                }
                *next = Some(following(event.seq, *order));
            }
            Self::Offset { next, order, .. } => {
                check_gap(connection, *next, event.offset, *order)?;
                *next = following(event.offset, *order);
            }
        }
        Ok(())
    }

    /// Checks that no row is missing at the end.
    pub(super) fn end(&self, connection: &Connection) -> Result<()> {
        match *self {
            Self::Seq { next: Some(next), last, order } if next != following(last, order) => {
                Err(Corruption::error(format!("events are missing from seq {next} on, up to {last}")))
            }
            Self::Offset { next, last, order } => check_gap(connection, next, following(last, order), order),
            _ => Ok(()),
        }
    }
}

pub(super) fn following(number: u64, order: Order) -> u64 {
    match order {
        Order::Ascending => number + 1,
        Order::Descending => number - 1,
    }
}

/// Checks that all offsets from `next` on that come before `found` have stubs, or were forgotten. Larger gaps are left to the check of the
/// whole file, because a page must not read all stubs of a large purge.
fn check_gap(connection: &Connection, next: u64, found: u64, order: Order) -> Result<()> {
    const LARGEST: u64 = 10_000;
    let gap = match order {
        Order::Ascending => next..found,
        Order::Descending => found + 1..next + 1,
    };
    let length = gap.end.saturating_sub(gap.start);
    if length == 0 || length > LARGEST {
        return Ok(());
    }
    let stubs: u64 = connection
        .prepare_cached("SELECT count(*) FROM stubs WHERE offset >= ?1 AND offset < ?2")?
        .query_row((gap.start, gap.end), |row| row.get(0))?;
    let (after, to) = (gap.start - 1, gap.end - 1);
    let forgotten = Gap::within(connection, after, to)?.into_iter().map(|gap| gap.overlap(after, to));
    if stubs + forgotten.sum::<u64>() == length {
        return Ok(());
    }
    let (from, to) = (gap.start, gap.end - 1);
    Err(Corruption::error(format!("offsets {from} to {to} have {stubs} stubs and no event")))
}

/// The seq of the topic's last event up to `offset`, purged ones included.
fn seq_at_or_before(connection: &Connection, topic: &TopicView, offset: u64) -> Result<u64> {
    if offset >= topic.row.last_offset {
        return Ok(topic.row.last_seq);
    }
    let span = topic.span_before(connection, offset + 1)?;
    let Some(place) = span.map(|span| span.last.min(offset)) else { return Ok(topic.row.purged_seq) };
    let mut select = connection.prepare_cached(&EVENT)?;
    let found = select.query_row([place], |row| {
        let event = EventRow::read(row)?;
        Ok((event.topic_id == topic.row.id).then_some(event.seq))
    });
    found.optional()?.flatten().ok_or_else(|| {
        Corruption::error(format!("a span of a topic leads to offset {place}, where it has no event"))
    })
}
