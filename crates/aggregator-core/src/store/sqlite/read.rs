//! Reads: pages of events, lookups, topics and counters. Each call is one short read transaction, so that it sees one
//! commit and does not hold the write-ahead log for long.

pub(crate) mod bytes;
pub(crate) mod forgettable;
pub(crate) mod records;
pub(crate) mod rows;
pub(crate) mod scan;
pub(crate) mod topics;
pub(crate) mod verify;

pub(crate) use self::bytes::bytes;
pub(crate) use self::forgettable::forgettable;
pub(crate) use self::rows::rows;
pub(crate) use self::topics::topics;
pub(crate) use self::verify::verify;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use self::scan::{fingerprint, scan};
use super::catalog::snapshot::TopicSnapshot;
use super::catalog::{PartitionState, TopicNames};
use super::fault::{check_deadline, store_error};
use super::index::{self, Index};
use super::journal::Tails;
use super::row::Key;
use super::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::cursor::{Anchor, Position};
use crate::event::DEFAULT_SOURCE;
use crate::query::{Page, Query};
use crate::store::page::{Ends, check_positions, merge};
use crate::store::{Seen, StoreInfo, StoreStats};
use crate::{Deadline, Identity, Source, StoreError, Timestamp, Topics};

/// What readers know from memory. It may be of a later commit than their snapshots, or of an earlier one.
pub(crate) struct Memory {
    pub(crate) index: Arc<Index>,
    pub(crate) names: Arc<TopicNames>,
    pub(crate) tails: Arc<Tails>,
}

pub(crate) fn read(
    connection: &mut Connection,
    memory: &Memory,
    info: &StoreInfo,
    query: &Query,
) -> Result<Page, StoreError> {
    let failed = |error| store_error("reading events", error);
    let positions = query.positions(info)?;
    with_memory(connection, "reading events", |snapshot| {
        let mut positions = positions.clone();
        let ends = |position| ends(snapshot, &query.topics, position).map_err(failed);
        check_positions(query, info, &mut positions, ends)?;
        let mut scans = Vec::with_capacity(positions.len());
        for from in positions {
            match scan(snapshot, memory, query, from).map_err(failed)? {
                Some(scan) => scans.push(scan),
                None => return Ok(None),
            }
        }
        Ok(Some(merge(query, info, scans)))
    })
}

/// Runs `attempt` inside a read transaction. Begins a new one as long as `attempt` returns `None`: then what is in memory
/// belongs to another commit than the transaction. The writer is between its commit and the change in memory, or has made
/// that change since the transaction began.
fn with_memory<T>(
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
    Err(StoreError::unavailable(format!(
        "{doing}: what is in memory and the file are not of the same commit"
    )))
}

fn ends(connection: &Connection, topics: &Topics, position: Position) -> rusqlite::Result<Ends> {
    const ENDS: &str = "SELECT coalesce(max(purged_offset), 0) FROM topics WHERE purged_offset > 0 AND name >= ?1 AND name < ?2";
    let last_offset = PartitionState::read(connection)?.last_offset;
    let mut select = connection.prepare_cached(ENDS)?;
    let mut purged_offset = 0;
    for selector in topics.selectors() {
        purged_offset = purged_offset.max(select.query_row(selector.names(), |row| row.get(0))?);
    }
    let at = |offset| fingerprint(connection, offset);
    let anchor_offset = position.anchor_offset(last_offset);
    let anchor = anchor_offset.map(at).transpose()?.flatten();
    let newest = match anchor_offset {
        _ if last_offset == 0 => None,
        Some(offset) if offset == last_offset => anchor,
        _ => at(last_offset)?,
    };
    let newest = Anchor { offset: last_offset, fingerprint: newest.unwrap_or_default() };
    Ok(Ends { purged_offset, newest, anchor })
}

pub(crate) fn lookup(
    connection: &mut Connection,
    memory: &Memory,
    ids: &[Identity],
) -> Result<Vec<Option<Seen>>, StoreError> {
    with_memory(connection, "looking identities up", |snapshot| {
        look_up(snapshot, memory, ids).map_err(|error| store_error("looking identities up", error))
    })
}

fn look_up(
    snapshot: &Connection,
    Memory { index, names, .. }: &Memory,
    ids: &[Identity],
) -> rusqlite::Result<Option<Vec<Option<Seen>>>> {
    let partition = PartitionState::read(snapshot)?;
    if !index::matches_snapshot(snapshot, index, partition.last_offset)? {
        return Ok(None);
    }
    let catalog = TopicSnapshot::at(snapshot, names, &partition)?;
    let mut keys = Vec::new();
    let mut positions = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        if let Some(topic) = catalog.get(id.topic.as_str()) {
            let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
            let source = topic.scope.key(source);
            keys.push(Key { topic_id: topic.id, event_id: id.event_id.as_str(), source });
            positions.push(position);
        }
    }
    let Some(rows) = index::find(snapshot, index, &keys, partition.last_offset)? else { return Ok(None) };
    let mut stored_identities = StoredIdentities::new(snapshot)?;
    let mut seen = vec![None; ids.len()];
    for ((key, position), rows) in keys.into_iter().zip(positions).zip(rows) {
        for offset in rows {
            check_deadline()?;
            if let Some(found) = stored_identities.find(key, offset, seen_in)? {
                seen[position] = Some(found);
                break;
            }
        }
    }
    Ok(Some(seen))
}

pub(crate) fn seen_in(stored: StoredIdentity<'_>) -> Seen {
    let (seq, processed_at, purged) = match stored {
        StoredIdentity::Event(event) => (Some(event.seq), event.processed_at, false),
        StoredIdentity::Stub(stub) => (stub.seq, stub.processed_at, true),
    };
    Seen { seq, processed_at: Timestamp::from_micros(processed_at), purged }
}

pub(crate) fn stats(connection: &Connection, path: &Path) -> Result<StoreStats, StoreError> {
    let partition = PartitionState::read(connection).map_err(|error| store_error("counting", error))?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    Ok(StoreStats {
        stored: partition.stored,
        duplicates: partition.duplicates,
        conflicts: partition.conflicts,
        topics: partition.topics,
        bytes: bytes(path) + bytes(wal.as_ref()),
        newest_processed_at: Timestamp::from_micros(partition.last_processed_at).after_the_first(),
        unavailable: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::catalog::Catalog;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};
    use crate::{DedupStoreExt as _, Event, EventId, Topic};

    fn append(store: &SqliteStore, events: &[(&str, &str)]) {
        let events: Vec<_> = events.iter().map(|(topic, id)| Event::new(*topic, *id).unwrap()).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    }

    fn identity(topic: &str, id: &str) -> Identity {
        Identity { topic: Topic::new(topic).unwrap(), event_id: EventId::new(id).unwrap(), source: None }
    }

    fn with_names(store: &SqliteStore, names: TopicNames) -> Memory {
        let Memory { index, tails, .. } = &store.memory;
        Memory { index: Arc::clone(index), names: Arc::new(names), tails: Arc::clone(tails) }
    }

    /// Which of the events `t 1`, `t 2` and `new 1` a snapshot has.
    fn seen(memory: &Memory, snapshot: &Connection) -> rusqlite::Result<[bool; 3]> {
        let ids = [identity("t", "1"), identity("t", "2"), identity("new", "1")];
        let seen = look_up(snapshot, memory, &ids)?.expect("the index is as of the snapshot");
        Ok([0, 1, 2].map(|at| seen[at].is_some()))
    }

    /// How many events of the topic a snapshot has.
    fn page(
        store: &SqliteStore,
        memory: &Memory,
        snapshot: &Connection,
        topic: &str,
    ) -> rusqlite::Result<usize> {
        let query = Query::topic(Topic::new(topic).unwrap());
        let from = query.positions(&store.info).unwrap()[0];
        let scan = scan(snapshot, memory, &query, from)?;
        Ok(scan.expect("the index is as of the snapshot").events.len())
    }

    #[test]
    fn a_read_that_races_an_append_tells_what_its_snapshot_holds() {
        let directory = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        append(&store, &[("t", "1")]);
        let mut reader = store.reader("reading").unwrap();
        let snapshot = reader.transaction().unwrap();
        // It begins with its first read.
        PartitionState::read(&snapshot).unwrap();
        append(&store, &[("t", "2"), ("new", "1")]);
        assert_eq!(seen(&store.memory, &snapshot).unwrap(), [true, false, false]);
        assert_eq!(page(&store, &store.memory, &snapshot, "t").unwrap(), 1);
        assert_eq!(page(&store, &store.memory, &snapshot, "new").unwrap(), 0);
        drop(snapshot);
        let snapshot = reader.transaction().unwrap();
        assert_eq!(seen(&store.memory, &snapshot).unwrap(), [true; 3]);
        assert_eq!(page(&store, &store.memory, &snapshot, "new").unwrap(), 1);
    }

    /// Whether memory still knows what the snapshot has of the topic `t`, and then, how many events that is.
    fn page_of_t(store: &SqliteStore, snapshot: &Connection) -> Option<usize> {
        let query = Query::topic(Topic::new("t").unwrap());
        let from = query.positions(&store.info).unwrap()[0];
        scan(snapshot, &store.memory, &query, from).unwrap().map(|scan| scan.events.len())
    }

    #[test]
    fn a_snapshot_of_before_a_fold_is_read_whole_until_memory_has_dropped_what_was_folded() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = SqliteOptions { max_unfolded: 3, ..SqliteOptions::default() };
        let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
        append(&store, &[("t", "1")]);
        append(&store, &[("other", "1"), ("t", "2")]);
        let mut reader = store.reader("reading").unwrap();
        let snapshot = reader.transaction().unwrap();
        PartitionState::read(&snapshot).unwrap();
        let folded = || {
            let table: u64 = store
                .reader("reading")
                .unwrap()
                .query_row("SELECT count(*) FROM spans WHERE topic_id = 1", [], |row| row.get(0))
                .unwrap();
            table > 0
        };
        // Its tail goes on where the snapshot's ends.
        append(&store, &[("t", "3")]);
        assert_eq!((folded(), page_of_t(&store, &snapshot)), (false, Some(2)));
        let mut appended = 3;
        while !folded() {
            appended += 1;
            append(&store, &[("other", &appended.to_string()), ("t", &appended.to_string())]);
        }
        assert_eq!(page_of_t(&store, &snapshot), Some(2), "what was folded is still in memory");
        for _ in 0..20 {
            appended += 1;
            append(&store, &[("other", &appended.to_string()), ("t", &appended.to_string())]);
        }
        assert_eq!(page_of_t(&store, &snapshot), None);
        drop(snapshot);
        let snapshot = reader.transaction().unwrap();
        assert_eq!(page_of_t(&store, &snapshot), Some(appended));
    }

    #[test]
    fn a_topic_that_memory_was_not_told_of_yet_is_found_in_the_file() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        append(&store, &[("t", "1")]);
        let mut behind = with_names(&store, TopicNames::default());
        let (mut catalog, _) = Catalog::load(&store.reader("reading").unwrap(), &behind.names).unwrap();
        catalog.committed();
        append(&store, &[("t", "2"), ("new", "1")]);
        let mut reader = store.reader("reading").unwrap();
        for _ in 0..2 {
            let snapshot = reader.transaction().unwrap();
            assert_eq!(seen(&behind, &snapshot).unwrap(), [true; 3]);
            assert_eq!(page(&store, &behind, &snapshot, "new").unwrap(), 1);
            assert_eq!(page(&store, &behind, &snapshot, "unknown").unwrap(), 0);
            drop(snapshot);
            // As if the topics could not be read at the start.
            behind = with_names(&store, TopicNames::default());
        }
    }

    #[test]
    fn a_topic_that_the_file_has_lost_is_not_unknown() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        append(&store, &[("t", "1"), ("t", "2"), ("new", "1")]);
        Connection::open(&path).unwrap().execute("DELETE FROM topics WHERE name = 't'", []).unwrap();
        let mut reader = store.reader("reading").unwrap();
        let snapshot = reader.transaction().unwrap();
        let error = page(&store, &store.memory, &snapshot, "t").unwrap_err();
        assert!(error.to_string().contains("the topic t is missing"), "{error}");
        assert_eq!(seen(&store.memory, &snapshot).unwrap(), [true; 3], "the events are there");
        // Without the topics in memory, nobody can tell which topic is missing.
        let nothing = with_names(&store, TopicNames::default());
        for error in [
            page(&store, &nothing, &snapshot, "t").unwrap_err(),
            page(&store, &nothing, &snapshot, "unknown").unwrap_err(),
            seen(&nothing, &snapshot).unwrap_err(),
        ] {
            assert!(error.to_string().contains("topics are missing"), "{error}");
        }
    }
}
