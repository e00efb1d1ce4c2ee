//! Makes what is sorted by topic anew from the events and stubs, for a file whose journal is damaged.

use std::collections::HashMap;

use rusqlite::{Connection, Result};

use super::Span;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::row::forgotten::{FORGOTTEN_COLUMNS, Forgotten};
use crate::store::sqlite::schema;

/// Makes the spans and the topics' counters anew, and empties the journal. Events, stubs and the topics' rows have to be
/// whole. Repeats that only the journal has counted are counted no more.
pub(crate) fn rebuild(connection: &Connection) -> Result<()> {
    let mut partition = PartitionState::read(connection)?;
    connection.execute_batch("DELETE FROM journal; DELETE FROM spans;")?;
    (partition.journal_first, partition.journal_last) = (partition.journal_last + 1, partition.journal_last);
    (partition.stored, partition.duplicates, partition.conflicts) = (0, 0, 0);
    let mut rebuilt = topics(connection)?;
    add_rows(connection, &mut rebuilt)?;
    for Rebuilt { name, topic, span } in rebuilt.values_mut() {
        write(connection, topic, span.take())?;
        topic.update(connection, name)?;
        partition.stored += topic.last_seq;
        partition.duplicates += topic.duplicates;
        partition.conflicts += topic.conflicts;
    }
    partition.write(connection)
}

struct Rebuilt {
    name: String,
    topic: TopicRow,
    /// That of its newest events, which is not written yet.
    span: Option<Span>,
}

/// The topics with what they have forgotten, by their ids.
fn topics(connection: &Connection) -> Result<HashMap<i64, Rebuilt>> {
    let mut topics = HashMap::new();
    let mut select = connection.prepare(&format!("SELECT {TOPIC_COLUMNS} FROM topics t"))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (name, topic) = TopicRow::read(row)?;
        let before = TopicRow { last_seq: 0, last_offset: 0, last_span: 0, ..topic };
        topics.insert(topic.id, Rebuilt { name: name.to_owned(), topic: before, span: None });
    }
    if schema::has_forgotten(connection)? {
        let mut select = connection.prepare(&format!("SELECT {FORGOTTEN_COLUMNS} FROM forgotten f"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mark = Forgotten::read(row)?;
            let topic = topics.get_mut(&mark.topic_id).ok_or_else(|| missing(mark.topic_id))?;
            let topic = &mut topic.topic;
            topic.last_seq = mark.seq;
            // The mark may be behind the last event that was forgotten, but that one was purged.
            topic.last_offset = if mark.seq > 0 { topic.purged_offset } else { 0 };
        }
    }
    Ok(topics)
}

/// Adds the seqs of stubs and events, and writes the spans of events.
fn add_rows(connection: &Connection, topics: &mut HashMap<i64, Rebuilt>) -> Result<()> {
    let mut select = connection.prepare(
        "SELECT offset, topic_id, seq, 1 FROM events
         UNION ALL SELECT offset, topic_id, seq, 0 FROM stubs WHERE seq IS NOT NULL ORDER BY offset",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (offset, topic_id, seq): (u64, i64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Rebuilt { name, topic, span } = topics.get_mut(&topic_id).ok_or_else(|| missing(topic_id))?;
        if seq != topic.last_seq + 1 {
            let what =
                format!("topic {name} has seq {seq} at offset {offset}, behind seq {}", topic.last_seq);
            return Err(Corruption::error(what));
        }
        topic.last_seq = seq;
        if row.get(3)? {
            match span {
                Some(span) if span.last + 1 == offset => span.last = offset,
                _ => write(connection, topic, span.replace(Span { first: offset, last: offset }))?,
            }
        }
        topic.last_offset = offset;
    }
    Ok(())
}

fn write(connection: &Connection, topic: &mut TopicRow, span: Option<Span>) -> Result<()> {
    // It is next to no other one.
    span.map_or(Ok(()), |span| topic.add_span(connection, 0, span))
}

fn missing(topic_id: i64) -> rusqlite::Error {
    Corruption::error(format!("topic {topic_id} of a row is missing"))
}
