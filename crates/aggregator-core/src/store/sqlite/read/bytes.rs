//! How many bytes of data the events of a topic have. A topic's rows are found by their offsets, so a seq is looked for by
//! a binary search over the topic's spans.

use std::ops::{ControlFlow, RangeInclusive};

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::{Memory, with_memory};
use crate::query::Order;
use crate::store::sqlite::catalog::{PartitionState, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline, store_error};
use crate::store::sqlite::journal::{TopicView, Views};
use crate::store::sqlite::row::checksum::EventRow;
use crate::store::sqlite::row::stored_identity::EVENT;
use crate::{StoreError, Topic};

pub(crate) fn bytes(
    connection: &mut Connection,
    memory: &Memory,
    topic: &Topic,
    seqs: RangeInclusive<u64>,
) -> std::result::Result<u64, StoreError> {
    let doing = "summing up bytes";
    with_memory(connection, doing, |snapshot| {
        bytes_at(snapshot, memory, topic, &seqs).map_err(|error| store_error(doing, error))
    })
}

fn bytes_at(
    snapshot: &Connection,
    memory: &Memory,
    topic: &Topic,
    seqs: &RangeInclusive<u64>,
) -> Result<Option<u64>> {
    let partition = PartitionState::read(snapshot)?;
    let Some(row) = TopicRow::named(snapshot, topic)? else { return Ok(Some(0)) };
    let views = Views::of(snapshot, &memory.tails, &partition);
    let Some(topic) = views.view(topic.as_str(), row)? else { return Ok(None) };
    let first = topic.row.purged_seq.saturating_add(1).max(*seqs.start());
    let last = topic.row.last_seq.min(*seqs.end());
    if first > last {
        return Ok(Some(0));
    }
    sum(snapshot, &topic, first, last).map(Some)
}

/// Seqs are dense, so each event from `first` to `last` has to be there.
fn sum(connection: &Connection, topic: &TopicView, first: u64, last: u64) -> Result<u64> {
    let missing = |seq| Corruption::error(format!("event {seq} of topic {} is missing", topic.row.id));
    let begin = run_of(connection, topic, first)?;
    let offset = begin.first_offset + (first - begin.first_seq);
    let (mut next, mut bytes) = (first, 0);
    topic.each_event(connection, Order::Ascending, offset - 1, |event| {
        check_deadline()?;
        if (event.topic_id, event.seq) != (topic.row.id, next) {
            return Err(missing(next));
        }
        bytes += (event.event_id.len() + event.source.len() + event.payload.len()) as u64;
        next += 1;
        Ok(if next > last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if next > last { Ok(bytes) } else { Err(missing(next)) }
}

/// Where a run of events of one topic begins.
struct Run {
    first_offset: u64,
    first_seq: u64,
}

/// The span of the event with this seq, which was not purged.
fn run_of(connection: &Connection, topic: &TopicView, seq: u64) -> Result<Run> {
    let missing = || Corruption::error(format!("the spans of topic {} are missing", topic.row.id));
    let first = topic.first_offset(connection)?.ok_or_else(missing)?;
    let mut found = Run { first_offset: first, first_seq: topic.row.purged_seq + 1 };
    // No span that begins behind `found` and by `low` begins after the seq, nor does one behind `high` begin by it.
    let (mut low, mut high) = (first, topic.row.last_offset);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let begin = topic.span_before(connection, middle + 1)?.ok_or_else(missing)?.first;
        if begin <= low {
            low = middle;
            continue;
        }
        match seq_at(connection, &topic.row, begin)? {
            first_seq if first_seq <= seq => {
                found = Run { first_offset: begin, first_seq };
                low = middle;
            }
            _ => high = begin - 1,
        }
    }
    Ok(found)
}

fn seq_at(connection: &Connection, topic: &TopicRow, offset: u64) -> Result<u64> {
    let mut select = connection.prepare_cached(&EVENT)?;
    let seq = |row: &Row<'_>| {
        let event = EventRow::read(row)?;
        Ok((event.topic_id == topic.id).then_some(event.seq))
    };
    let found = select.query_row([offset], seq).optional()?.flatten();
    found.ok_or_else(|| Corruption::error(format!("topic {} has no event at offset {offset}", topic.id)))
}
