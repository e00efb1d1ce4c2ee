//! Recovery: makes the index in memory from the file when a store is opened.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::compaction::build::build;
use super::compaction::{next_task, write_slice};
use super::filter::bloom::CurrentBloom;
use super::filter::filter_group::Runs;
use super::filter::maplet::Maplet;
use super::fingerprint::Fingerprints;
use super::layout;
use super::manifest::{Manifest, damaged};
use super::run::Run;
use super::run::section::Section;
use super::{Index, IndexEntry, IndexOptions, IndexState, Memtable};
use crate::Scope;
use crate::store::sqlite::catalog::{Catalog, PartitionState};
use crate::store::sqlite::fault::{Corruption, is_full};
use crate::store::sqlite::options::OpenProgress;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow, STUB_COLUMNS, StubRow};
use crate::store::sqlite::row::gap::Gap;
use crate::store::sqlite::row::{self, Key};

/// Loads the runs, then reads the rows behind them into memtables. If there are more rows than two memtables hold, the
/// others are written as runs on the way; after a [reset](super::reset), that is nearly all rows. `mark` is called
/// before anything is written, and `progress` before each memtable of rows is read. With a `catalog`, topics need not be read.
pub(crate) fn recover(
    connection: &mut Connection,
    options: IndexOptions,
    fingerprint_bits: u32,
    progress: &dyn Fn(OpenProgress),
    mark: impl Fn(&mut Connection) -> rusqlite::Result<()>,
    catalog: Option<&Catalog>,
) -> rusqlite::Result<(Index, Manifest)> {
    let mut manifest = Manifest::read(connection)?;
    let fingerprints = Fingerprints::new(manifest.key, fingerprint_bits);
    let runs = load_runs(connection, &manifest, &mut Err)?;
    let last_offset = PartitionState::read(connection)?.last_offset;
    if manifest.covered > last_offset {
        return Err(damaged("it covers rows behind the last offset"));
    }
    let mut state = IndexState {
        generation: manifest.generation,
        last_offset: manifest.covered,
        memtable: Memtable::with_capacity(options.memtable as usize),
        sealed: None,
        flushed: None,
        runs: Arc::new(runs),
        current_bloom: CurrentBloom::new(options, &manifest),
        covered: manifest.covered,
    };
    let mut rows = RowReader::new(fingerprints, catalog);
    while state.last_offset < last_offset {
        progress(OpenProgress { indexed: state.last_offset, events: last_offset });
        // Where rows were forgotten, a window has fewer entries than offsets, and the memtable goes on with the next one.
        let room = u64::from(options.memtable).saturating_sub(state.memtable.len() as u64);
        let window = match room {
            0 => state.last_offset + u64::from(options.memtable),
            room => state.last_offset + room,
        };
        let window = last_offset.min(window);
        rows.read(connection, state.last_offset, window, &mut |entry| state.memtable.insert(entry))?;
        state.last_offset = window;
        // The rows that a crash leaves fit into two memtables, or nearly so. Then a start writes next to nothing.
        if state.sealed.is_some() && window < last_offset {
            let written =
                mark(connection).and_then(|()| write_runs(connection, options, &mut state, &mut manifest));
            match written {
                // The disk is full, but few rows are left: they can stay in memory until there is room.
                Err(error) if is_full(&error) && last_offset - window <= u64::from(options.memtable) => {}
                written => written?,
            }
        }
        state.seal_if_full(options.memtable as usize);
    }
    Ok((Index::new(fingerprints, state), manifest))
}

/// Writes the sealed memtable as a run, and merges runs where there are too many.
fn write_runs(
    connection: &mut Connection,
    options: IndexOptions,
    state: &mut IndexState,
    manifest: &mut Manifest,
) -> rusqlite::Result<()> {
    while let Some(task) = next_task(state, manifest, options, u64::from(options.section)) {
        let slice = build(connection, task)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let next = write_slice(&transaction, manifest, &slice)?;
        transaction.commit()?;
        state.apply(&slice, &next);
        *manifest = next;
    }
    Ok(())
}

/// Reads the heads of all sections. `missing` gets the error of each head that cannot be read; if it returns an error,
/// loading ends with that.
pub(crate) fn load_runs(
    connection: &Connection,
    manifest: &Manifest,
    missing: &mut dyn FnMut(rusqlite::Error) -> rusqlite::Result<()>,
) -> rusqlite::Result<Runs> {
    let mut select = connection.prepare_cached("SELECT head FROM index_sections WHERE section = ?1")?;
    let mut runs = Runs::default();
    for entry in &manifest.runs {
        let live = manifest.live_sections(entry);
        let mut sections = vec![None; live.start as usize];
        let mut maplets = vec![None; live.start as usize];
        for number in live {
            let head = match read_head(&mut select, layout::section_key(entry.id, number)) {
                Ok(head) => Some(head),
                Err(error) => missing(error).map(|()| None)?,
            };
            let (section, maplet) = head.unzip();
            sections.push(section);
            maplets.push(maplet);
        }
        runs.push(
            Run { id: entry.id, bits: entry.bits, answers_from: manifest.answers_from(entry.id), sections },
            maplets,
            None,
        );
    }
    Ok(runs)
}

/// Reads the head of a section.
fn read_head(select: &mut rusqlite::CachedStatement<'_>, key: i64) -> rusqlite::Result<(Section, Maplet)> {
    let found = select.query_row([key], |row| {
        Section::decode(key, row.get_ref(0)?.as_blob()?)
            .ok_or_else(|| damaged(format!("the head of section {key} does not match its checksum")))
    });
    found.optional()?.ok_or_else(|| damaged(format!("the head of section {key} is missing")))
}

/// Reads events and stubs, and makes index entries of them.
pub(crate) struct RowReader<'c> {
    fingerprints: Fingerprints,
    /// Knows the topics, where it could be read.
    catalog: Option<&'c Catalog>,
    /// Those of other topics.
    scopes: HashMap<i64, Scope>,
}

impl<'c> RowReader<'c> {
    pub(crate) fn new(fingerprints: Fingerprints, catalog: Option<&'c Catalog>) -> Self {
        Self { fingerprints, catalog, scopes: HashMap::new() }
    }

    /// Hands `take` the entry of every row behind the offset `after`, up to `to`. There has to be a row at each offset
    /// that was not forgotten.
    pub(crate) fn read(
        &mut self,
        connection: &Connection,
        after: u64,
        to: u64,
        take: &mut dyn FnMut(IndexEntry),
    ) -> rusqlite::Result<()> {
        let rows = usize::try_from(to - after).expect("the rows of one call fit into memory");
        let mut found = vec![false; rows];
        let mut add = |offset: u64, fingerprint| {
            let at = usize::try_from(offset - after - 1).expect("the query returns these offsets only");
            if std::mem::replace(&mut found[at], true) {
                return Err(Corruption::error(format!("offset {offset} has both an event and a stub")));
            }
            take(IndexEntry { fingerprint, offset });
            Ok(())
        };
        let mut events = connection.prepare_cached(&format!(
            "SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset > ?1 AND e.offset <= ?2"
        ))?;
        let mut rows = events.query((after, to))?;
        while let Some(row) = rows.next()? {
            let event = EventRow::read(row)?;
            let source = self.scope(connection, event.topic_id)?.key(event.source);
            let key = Key { topic_id: event.topic_id, event_id: event.event_id, source };
            add(event.offset, self.fingerprints.of(key))?;
        }
        let mut stubs = connection.prepare_cached(&format!(
            "SELECT {STUB_COLUMNS} FROM stubs s WHERE s.offset > ?1 AND s.offset <= ?2"
        ))?;
        let mut rows = stubs.query((after, to))?;
        while let Some(row) = rows.next()? {
            let stub = StubRow::read(row)?;
            let key = Key { topic_id: stub.topic_id, event_id: stub.event_id, source: stub.source };
            add(stub.offset, self.fingerprints.of(key))?;
        }
        for gap in Gap::within(connection, after, to)? {
            for offset in gap.first.max(after + 1)..=gap.last.min(to) {
                let at = usize::try_from(offset - after - 1).expect("it is one of these rows");
                if std::mem::replace(&mut found[at], true) {
                    return Err(Corruption::error(format!("offset {offset} has a row and was forgotten")));
                }
            }
        }
        match found.iter().position(|found| !found) {
            None => Ok(()),
            Some(gap) => Err(Corruption::error(format!(
                "there is neither an event nor a stub at offset {}",
                after + 1 + gap as u64
            ))),
        }
    }

    fn scope(&mut self, connection: &Connection, topic_id: i64) -> rusqlite::Result<Scope> {
        let known = self.catalog.and_then(|catalog| catalog.scope(topic_id));
        if let Some(scope) = known.or_else(|| self.scopes.get(&topic_id).copied()) {
            return Ok(scope);
        }
        let scope = connection
            .prepare_cached("SELECT scope FROM topics WHERE topic_id = ?1")?
            .query_row([topic_id], |row| row::scope(row, 0))
            .optional()?
            .ok_or_else(|| Corruption::error(format!("topic {topic_id} of an event is missing")))?;
        self.scopes.insert(topic_id, scope);
        Ok(scope)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;
    use tempfile::TempDir;

    use super::*;
    use crate::store::sqlite::index::Location;
    use crate::store::sqlite::index::fingerprint::BITS;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};
    use crate::{DedupStoreExt, Event, Timestamp, Topic};

    const OPTIONS: IndexOptions = IndexOptions { memtable: 20, section: 5, fan_out: 2 };

    /// A store whose rows are all in no run.
    fn file_of(directory: &TempDir, rows: u64) -> Connection {
        let path = directory.path().join("s.db");
        let store = SqliteStore::open_with(&path, SqliteOptions::default()).unwrap();
        let events: Vec<_> = (0..rows).map(|n| Event::new("t", n.to_string()).unwrap()).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        drop(store);
        Connection::open(path).unwrap()
    }

    fn error_of(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn a_start_writes_nothing_while_two_memtables_hold_the_rest_of_the_log() {
        for (rows, is_written) in [(0, false), (20, false), (21, false), (40, false), (41, true)] {
            let directory = TempDir::new().unwrap();
            let mut connection = file_of(&directory, rows);
            let before = Manifest::read(&connection).unwrap();
            let (index, manifest) =
                recover(&mut connection, OPTIONS, BITS, &|_| {}, |_| Ok(()), None).unwrap();
            assert_eq!(manifest != before, is_written, "{rows} rows");
            assert_eq!(index.last_offset(), rows);
        }
    }

    #[test]
    fn progress_is_told_for_each_memtable_of_rows() {
        let directory = TempDir::new().unwrap();
        let mut connection = file_of(&directory, 50);
        let told = std::cell::RefCell::new(Vec::new());
        let note = |progress: OpenProgress| told.borrow_mut().push((progress.indexed, progress.events));
        recover(&mut connection, OPTIONS, BITS, &note, |_| Ok(()), None).unwrap();
        assert_eq!(told.take(), [(0, 50), (20, 50), (40, 50)]);
        // What is written is not read again.
        recover(&mut connection, OPTIONS, BITS, &note, |_| Ok(()), None).unwrap();
        assert_eq!(told.take(), [(20, 50), (40, 50)]);
    }

    /// Windows are counted in offsets, and there are fewer rows.
    #[test]
    fn a_memtable_takes_no_more_than_it_should_where_rows_were_forgotten() {
        for (rows, forgotten) in [(30, 1), (41, 1), (41, 25), (100, 7), (100, 70)] {
            let directory = TempDir::new().unwrap();
            drop(file_of(&directory, rows));
            let path = directory.path().join("s.db");
            let store = SqliteStore::open(&path).unwrap();
            let topic = Topic::new("t").unwrap();
            store.purge(&topic, forgotten).unwrap();
            let all = Timestamp::from_micros(i64::MAX);
            assert_eq!(store.forget_identities(&topic, all, u64::MAX).unwrap(), forgotten);
            drop(store);
            let mut connection = Connection::open(&path).unwrap();
            let (index, _) = recover(&mut connection, OPTIONS, BITS, &|_| {}, |_| Ok(()), None).unwrap();
            let state = index.state();
            let lengths: Vec<_> = state.uncovered().map(Memtable::len).collect();
            assert!(lengths.iter().all(|&length| length <= 20), "{rows} rows, {forgotten}: {lengths:?}");
            assert_eq!(index.last_offset(), rows);
        }
    }

    /// The disk is full when runs are to be written, with 40 rows read.
    #[test]
    fn on_a_full_disk_one_memtable_more_is_kept_in_memory_and_no_further_rows() {
        for (rows, error, starts) in
            [(60, ffi::SQLITE_FULL, true), (61, ffi::SQLITE_FULL, false), (60, ffi::SQLITE_IOERR, false)]
        {
            let directory = TempDir::new().unwrap();
            let mut connection = file_of(&directory, rows);
            let recovered = recover(&mut connection, OPTIONS, BITS, &|_| {}, |_| Err(error_of(error)), None);
            assert_eq!(recovered.is_ok(), starts, "{rows} rows, error {error}");
            let Ok((index, _)) = recovered else { continue };
            for n in 0..rows {
                let key = Key { topic_id: 1, event_id: &n.to_string(), source: "" };
                let found = index.probe(&[index.fingerprint(key).into()]);
                assert!(matches!(found[..], [candidate] if matches!(candidate.location, Location::Row(_))));
            }
        }
    }
}
