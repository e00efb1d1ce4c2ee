//! The index checked against the rows it leads to.

use std::collections::HashMap;
use std::ops::ControlFlow::Continue;

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::Entry;
use super::filter::filter_group::FilterGroup;
use super::fingerprint::{BITS, Fingerprints};
use super::layout;
use super::lookup::Chunks;
use super::manifest::Manifest;
use super::recovery::{Rows, load};
use super::run::Run;
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::store_error;

/// How many rows are looked at, or entries, in one piece.
const PIECE: u64 = 1 << 16;

/// The most rows without a run that are held in memory.
const MAX_TAIL: u64 = 1 << 26;

/// Checks that the runs hold an entry for each row they cover and nothing more, that their maplets let
/// each of them through, and that no identity has two rows. `fault` is told what does not fit.
pub(crate) fn check(
    connection: &Connection,
    fingerprint_bits: u32,
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<()> {
    let manifest = Manifest::read(connection)?;
    if manifest.covered > PartitionState::read(connection)?.last_offset {
        fault("the dedup index covers more than there is".into());
        return Ok(());
    }
    let runs = load(connection, &manifest, &mut |error| {
        fault(tell(error));
        Ok(())
    })?;
    let mut rows =
        Rows { fingerprints: Fingerprints::new(manifest.key, fingerprint_bits), scopes: HashMap::new() };
    let mut of_rows = Sum::default();
    each_row(connection, &mut rows, 0, manifest.covered, &mut |entry| of_rows.add(entry))?;
    // What no run covers is found by what is in memory, but it may have the identity of what a run covers.
    let mut tail = Vec::new();
    let last_offset = PartitionState::read(connection)?.last_offset;
    if last_offset - manifest.covered > MAX_TAIL {
        let covered = manifest.covered;
        fault(format!(
            "the dedup index ends at offset {covered} of {last_offset}: open the store to go on with it"
        ));
        return Ok(());
    }
    each_row(connection, &mut rows, manifest.covered, last_offset, &mut |entry| tail.push(entry))?;
    tail.sort_unstable();

    let mut of_runs = Sum::default();
    let mut chunks = Chunks::new(connection)?;
    let entries: u64 = runs
        .runs
        .iter()
        .map(|run| run.sections.iter().flatten().map(|s| u64::from(s.entries)).sum::<u64>())
        .sum();
    let bits = ((entries / PIECE).next_power_of_two().trailing_zeros()).min(layout::MAX_SECTION_BITS);
    for piece in 0..1_u32 << bits {
        let range = layout::fingerprints(bits, piece);
        let mut entries = Vec::new();
        for (run, unit) in runs.runs.iter().zip(&runs.units) {
            gather(&mut chunks, (run, unit), &range, &mut entries, fault)?;
        }
        entries.iter().for_each(|&entry| of_runs.add(entry));
        let of_tail = tail.partition_point(|entry| entry.fingerprint < range.start)
            ..tail.partition_point(|entry| entry.fingerprint < range.end);
        entries.extend(&tail[of_tail]);
        entries.sort_unstable();
        for same in entries.chunk_by(|a, b| a.fingerprint == b.fingerprint).filter(|same| same.len() > 1) {
            compare(connection, same, fault)?;
        }
    }
    if of_rows.count != of_runs.count {
        fault(format!("the dedup index holds {} entries for {} rows", of_runs.count, of_rows.count));
    } else if of_rows != of_runs {
        fault("the dedup index leads to other rows than those that are there".into());
    }
    Ok(())
}

/// Checks that the index can be made anew: that every row there has to be is there and whole.
pub(crate) fn check_log(connection: &Connection) -> rusqlite::Result<()> {
    let fingerprints = Fingerprints::new((0, 0), BITS);
    let mut rows = Rows { fingerprints, scopes: HashMap::new() };
    each_row(connection, &mut rows, 0, PartitionState::read(connection)?.last_offset, &mut |_| {})
}

fn tell(error: rusqlite::Error) -> String {
    store_error("checking the dedup index", error).to_string()
}

fn each_row(
    connection: &Connection,
    rows: &mut Rows,
    after: u64,
    to: u64,
    take: &mut dyn FnMut(Entry),
) -> rusqlite::Result<()> {
    let mut read_to = after;
    while read_to < to {
        let end = to.min(read_to + PIECE);
        rows.read(connection, read_to, end, take)?;
        read_to = end;
    }
    Ok(())
}

/// The entries of a run with fingerprints in this range.
fn gather(
    chunks: &mut Chunks<'_>,
    (run, unit): (&Run, &FilterGroup),
    range: &std::ops::Range<u64>,
    entries: &mut Vec<Entry>,
    fault: &mut dyn FnMut(String),
) -> rusqlite::Result<()> {
    for (number, section) in run.overlapping(range) {
        let of_section = layout::fingerprints(run.bits, number);
        for chunk in section.chunks(range.start..=range.end - 1) {
            let key = layout::chunk_key(run.id, number, chunk);
            let mut last = None;
            let read = chunks.read(key, |entry| {
                let sorted = last.is_none_or(|last| last <= entry.fingerprint);
                if !sorted || !of_section.contains(&entry.fingerprint) || !unit.admits(entry.fingerprint) {
                    fault(format!("the dedup index: chunk {key} holds what is not found there"));
                }
                last = Some(entry.fingerprint);
                if entry.fingerprint >= run.from && range.contains(&entry.fingerprint) {
                    entries.push(entry);
                }
                Continue(())
            });
            read.unwrap_or_else(|error| fault(tell(error)));
        }
    }
    Ok(())
}

/// Rows of one fingerprint have different identities.
fn compare(connection: &Connection, same: &[Entry], fault: &mut dyn FnMut(String)) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(
        "SELECT e.topic_id, e.event_id, CASE t.scope WHEN 1 THEN e.source ELSE '' END
         FROM events e JOIN topics t ON t.topic_id = e.topic_id WHERE e.offset = ?1
         UNION ALL SELECT topic_id, event_id, source FROM stubs WHERE offset = ?1",
    )?;
    let mut found: HashMap<(i64, String, String), u64> = HashMap::new();
    for entry in same {
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

/// Stands for a set of entries, whatever their order.
#[derive(Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    hashes: u64,
}

impl Sum {
    fn add(&mut self, entry: Entry) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&entry.fingerprint.to_le_bytes());
        bytes[8..].copy_from_slice(&entry.offset.to_le_bytes());
        self.count += 1;
        self.hashes = self.hashes.wrapping_add(xxh3_64(&bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_stands_for_the_entries_whatever_their_order_and_for_no_others() {
        let sum = |entries: &[(u64, u64)]| {
            let mut sum = Sum::default();
            entries.iter().for_each(|&(fingerprint, offset)| sum.add(Entry { fingerprint, offset }));
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
