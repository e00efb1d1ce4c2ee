//! How many bytes of data the events of a topic have. A topic's rows are found by their offsets, so a seq is looked for by
//! a binary search over the topic's spans.

use std::ops::RangeInclusive;

use rusqlite::{Connection, OptionalExtension, Result, Row};

use crate::store::sqlite::catalog::{TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline, store_error};
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};
use crate::store::sqlite::row::stored_identity::EVENT;
use crate::{StoreError, Topic};

pub(crate) fn bytes(
    connection: &mut Connection,
    topic: &Topic,
    seqs: RangeInclusive<u64>,
) -> std::result::Result<u64, StoreError> {
    let failed = |error| store_error("summing up bytes", error);
    let snapshot = connection.transaction().map_err(failed)?;
    let Some(row) = topic_row(&snapshot, topic).map_err(failed)? else { return Ok(0) };
    let first = row.purged_seq.saturating_add(1).max(*seqs.start());
    let last = row.last_seq.min(*seqs.end());
    if first > last {
        return Ok(0);
    }
    sum(&snapshot, &row, first, last).map_err(failed)
}

pub(super) fn topic_row(connection: &Connection, topic: &Topic) -> Result<Option<TopicRow>> {
    let sql = format!("SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name = ?1");
    let mut select = connection.prepare_cached(&sql)?;
    select.query_row([topic.as_str()], |row| TopicRow::read(row).map(|(_, topic)| topic)).optional()
}

/// Seqs are dense, so each event from `first` to `last` has to be there.
fn sum(connection: &Connection, topic: &TopicRow, first: u64, last: u64) -> Result<u64> {
    let span = span_of(connection, topic, first)?;
    let offset = span.first_offset + (first - span.first_seq);
    let mut select = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM spans s CROSS JOIN events e
             ON e.offset >= max(s.first_offset, ?3) AND e.offset <= s.last_offset
         WHERE s.topic_id = ?1 AND s.first_offset >= ?2 ORDER BY s.first_offset, e.offset LIMIT ?4"
    ))?;
    let mut rows = select.query((topic.id, span.first_offset, offset, last - first + 1))?;
    let mut bytes = 0;
    for seq in first..=last {
        check_deadline()?;
        let missing = || Corruption::error(format!("event {seq} of topic {} is missing", topic.id));
        let event = EventRow::read(rows.next()?.ok_or_else(missing)?)?;
        if (event.topic_id, event.seq) != (topic.id, seq) {
            return Err(missing());
        }
        bytes += (event.event_id.len() + event.source.len() + event.payload.len()) as u64;
    }
    Ok(bytes)
}

/// Where a run of events of one topic begins.
struct Span {
    first_offset: u64,
    first_seq: u64,
}

/// The span of the event with this seq, which was not purged.
fn span_of(connection: &Connection, topic: &TopicRow, seq: u64) -> Result<Span> {
    let missing = || Corruption::error(format!("the spans of topic {} are missing", topic.id));
    let mut begins_by = connection.prepare_cached(
        "SELECT first_offset FROM spans WHERE topic_id = ?1 AND first_offset <= ?2
         ORDER BY first_offset DESC LIMIT 1",
    )?;
    let first_offset = |row: &Row<'_>| row.get::<_, u64>(0);
    let first = connection
        .prepare_cached("SELECT first_offset FROM spans WHERE topic_id = ?1 ORDER BY first_offset LIMIT 1")?
        .query_row([topic.id], first_offset)
        .optional()?
        .ok_or_else(missing)?;
    let mut found = Span { first_offset: first, first_seq: topic.purged_seq + 1 };
    // No span that begins behind `found` and by `low` begins after the seq, nor does one behind `high` begin by it.
    let (mut low, mut high) = (first, topic.last_offset);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let begin = begins_by.query_row((topic.id, middle), first_offset).optional()?.ok_or_else(missing)?;
        if begin <= low {
            low = middle;
            continue;
        }
        match seq_at(connection, topic, begin)? {
            first_seq if first_seq <= seq => {
                found = Span { first_offset: begin, first_seq };
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
