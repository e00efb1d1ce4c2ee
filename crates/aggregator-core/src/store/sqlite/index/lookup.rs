//! From a candidate of the index to the offsets of rows.

use std::ops::ControlFlow::{self, Break, Continue};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result};

use super::manifest::{Manifest, damaged};
use super::run::chunk;
use super::{Candidate, Index, IndexEntry, Location, Probe};
use crate::store::sqlite::fault::check_deadline;
use crate::store::sqlite::row::Key;

/// Reads chunks inside the transaction that its connection has open.
pub(crate) struct ChunkReader<'c>(CachedStatement<'c>);

impl<'c> ChunkReader<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self> {
        connection.prepare_cached("SELECT entries FROM index_chunks WHERE chunk = ?1").map(Self)
    }

    /// Hands the entries of a chunk to `take`, in order, until `take` breaks.
    pub(crate) fn read(
        &mut self,
        key: i64,
        mut take: impl FnMut(IndexEntry) -> ControlFlow<()>,
    ) -> Result<()> {
        let found = self.0.query_row([key], |row| {
            let mut entries = chunk::decode(key, row.get_ref(0)?.as_blob()?)
                .ok_or_else(|| damaged(format!("chunk {key} does not match its checksum")))?;
            let _ = entries.try_for_each(&mut take);
            Ok(())
        });
        found.optional()?.ok_or_else(|| damaged(format!("chunk {key} is missing")))
    }

    /// The offsets of the rows at this location that have the fingerprint.
    pub(crate) fn offsets(
        &mut self,
        index: &Index,
        location: Location,
        fingerprint: u64,
    ) -> Result<Vec<u64>> {
        let mut offsets = Vec::new();
        match location {
            Location::Runs => {
                for location in index.locations_in_runs(fingerprint) {
                    offsets.extend(self.offsets(index, location, fingerprint)?);
                }
            }
            Location::Row(offset) => offsets.push(offset),
            Location::Chunks { first, count } => {
                for key in first..first + i64::from(count) {
                    self.read(key, |entry| {
                        if entry.fingerprint == fingerprint {
                            offsets.push(entry.offset);
                        }
                        if entry.fingerprint <= fingerprint { Continue(()) } else { Break(()) }
                    })?;
                }
            }
        }
        Ok(offsets)
    }
}

/// Whether the index in memory belongs to the commit that the connection's open transaction sees. `last_offset` is that
/// of the transaction. If not, [`find`] would return `None`, so the caller can save the work before it.
pub(crate) fn matches_snapshot(snapshot: &Connection, index: &Index, last_offset: u64) -> Result<bool> {
    Ok(index.matches(Manifest::read_generation(snapshot)?, last_offset))
}

/// For each key, the rows up to `last_offset` that may hold it, as of the transaction that the connection has open.
/// `None` if the index in memory belongs to another commit: begin a new transaction then.
pub(crate) fn find(
    snapshot: &Connection,
    index: &Index,
    keys: &[Key<'_>],
    last_offset: u64,
) -> Result<Option<Vec<Vec<u64>>>> {
    let probes: Vec<Probe> = keys.iter().map(|&key| index.fingerprint(key).into()).collect();
    let generation = Manifest::read_generation(snapshot)?;
    let Some(candidates) = index.probe_at(generation, last_offset, &probes) else { return Ok(None) };
    let mut found = vec![Vec::new(); keys.len()];
    let mut chunks = ChunkReader::new(snapshot)?;
    for Candidate { position, location } in candidates {
        check_deadline()?;
        let offsets = chunks.offsets(index, location, probes[position].fingerprint)?;
        // The memtable may already have rows that were appended after the transaction began.
        found[position].extend(offsets.into_iter().filter(|&offset| offset <= last_offset));
    }
    Ok(Some(found))
}
