//! Everything that reads. Each call is one short read transaction, so that it sees one state and does
//! not hold the write-ahead log for long.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Row};

use super::fault::{check_deadline, store_error};
use super::index::{self, Index, Key};
use super::known::{TOPIC_COLUMNS, Tail, TopicRow};
use super::original::{Original, Originals};
use super::scan::{scan, topic};
use crate::event::{DEFAULT_SOURCE, slot};
use crate::query::{Page, Query};
use crate::store::page::{Ends, check_positions, merge};
use crate::store::{Seen, StoreInfo, StoreStats, TopicInfo};
use crate::{Deadline, Identity, Scope, Source, StoreError, Timestamp, Topic, TopicSelector};

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
        Deadline::check(doing)?;
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
    const ENDS: &str =
        "SELECT coalesce(max(purged_offset), 0) FROM topics WHERE purged_offset > 0 AND {topics}";
    let last_offset = Tail::read(connection)?.last_offset;
    let (condition, topic) = match topics {
        TopicSelector::All => ("?1 = ''", ""),
        TopicSelector::Exact(topic) => ("name = ?1", topic.as_str()),
        TopicSelector::Below(topic) => ("name > ?1 || '.' AND name < ?1 || '/'", topic.as_str()),
    };
    let mut select = connection.prepare_cached(&ENDS.replace("{topics}", condition))?;
    select.query_row([topic], |row| Ok(Ends { purged_offset: row.get(0)?, last_offset }))
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
    let mut topics = HashMap::new();
    let mut keys = Vec::new();
    let mut positions = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        let topic = match topics.get(&id.topic) {
            Some(topic) => topic,
            None => topics.entry(&id.topic).or_insert(topic(snapshot, &id.topic)?),
        };
        if let Some(topic) = topic {
            let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
            let source = topic.scope.key(source);
            keys.push(Key { topic_id: topic.id, event_id: id.event_id.as_str(), source });
            positions.push(position);
        }
    }
    let last_offset = Tail::read(snapshot)?.last_offset;
    let Some(rows) = index::find(snapshot, index, &keys, last_offset)? else { return Ok(None) };
    let mut originals = Originals::new(snapshot)?;
    let mut seen = vec![None; ids.len()];
    for ((key, position), rows) in keys.into_iter().zip(positions).zip(rows) {
        for offset in rows {
            check_deadline()?;
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
    let failed = |error| store_error("listing topics", error);
    let mut select = connection
        .prepare_cached(&format!(
            "SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name > ?1 ORDER BY t.name LIMIT ?2"
        ))
        .map_err(failed)?;
    // No topic is empty, so the empty name comes before all.
    let after = after.map_or("", Topic::as_str);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = select.query((after, limit)).map_err(failed)?;
    let mut topics = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        check_deadline().map_err(failed)?;
        let (name, topic) = TopicRow::read(row).map_err(failed)?;
        let named = Topic::new(name);
        topics.push(TopicInfo {
            topic: named.map_err(|error| StoreError::corrupt(format!("the name of a topic: {error}")))?,
            scope: topic.scope,
            slot: slot(name),
            last_seq: topic.last_seq,
            purged_seq: topic.purged_seq,
            duplicates: topic.duplicates,
            conflicts: topic.conflicts,
        });
    }
    Ok(topics)
}

pub(super) fn stats(connection: &Connection, path: &Path) -> Result<StoreStats, StoreError> {
    let tail = Tail::read(connection).map_err(|error| store_error("counting", error))?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    Ok(StoreStats {
        stored: tail.stored,
        duplicates: tail.duplicates,
        conflicts: tail.conflicts,
        topics: tail.topics,
        bytes: bytes(path) + bytes(wal.as_ref()),
    })
}
