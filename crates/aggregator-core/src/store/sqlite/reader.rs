//! Everything that reads. Each call is one short read transaction, so that it sees one state and does
//! not hold the write-ahead log for long.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::fault::store_error;
use super::index::{Key, Lookup};
use crate::cursor::Position;
use crate::query::{Order, Page, Query, StoredEvent};
use crate::store::page::{Ends, Scan, Scanner, check_positions, merge};
use crate::store::{Seen, StoreInfo, StoreStats, TopicInfo};
use crate::{Identity, Partition, Scope, StoreError, Timestamp, Topic, TopicSelector};

pub(super) fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    match row.get(column)? {
        0 => Ok(Scope::Topic),
        1 => Ok(Scope::Source),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}

pub(super) fn read(connection: &mut Connection, info: &StoreInfo, query: &Query) -> Result<Page, StoreError> {
    let failed = |error| store_error("reading events", error);
    let mut positions = query.positions(info)?;
    let snapshot = connection.transaction().map_err(failed)?;
    check_positions(query, info, &mut positions, |_| ends(&snapshot, &query.topics).map_err(failed))?;
    let scans = positions.into_iter().map(|from| scan(&snapshot, query, from));
    let scans = scans.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?;
    Ok(merge(query, info, scans))
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

const COLUMNS: &str =
    "SELECT e.offset, e.topic_id, e.seq, e.event_id, e.timestamp, e.source, e.payload, e.sequence,
            e.content_type, e.attributes, e.processed_at, t.name
     FROM events e CROSS JOIN topics t ON t.topic_id = e.topic_id";

fn scan(connection: &Connection, query: &Query, from: Position) -> rusqlite::Result<Scan> {
    let scanner = Scanner::new(query, from);
    let (beyond, order) = match query.order {
        Order::Ascending => (">", "ASC"),
        Order::Descending => ("<", "DESC"),
    };
    // Offsets end where SQLite's integers do.
    let offset = i64::try_from(from.offset).unwrap_or(i64::MAX);
    let TopicSelector::Exact(topic) = &query.topics else {
        let sql = format!("{COLUMNS} WHERE e.offset {beyond} ?1 ORDER BY e.offset {order}");
        return fill(connection, scanner, &sql, [offset]);
    };
    let Some((topic_id, _)) = topic_id(connection, topic)? else { return Ok(scanner.finish()) };
    let Some(event_id) = &query.event_id else {
        let sql = format!(
            "{COLUMNS} WHERE e.topic_id = ?2 AND e.offset {beyond} ?1 ORDER BY e.topic_id, e.offset {order}"
        );
        return fill(connection, scanner, &sql, (offset, topic_id));
    };
    let offsets = Lookup::new(connection)?.find_any_source(topic_id, event_id.as_str())?;
    let offsets = serde_json::Value::from(offsets).to_string();
    let sql = format!(
        "{COLUMNS} WHERE e.offset IN (SELECT value FROM json_each(?2)) AND e.offset {beyond} ?1
         ORDER BY e.offset {order}"
    );
    fill(connection, scanner, &sql, (offset, offsets))
}

fn fill(
    connection: &Connection,
    mut scanner: Scanner<'_>,
    sql: &str,
    params: impl Params,
) -> rusqlite::Result<Scan> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params)?;
    while let Some(row) = rows.next()? {
        let processed_at = Timestamp::from_micros(row.get(10)?);
        if scanner.is_full() || scanner.is_past(processed_at) {
            break;
        }
        let query = scanner.query();
        let passes = query.topics.matches(row.get_ref(11)?.as_str()?)
            && query.admits(row.get_ref(3)?.as_str()?, row.get_ref(5)?.as_str()?, processed_at);
        let event = if passes { Some(stored_event(row)?) } else { None };
        scanner.looked_at(row.get(0)?, event);
    }
    Ok(scanner.finish())
}

fn stored_event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        topic: row.get(11)?,
        event_id: row.get(3)?,
        timestamp: row.get(4)?,
        source: row.get(5)?,
        payload: row.get(6)?,
        sequence: row.get(7)?,
        content_type: row.get(8)?,
        attributes: row.get(9)?,
        seq: row.get(2)?,
        processed_at: Timestamp::from_micros(row.get(10)?),
        partition: Partition(0),
        offset: row.get(0)?,
    })
}

fn topic_id(connection: &Connection, topic: &Topic) -> rusqlite::Result<Option<(i64, Scope)>> {
    connection
        .prepare_cached("SELECT topic_id, scope FROM topics WHERE name = ?1")?
        .query_row([topic.as_str()], |row| Ok((row.get(0)?, scope(row, 1)?)))
        .optional()
}

pub(super) fn lookup(connection: &mut Connection, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
    let failed = |error| store_error("looking identities up", error);
    let snapshot = connection.transaction().map_err(failed)?;
    let mut index = Lookup::new(&snapshot).map_err(failed)?;
    ids.iter()
        .map(|id| match find(&snapshot, &mut index, id).map_err(failed)? {
            None => Ok(None),
            Some(offset) => match seen(&snapshot, offset).map_err(failed)? {
                None => Err(StoreError::corrupt(format!(
                    "the dedup index points to offset {offset}, where there is nothing"
                ))),
                seen => Ok(seen),
            },
        })
        .collect()
}

fn find(connection: &Connection, index: &mut Lookup<'_>, id: &Identity) -> rusqlite::Result<Option<u64>> {
    let Some((topic_id, scope)) = topic_id(connection, &id.topic)? else { return Ok(None) };
    let event_id = id.event_id.as_str();
    match (&id.source, scope) {
        (None, Scope::Source) => Ok(index.find_any_source(topic_id, event_id)?.first().copied()),
        (source, scope) => {
            let source = source.as_ref().map_or("", |source| scope.key(source.as_str()));
            index.find(Key { topic_id, event_id, source })
        }
    }
}

fn seen(connection: &Connection, offset: u64) -> rusqlite::Result<Option<Seen>> {
    let mut select = connection.prepare_cached(
        "SELECT seq, processed_at, 0 FROM events WHERE offset = ?1
         UNION ALL SELECT seq, processed_at, 1 FROM stubs WHERE offset = ?1",
    )?;
    let seen = |row: &Row<'_>| {
        let processed_at = Timestamp::from_micros(row.get(1)?);
        Ok(Seen { seq: row.get(0)?, processed_at, purged: row.get(2)? })
    };
    select.query_row([offset], seen).optional()
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
