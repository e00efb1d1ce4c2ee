//! All stored rows in the order of their offsets, for another store to import.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{Connection, OptionalExtension, Result};

use crate::event::{Kept, KeptEvent, StoredRow};
use crate::store::RowLimit;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::{Corruption, store_error};
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow, STUB_COLUMNS, StubRow};
use crate::store::sqlite::row::forgotten::Forgotten;
use crate::store::sqlite::row::gap::Gap;
use crate::{Scope, StoreError, Timestamp};

pub(crate) fn rows(
    connection: &mut Connection,
    after: u64,
    limit: RowLimit,
) -> std::result::Result<Vec<(u64, StoredRow)>, StoreError> {
    let mut read = || {
        let snapshot = connection.transaction()?;
        let last_offset = PartitionState::read(&snapshot)?.last_offset;
        if after >= last_offset {
            return Ok(Vec::new());
        }
        let after = before_next(&snapshot, after)?;
        let until = last_offset.min(after.saturating_add(limit.rows.max(1) as u64));
        if after >= until {
            return Ok(Vec::new());
        }
        window(&snapshot, after, until, limit.payload_bytes)
    };
    read().map_err(|error| store_error("reading rows", error))
}

/// The offset before the next row behind `after`: what was forgotten is passed over, because an empty answer would mean the
/// end.
fn before_next(connection: &Connection, after: u64) -> Result<u64> {
    let Some(&gap) = Gap::within(connection, after, after + 1)?.first() else { return Ok(after) };
    // A mark is where the last row was that it stands for.
    let mark: Option<u64> = connection
        .prepare_cached("SELECT min(offset) FROM forgotten WHERE offset > ?1")?
        .query_row([after], |row| row.get(0))?;
    Ok(mark.map_or(gap.last, |mark| gap.last.min(mark - 1)))
}

/// The rows behind `after`, up to `until`. There has to be a row at each offset that was not forgotten.
fn window(
    connection: &Connection,
    after: u64,
    until: u64,
    max_bytes: usize,
) -> Result<Vec<(u64, StoredRow)>> {
    let mut topics = TopicCache { connection, cached: HashMap::new() };
    let mut gaps = Gap::within(connection, after, until)?.into_iter().peekable();
    let mut stubs = stubs(connection, &mut topics, after, until)?;
    marks(connection, &mut topics, (after, until), &mut stubs)?;
    let mut stubs = stubs.into_iter().peekable();
    let mut select = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset > ?1 AND e.offset <= ?2 ORDER BY e.offset"
    ))?;
    let mut events = select.query((after, until))?;
    let mut row = events.next()?;
    let mut taken = Vec::new();
    let mut payload_bytes = 0;
    for offset in after + 1..=until {
        if let Some(stub) = stubs.next_if(|&(at, _)| at == offset) {
            taken.push(stub);
            continue;
        }
        let at = row.map(|row| row.get::<_, u64>(0)).transpose()?;
        let Some(event) = row.filter(|_| at == Some(offset)) else {
            while gaps.next_if(|gap| gap.last < offset).is_some() {}
            if gaps.peek().is_some_and(|gap| gap.first <= offset) {
                continue;
            }
            return Err(Corruption::error(format!(
                "there is neither an event nor a stub at offset {offset}"
            )));
        };
        let event = EventRow::read(event)?;
        payload_bytes += event.payload.len();
        let (topic, scope) = topics.of(event.topic_id)?;
        taken.push((offset, stored_row(&event, topic, scope)));
        if payload_bytes >= max_bytes {
            break;
        }
        row = events.next()?;
    }
    Ok(taken)
}

/// Puts the marks of what was forgotten between the stubs.
fn marks(
    connection: &Connection,
    topics: &mut TopicCache<'_>,
    (after, until): (u64, u64),
    stubs: &mut Vec<(u64, StoredRow)>,
) -> Result<()> {
    let marks = Forgotten::between(connection, after, until)?;
    if marks.is_empty() {
        return Ok(());
    }
    for mark in marks {
        let (topic, scope) = topics.of(mark.topic_id)?;
        let row = StoredRow {
            topic: topic.to_owned(),
            scope: Some(scope),
            event_id: String::new(),
            source: None,
            processed_at: Timestamp::from_micros(mark.processed_at),
            released: false,
            kept: Kept::Forgotten { seq: mark.seq },
        };
        stubs.push((mark.offset, row));
    }
    stubs.sort_by_key(|&(offset, _)| offset);
    Ok(())
}

fn stubs(
    connection: &Connection,
    topics: &mut TopicCache<'_>,
    after: u64,
    until: u64,
) -> Result<Vec<(u64, StoredRow)>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {STUB_COLUMNS} FROM stubs s WHERE s.offset > ?1 AND s.offset <= ?2 ORDER BY s.offset"
    ))?;
    let mut rows = select.query((after, until))?;
    let mut taken = Vec::new();
    while let Some(row) = rows.next()? {
        let stub = StubRow::read(row)?;
        let kept = match (stub.seq, stub.digest) {
            (Some(seq), Some(digest)) => Kept::Stub { seq, digest },
            (None, None) => Kept::Identity,
            _ => {
                let what = format!("the stub at offset {} has only one of seq and digest", stub.offset);
                return Err(Corruption::error(what));
            }
        };
        let (topic, scope) = topics.of(stub.topic_id)?;
        let stored_row = StoredRow {
            topic: topic.to_owned(),
            scope: Some(scope),
            event_id: stub.event_id.to_owned(),
            source: (scope == Scope::Source).then(|| stub.source.to_owned()),
            processed_at: Timestamp::from_micros(stub.processed_at),
            released: stub.released,
            kept,
        };
        taken.push((stub.offset, stored_row));
    }
    Ok(taken)
}

fn stored_row(event: &EventRow<'_>, topic: &str, scope: Scope) -> StoredRow {
    StoredRow {
        topic: topic.to_owned(),
        scope: Some(scope),
        event_id: event.event_id.to_owned(),
        source: Some(event.source.to_owned()),
        processed_at: Timestamp::from_micros(event.processed_at),
        released: event.released,
        kept: Kept::Event(KeptEvent {
            seq: event.seq,
            timestamp: event.timestamp.to_owned(),
            payload: event.payload.to_owned(),
            sequence: event.sequence,
            content_type: event.content_type.map(str::to_owned),
            attributes: event.attributes.map(str::to_owned),
        }),
    }
}

/// The names and scopes of the topics that occurred so far.
struct TopicCache<'c> {
    connection: &'c Connection,
    cached: HashMap<i64, (String, Scope)>,
}

impl TopicCache<'_> {
    fn of(&mut self, topic_id: i64) -> Result<(&str, Scope)> {
        let topic = match self.cached.entry(topic_id) {
            Entry::Occupied(cached) => cached.into_mut(),
            Entry::Vacant(unknown) => {
                let sql = format!("SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.topic_id = ?1");
                let mut select = self.connection.prepare_cached(&sql)?;
                let read = select.query_row([topic_id], |row| {
                    TopicRow::read(row).map(|(name, topic)| (name.to_owned(), topic.scope))
                });
                let missing = || Corruption::error(format!("topic {topic_id} of a row is missing"));
                unknown.insert(read.optional()?.ok_or_else(missing)?)
            }
        };
        Ok((&topic.0, topic.1))
    }
}
