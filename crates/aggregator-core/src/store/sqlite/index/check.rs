//! Checks the index against the rows it leads to.

use std::collections::HashMap;
use std::ops::ControlFlow::Continue;
use std::ops::Range;

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::IndexEntry;
use super::filter::filter_group::{FilterGroup, Runs};
use super::fingerprint::{BITS, Fingerprints};
use super::forgotten_rows::ForgottenRows;
use super::layout;
use super::lookup::ChunkReader;
use super::manifest::Manifest;
use super::recovery::{RowReader, load_runs};
use super::run::Run;
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::row::stored_identity::StoredIdentities;

/// What the check holds in memory at a time.
#[derive(Clone, Copy)]
struct Limits {
    /// How many rows or entries are read at a time.
    batch: u64,
    /// All entries of rows that no run covers: at most so many.
    uncovered: u64,
}

const LIMITS: Limits = Limits { batch: 1 << 16, uncovered: 1 << 26 };

/// Checks that the runs hold one entry for each row they cover and no other entries, that the maplets admit each entry,
/// and that no identity has two rows. `fault` gets a sentence for each contradiction.
pub(crate) fn check(
    connection: &Connection,
    fingerprint_bits: u32,
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<()> {
    check_within(LIMITS, connection, fingerprint_bits, fault)
}

fn check_within(
    limits: Limits,
    connection: &Connection,
    fingerprint_bits: u32,
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<()> {
    let Limits { batch, .. } = limits;
    let manifest = Manifest::read(connection)?;
    if manifest.covered > PartitionState::read(connection)?.last_offset {
        fault("the dedup index covers rows behind the last offset".into());
        return Ok(());
    }
    let runs = load_runs(connection, &manifest, &mut |error| {
        fault(describe(error));
        Ok(())
    })?;
    let mut rows = RowReader::new(Fingerprints::new(manifest.key, fingerprint_bits), None);
    let mut of_rows = EntrySet::default();
    for_each_row(batch, connection, &mut rows, 0..manifest.covered, &mut |entry| of_rows.add(entry))?;
    let forgotten = ForgottenRows::read(connection, manifest.covered)?;
    // A memtable answers for the rows that no run covers, but such a row may repeat an identity that a run covers.
    let mut uncovered = Vec::new();
    let last_offset = PartitionState::read(connection)?.last_offset;
    if last_offset - manifest.covered > limits.uncovered {
        let covered = manifest.covered;
        fault(format!(
            "the dedup index ends at offset {covered} of {last_offset}: open the store to go on with it"
        ));
        return Ok(());
    }
    for_each_row(batch, connection, &mut rows, manifest.covered..last_offset, &mut |entry| {
        uncovered.push(entry);
    })?;
    uncovered.sort_unstable();

    let of_runs = check_runs(batch, connection, &runs, (&uncovered, &forgotten), fault)?;
    if of_rows.count != of_runs.count {
        fault(format!("the dedup index holds {} entries for {} rows", of_runs.count, of_rows.count));
    } else if of_rows != of_runs {
        fault("the dedup index leads to other rows than those that are there".into());
    }
    Ok(())
}

/// Reads all entries of the runs, one range of fingerprints after the other, and compares the identities of rows that
/// share a fingerprint. Returns the entries of the runs.
fn check_runs(
    batch: u64,
    connection: &Connection,
    runs: &Runs,
    (uncovered, forgotten): (&[IndexEntry], &ForgottenRows),
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<EntrySet> {
    let mut of_runs = EntrySet::default();
    let mut chunks = ChunkReader::new(connection)?;
    let entries: u64 = runs
        .runs
        .iter()
        .map(|run| run.sections.iter().flatten().map(|s| u64::from(s.entries)).sum::<u64>())
        .sum();
    let bits = ((entries / batch).next_power_of_two().trailing_zeros()).min(layout::MAX_SECTION_BITS);
    for part in 0..1_u32 << bits {
        let range = layout::section_range(bits, part);
        let mut entries = Vec::new();
        for (run, group) in runs.runs.iter().zip(&runs.filter_groups) {
            add_entries(&mut chunks, (run, group), &range, &mut entries, fault)?;
        }
        // They stay until their runs are merged.
        entries.retain(|entry| !forgotten.contains(entry.offset));
        entries.iter().for_each(|&entry| of_runs.add(entry));
        let uncovered_part = uncovered.partition_point(|entry| entry.fingerprint < range.start)
            ..uncovered.partition_point(|entry| entry.fingerprint < range.end);
        entries.extend(&uncovered[uncovered_part]);
        entries.sort_unstable();
        for same in entries.chunk_by(|a, b| a.fingerprint == b.fingerprint).filter(|same| same.len() > 1) {
            compare(connection, same, fault)?;
        }
    }
    Ok(of_runs)
}

/// Checks that the index can be built again: each row that has to be there is there and whole.
pub(crate) fn check_rows(connection: &Connection) -> rusqlite::Result<()> {
    let fingerprints = Fingerprints::new((0, 0), BITS);
    let mut rows = RowReader::new(fingerprints, None);
    for_each_row(
        LIMITS.batch,
        connection,
        &mut rows,
        0..PartitionState::read(connection)?.last_offset,
        &mut |_| {},
    )
}

fn describe(error: rusqlite::Error) -> String {
    store_error("checking the dedup index", error).to_string()
}

/// Hands `take` the entries of the rows behind the offset `rows.start`, up to `rows.end`.
fn for_each_row(
    batch: u64,
    connection: &Connection,
    reader: &mut RowReader<'_>,
    rows: Range<u64>,
    take: &mut dyn FnMut(IndexEntry),
) -> rusqlite::Result<()> {
    let mut read_to = rows.start;
    while read_to < rows.end {
        let end = rows.end.min(read_to + batch);
        reader.read(connection, read_to, end, take)?;
        read_to = end;
    }
    Ok(())
}

/// Adds the entries of a run whose fingerprints are in this range. Each of them has to be in the section and the maplet
/// that lookups would ask.
fn add_entries(
    chunks: &mut ChunkReader<'_>,
    (run, group): (&Run, &FilterGroup),
    range: &Range<u64>,
    entries: &mut Vec<IndexEntry>,
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<()> {
    for (number, section) in run.overlapping(range) {
        let of_section = layout::section_range(run.bits, number);
        for chunk in section.chunks(range.start..=range.end - 1) {
            let key = layout::chunk_key(run.id, number, chunk);
            let mut last = None;
            let read = chunks.read(key, |entry| {
                let sorted = last.is_none_or(|last| last <= entry.fingerprint);
                if !sorted || !of_section.contains(&entry.fingerprint) || !group.admits(entry.fingerprint) {
                    fault(format!("the dedup index: chunk {key} holds an entry that no lookup finds there"));
                }
                last = Some(entry.fingerprint);
                if entry.fingerprint >= run.answers_from && range.contains(&entry.fingerprint) {
                    entries.push(entry);
                }
                Continue(())
            });
            read.unwrap_or_else(|error| fault(describe(error)));
        }
    }
    Ok(())
}

/// Checks that rows of one fingerprint have different identities.
fn compare(
    connection: &Connection,
    same: &[IndexEntry],
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(
        "SELECT e.topic_id, e.event_id, CASE t.scope WHEN 1 THEN e.source ELSE '' END
         FROM events e JOIN topics t ON t.topic_id = e.topic_id WHERE e.offset = ?1
         UNION ALL SELECT topic_id, event_id, source FROM stubs WHERE offset = ?1",
    )?;
    let mut stored = StoredIdentities::new(connection)?;
    let mut found: HashMap<(i64, String, String), u64> = HashMap::new();
    for entry in same {
        // A later row may have an identity that was released.
        if stored.at(entry.offset, |row| row.is_released())?.unwrap_or(false) {
            continue;
        }
        let mut rows = select.query([entry.offset])?;
        while let Some(row) = rows.next()? {
            let identity = (row.get(0)?, row.get(1)?, row.get(2)?);
            if let Some(first) = found.insert(identity, entry.offset) {
                fault(format!("offsets {first} and {} hold the same identity", entry.offset));
            }
        }
    }
    Ok(())
}

/// The number and the sum of the hashes of a set of entries; their order does not matter.
#[derive(Default, PartialEq, Eq)]
struct EntrySet {
    count: u64,
    hashes: u64,
}

impl EntrySet {
    fn add(&mut self, entry: IndexEntry) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&entry.fingerprint.to_le_bytes());
        bytes[8..].copy_from_slice(&entry.offset.to_le_bytes());
        self.count += 1;
        self.hashes = self.hashes.wrapping_add(xxh3_64(&bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::store::IndexOptions;
    use crate::store::sqlite::index::run::chunk::{self, Widths};
    use crate::store::sqlite::{SqliteOptions, SqliteStore, TestHooks};
    use crate::{DedupStoreExt, Event, Timestamp};

    /// There are 16 fingerprints, all at the beginning of a part if there are 16 parts or more.
    const FEW_BITS: u32 = 4;

    fn store_of(path: &Path, numbers: &[u64], fingerprint_bits: u32) {
        let hooks = TestHooks { in_step: true, fingerprint_bits, ..TestHooks::default() };
        let store = SqliteStore::open_with(
            path,
            SqliteOptions {
                index: IndexOptions { memtable: 20, section: 5, fan_out: 2 },
                clock: Arc::new(|| Timestamp::from_micros(1)),
                test_hooks: hooks.into(),
                ..SqliteOptions::default()
            },
        )
        .unwrap();
        for numbers in numbers.chunks(10) {
            let events: Vec<_> = numbers.iter().map(|n| Event::new("t", n.to_string()).unwrap()).collect();
            store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        }
    }

    /// A store of 300 rows. Offset 299, which no run covers, has the identity of offset 4, which is in a run. Offset 300
    /// has the identity of offset 298; no run covers these two.
    fn store_with_repeats(directory: &TempDir) -> Connection {
        let [path, other] = ["events.db", "other.db"].map(|name| directory.path().join(name));
        let mut numbers: Vec<u64> = (0..300).collect();
        store_of(&path, &numbers, FEW_BITS);
        numbers.swap(3, 298);
        numbers.swap(297, 299);
        store_of(&other, &numbers, FEW_BITS);
        let connection = Connection::open(&path).unwrap();
        let copy = format!(
            "ATTACH '{}' AS other; DELETE FROM events WHERE offset > 298;
             INSERT INTO events SELECT * FROM other.events WHERE offset > 298; DETACH other",
            other.display()
        );
        connection.execute_batch(&copy).unwrap();
        let covered = Manifest::read(&connection).unwrap().covered;
        assert!((200..298).contains(&covered), "{covered}");
        connection
    }

    fn faults(connection: &Connection, limits: Limits, fingerprint_bits: u32) -> Vec<String> {
        let mut faults = Vec::new();
        check_within(limits, connection, fingerprint_bits, &mut |fault| faults.push(fault)).unwrap();
        faults.sort_unstable();
        faults
    }

    #[test]
    fn it_finds_the_same_however_little_is_read_at_a_time() {
        let directory = TempDir::new().unwrap();
        let connection = store_with_repeats(&directory);
        for batch in [1, 2, 7, 20, 100, LIMITS.batch] {
            let found = faults(&connection, Limits { batch, ..LIMITS }, FEW_BITS);
            let repeats = ["offsets 298 and 300", "offsets 4 and 299"];
            assert_eq!(
                found,
                repeats.map(|offsets| format!("{offsets} hold the same identity")),
                "by {batch}"
            );
        }
    }

    /// The checksum is right, but the first entry of a chunk is another one: with a fingerprint of another section, or
    /// with one that the maplet does not have.
    #[test]
    fn an_entry_that_no_lookup_finds_is_a_fault() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        store_of(&path, &(0..300).collect::<Vec<_>>(), BITS);
        let connection = Connection::open(&path).unwrap();
        let runs = load_runs(&connection, &Manifest::read(&connection).unwrap(), &mut Err).unwrap();
        let (run, group) = (&runs.runs[0], &runs.filter_groups[0]);
        let key = layout::chunk_key(run.id, 1, 0);
        let mut entries = Vec::new();
        let mut chunks = ChunkReader::new(&connection).unwrap();
        chunks
            .read(key, |entry| {
                entries.push(entry);
                Continue(())
            })
            .unwrap();
        let mut elsewhere = None;
        chunks
            .read(layout::chunk_key(run.id, 0, 0), |entry| {
                elsewhere = Some(entry.fingerprint);
                Continue(())
            })
            .unwrap();
        let of_section = layout::section_range(run.bits, 1);
        let unknown =
            (of_section.start..entries[0].fingerprint).find(|&fingerprint| !group.admits(fingerprint));
        for (what, fingerprint) in [("of another section", elsewhere), ("in no maplet", unknown)] {
            let mut others = entries.clone();
            others[0].fingerprint = fingerprint.unwrap();
            let mut chunk = Vec::new();
            chunk::encode(key, &others, Widths::of(&others), &mut chunk);
            connection
                .execute("UPDATE index_chunks SET entries = ?2 WHERE chunk = ?1", (key, chunk))
                .unwrap();
            let found = faults(&connection, LIMITS, BITS);
            let expected = format!("chunk {key} holds an entry that no lookup finds there");
            assert!(found.iter().any(|fault| fault.contains(&expected)), "{what}: {found:?}");
        }
    }

    #[test]
    fn more_rows_behind_the_runs_than_it_holds_are_a_fault() {
        let directory = TempDir::new().unwrap();
        let connection = store_with_repeats(&directory);
        let uncovered = 300 - Manifest::read(&connection).unwrap().covered;
        assert_eq!(faults(&connection, Limits { uncovered, ..LIMITS }, FEW_BITS).len(), 2);
        let found = faults(&connection, Limits { uncovered: uncovered - 1, ..LIMITS }, FEW_BITS);
        assert!(matches!(&found[..], [fault] if fault.contains("open the store to go on")), "{found:?}");
    }

    #[test]
    fn a_sum_stands_for_the_entries_whatever_their_order_and_for_no_others() {
        let sum = |entries: &[(u64, u64)]| {
            let mut sum = EntrySet::default();
            entries.iter().for_each(|&(fingerprint, offset)| sum.add(IndexEntry { fingerprint, offset }));
            sum
        };
        let entries = sum(&[(7, 1), (7, 2), (9, 3)]);
        assert_eq!(entries.count, 3);
        assert!(entries == sum(&[(9, 3), (7, 1), (7, 2)]));
        for others in [
            &[(7, 1), (7, 2)][..],
            &[(7, 1), (7, 2), (9, 4)],
            &[(7, 1), (7, 2), (8, 3)],
            &[(1, 7), (7, 2), (9, 3)],
        ] {
            assert!(entries != sum(others), "{others:?}");
        }
    }
}
