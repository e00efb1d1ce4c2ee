//! Everything that reads. Each call is one short read transaction, so that it sees one state and does
//! not hold the write-ahead log for long.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::checksum::{Corruption, EVENT_COLUMNS, EventRow, text};
use super::fault::store_error;
use super::index::{self, Index, Key};
use super::original::{Original, Originals};
use crate::cursor::Position;
use crate::event::DEFAULT_SOURCE;
use crate::query::{Order, Page, Query, StoredEvent};
use crate::store::page::{Ends, Scan, Scanner, check_positions, merge};
use crate::store::{Seen, StoreInfo, StoreStats, TopicInfo};
use crate::{Identity, Partition, Scope, Source, StoreError, Timestamp, Topic, TopicSelector};

pub(super) fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    match row.get(column)? {
        0 => Ok(Scope::Topic),
        1 => Ok(Scope::Source),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}

pub(super) fn read(
    connection: &mut Connection,
    index: &Index,
    info: &StoreInfo,
    query: &Query,
) -> Result<Page, StoreError> {
    let failed = |error| store_error("reading events", error);
    let positions = query.positions(info)?;
    with_index(connection, "reading events", |snapshot| {
        let mut positions = positions.clone();
        check_positions(query, info, &mut positions, |_| ends(snapshot, &query.topics).map_err(failed))?;
        let mut scans = Vec::with_capacity(positions.len());
        for from in positions {
            match scan(snapshot, index, query, from).map_err(failed)? {
                Some(scan) => scans.push(scan),
                None => return Ok(None),
            }
        }
        Ok(Some(merge(query, info, scans)))
    })
}

/// Runs `attempt` inside a read transaction, and anew while it finds that the index in memory belongs to
/// another commit than the transaction: the writer is between its commit and telling memory of it, or
/// has done that since the transaction began.
fn with_index<T>(
    connection: &mut Connection,
    doing: &str,
    attempt: impl Fn(&Connection) -> Result<Option<T>, StoreError>,
) -> Result<T, StoreError> {
    const ATTEMPTS: u32 = 200;
    for _ in 0..ATTEMPTS {
        let snapshot = connection.transaction().map_err(|error| store_error(doing, error))?;
        if let Some(done) = attempt(&snapshot)? {
            return Ok(done);
        }
        drop(snapshot);
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(StoreError::unavailable(format!("{doing}: the dedup index is not at one with the file")))
}

fn ends(connection: &Connection, topics: &TopicSelector) -> rusqlite::Result<Ends> {
    const ENDS: &str = "SELECT
        (SELECT coalesce(max(purged_offset), 0) FROM topics WHERE purged_offset > 0 AND {topics}),
        (SELECT last_offset FROM partitions)";
    let (condition, topic) = match topics {
        TopicSelector::All => ("?1 = ''", ""),
        TopicSelector::Exact(topic) => ("name = ?1", topic.as_str()),
        TopicSelector::Below(topic) => ("name > ?1 || '.' AND name < ?1 || '/'", topic.as_str()),
    };
    let mut select = connection.prepare_cached(&ENDS.replace("{topics}", condition))?;
    select.query_row([topic], |row| Ok(Ends { purged_offset: row.get(0)?, last_offset: row.get(1)? }))
}

/// The columns of an event, its topic's name, and the join that brings it: an event whose topic is gone
/// must not be gone without a word.
fn select() -> String {
    format!("SELECT {EVENT_COLUMNS}, t.name FROM events e LEFT JOIN topics t ON t.topic_id = e.topic_id")
}

const NAME: usize = 12;

/// One partition's part of a page; `None` if the index in memory belongs to another commit.
fn scan(
    connection: &Connection,
    index: &Index,
    query: &Query,
    from: Position,
) -> rusqlite::Result<Option<Scan>> {
    let scanner = Scanner::new(query, from);
    let (beyond, order) = match query.order {
        Order::Ascending => (">", "ASC"),
        Order::Descending => ("<", "DESC"),
    };
    // Offsets end where SQLite's integers do.
    let offset = i64::try_from(from.offset).unwrap_or(i64::MAX);
    let TopicSelector::Exact(topic) = &query.topics else {
        let sql = format!("{} WHERE e.offset {beyond} ?1 ORDER BY e.offset {order}", select());
        return fill(connection, scanner, &sql, [offset], false).map(Some);
    };
    let Some((topic_id, scope)) = topic_id(connection, topic)? else { return Ok(Some(scanner.finish())) };
    // One event, unless any source will do where sources count: then the whole topic is looked through.
    if let Some(event_id) = &query.event_id
        && (scope == Scope::Topic || query.source.is_some())
    {
        let source = query.source.as_ref().map_or("", |source| scope.key(source.as_str()));
        let key = Key { topic_id, event_id: event_id.as_str(), source };
        let Some(rows) = index::find(connection, index, &[key], last_offset(connection)?)? else {
            return Ok(None);
        };
        let rows = serde_json::Value::from(rows.concat()).to_string();
        let sql = format!(
            "{} WHERE e.offset IN (SELECT value FROM json_each(?2)) AND e.offset {beyond} ?1
             ORDER BY e.offset {order}",
            select()
        );
        return fill(connection, scanner, &sql, (offset, rows), false).map(Some);
    }
    fill(connection, scanner, &of_topic(query.order), (offset, topic_id), true).map(Some)
}

/// The events of topic ?2 beyond the offset ?1. Nested loops over its spans, in their order.
fn of_topic(order: Order) -> String {
    let columns = format!("SELECT {EVENT_COLUMNS}, t.name");
    let topic = "LEFT JOIN topics t ON t.topic_id = e.topic_id";
    // One bound on each side of the rowid: of two, SQLite would begin each span's scan at the farther one.
    match order {
        Order::Ascending => format!(
            "{columns} FROM spans s
             CROSS JOIN events e ON e.offset >= max(s.first_offset, ?1 + 1) AND e.offset <= s.last_offset
             {topic} WHERE s.topic_id = ?2 AND s.first_offset >= coalesce(
                 (SELECT max(first_offset) FROM spans WHERE topic_id = ?2 AND first_offset <= ?1), 0)
             ORDER BY s.first_offset, e.offset"
        ),
        Order::Descending => format!(
            "{columns} FROM spans s
             CROSS JOIN events e ON e.offset >= s.first_offset AND e.offset <= min(s.last_offset, ?1 - 1)
             {topic} WHERE s.topic_id = ?2 AND s.first_offset < ?1
             ORDER BY s.first_offset DESC, e.offset DESC"
        ),
    }
}

fn last_offset(connection: &Connection) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT last_offset FROM partitions")?.query_row([], |row| row.get(0))
}

/// Takes rows until the scanner has enough. `dense` says that they are all rows of one topic, so that
/// each has to be the next one of the row before.
fn fill(
    connection: &Connection,
    mut scanner: Scanner<'_>,
    sql: &str,
    params: impl Params,
    dense: bool,
) -> rusqlite::Result<Scan> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params)?;
    let mut before: Option<u64> = None;
    while let Some(row) = rows.next()? {
        let event = EventRow::read(row)?;
        let processed_at = Timestamp::from_micros(event.processed_at);
        if scanner.is_full() || scanner.is_past(processed_at) {
            break;
        }
        if dense && before.is_some_and(|before| before.abs_diff(event.seq) != 1) {
            let missing = format!("events are missing next to offset {} (seq {})", event.offset, event.seq);
            return Err(Corruption::error(missing));
        }
        before = Some(event.seq);
        let name = text(row, NAME)?;
        let query = scanner.query();
        let passes = query.topics.matches(name) && query.admits(event.event_id, event.source, processed_at);
        let offset = event.offset;
        scanner.looked_at(offset, passes.then(|| stored_event(&event, name)));
    }
    Ok(scanner.finish())
}

fn stored_event(event: &EventRow<'_>, topic: &str) -> StoredEvent {
    StoredEvent {
        topic: topic.to_owned(),
        event_id: event.event_id.to_owned(),
        timestamp: event.timestamp.to_owned(),
        source: event.source.to_owned(),
        payload: event.payload.to_owned(),
        sequence: event.sequence,
        content_type: event.content_type.map(str::to_owned),
        attributes: event.attributes.map(str::to_owned),
        seq: event.seq,
        processed_at: Timestamp::from_micros(event.processed_at),
        partition: Partition(0),
        offset: event.offset,
    }
}

fn topic_id(connection: &Connection, topic: &Topic) -> rusqlite::Result<Option<(i64, Scope)>> {
    connection
        .prepare_cached("SELECT topic_id, scope FROM topics WHERE name = ?1")?
        .query_row([topic.as_str()], |row| Ok((row.get(0)?, scope(row, 1)?)))
        .optional()
}

pub(super) fn lookup(
    connection: &mut Connection,
    index: &Index,
    ids: &[Identity],
) -> Result<Vec<Option<Seen>>, StoreError> {
    with_index(connection, "looking identities up", |snapshot| {
        look_up(snapshot, index, ids).map_err(|error| store_error("looking identities up", error))
    })
}

fn look_up(
    snapshot: &Connection,
    index: &Index,
    ids: &[Identity],
) -> rusqlite::Result<Option<Vec<Option<Seen>>>> {
    let mut keys = Vec::new();
    let mut positions = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        if let Some((topic_id, scope)) = topic_id(snapshot, &id.topic)? {
            let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
            keys.push(Key { topic_id, event_id: id.event_id.as_str(), source: scope.key(source) });
            positions.push(position);
        }
    }
    let Some(rows) = index::find(snapshot, index, &keys, last_offset(snapshot)?)? else { return Ok(None) };
    let mut originals = Originals::new(snapshot)?;
    let mut seen = vec![None; ids.len()];
    for ((key, position), rows) in keys.into_iter().zip(positions).zip(rows) {
        for offset in rows {
            if let Some(found) = originals.find(key, offset, seen_in)? {
                seen[position] = Some(found);
                break;
            }
        }
    }
    Ok(Some(seen))
}

fn seen_in(original: Original<'_>) -> Seen {
    let (seq, processed_at, purged) = match original {
        Original::Event(event) => (Some(event.seq), event.processed_at, false),
        Original::Stub(stub) => (stub.seq, stub.processed_at, true),
    };
    Seen { seq, processed_at: Timestamp::from_micros(processed_at), purged }
}

pub(super) fn topics(
    connection: &Connection,
    after: Option<&Topic>,
    limit: usize,
) -> Result<Vec<TopicInfo>, StoreError> {
    let failed = |error| store_error("reading topics", error);
    let mut select = connection
        .prepare_cached(
            "SELECT name, scope, slot, last_seq, purged_seq, duplicates, conflicts FROM topics
             WHERE name > ?1 ORDER BY name LIMIT ?2",
        )
        .map_err(failed)?;
    // No topic is empty, so the empty name comes before all.
    let after = after.map_or("", Topic::as_str);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = select.query((after, limit)).map_err(failed)?;
    let mut topics = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        topics.push(topic_info(row).map_err(failed)??);
    }
    Ok(topics)
}

fn topic_info(row: &Row<'_>) -> rusqlite::Result<Result<TopicInfo, StoreError>> {
    let name: String = row.get(0)?;
    let topic = match Topic::new(name) {
        Ok(topic) => topic,
        Err(error) => return Ok(Err(StoreError::corrupt(format!("the name of a topic: {error}")))),
    };
    Ok(Ok(TopicInfo {
        topic,
        scope: scope(row, 1)?,
        slot: row.get(2)?,
        last_seq: row.get(3)?,
        purged_seq: row.get(4)?,
        duplicates: row.get(5)?,
        conflicts: row.get(6)?,
    }))
}

pub(super) fn stats(connection: &Connection, path: &Path) -> Result<StoreStats, StoreError> {
    let row = connection.prepare_cached("SELECT stored, duplicates, conflicts, topics FROM partitions");
    let stats = row.and_then(|mut select| {
        select.query_row([], |row| {
            Ok(StoreStats {
                stored: row.get(0)?,
                duplicates: row.get(1)?,
                conflicts: row.get(2)?,
                topics: row.get(3)?,
                bytes: 0,
            })
        })
    });
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let stats = stats.map_err(|error| store_error("reading totals", error))?;
    Ok(StoreStats { bytes: bytes(path) + bytes(wal.as_ref()), ..stats })
}
