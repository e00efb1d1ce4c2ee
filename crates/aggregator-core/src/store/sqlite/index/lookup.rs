//! From a hit to the row.

use std::ops::ControlFlow::{self, Break, Continue};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result};

use super::manifest::{Manifest, damaged};
use super::run::chunk;
use super::{Entry, Hit, Index, Key, Place, Sought};
use crate::store::sqlite::fault::check_deadline;

/// Reads chunks, inside whatever transaction its connection has open.
pub(crate) struct Chunks<'c>(CachedStatement<'c>);

impl<'c> Chunks<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self> {
        connection.prepare_cached("SELECT entries FROM index_chunks WHERE chunk = ?1").map(Self)
    }

    /// Hands the entries of a chunk to `take`, in order, until that has had enough.
    pub(crate) fn read(&mut self, key: i64, mut take: impl FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let found = self.0.query_row([key], |row| {
            let mut entries = chunk::decode(key, row.get_ref(0)?.as_blob()?)
                .ok_or_else(|| damaged(format!("chunk {key} does not match its checksum")))?;
            let _ = entries.try_for_each(&mut take);
            Ok(())
        });
        found.optional()?.ok_or_else(|| damaged(format!("chunk {key} is missing")))
    }

    /// The offsets of the rows that a place stands for, in which the fingerprint is.
    pub(crate) fn offsets(&mut self, index: &Index, place: Place, fingerprint: u64) -> Result<Vec<u64>> {
        let mut offsets = Vec::new();
        match place {
            Place::Runs => {
                for place in index.in_runs(fingerprint) {
                    offsets.extend(self.offsets(index, place, fingerprint)?);
                }
            }
            Place::Row(offset) => offsets.push(offset),
            Place::Chunks { first, count } => {
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

/// Whether what is in memory is as of the transaction that the connection has open, and whose last offset this is. If
/// not, [`find`] will say `None`, and nobody has to do the work that comes before it.
pub(crate) fn is_at_one(snapshot: &Connection, index: &Index, last_offset: u64) -> Result<bool> {
    Ok(index.is_at(Manifest::read_generation(snapshot)?, last_offset))
}

/// For each of the keys, the rows up to `last_offset` that may hold it, as of the transaction that the
/// connection has open. `None` if what is in memory belongs to another commit: begin anew.
pub(crate) fn find(
    snapshot: &Connection,
    index: &Index,
    keys: &[Key<'_>],
    last_offset: u64,
) -> Result<Option<Vec<Vec<u64>>>> {
    let sought: Vec<Sought> = keys.iter().map(|&key| index.fingerprint(key).into()).collect();
    let generation = Manifest::read_generation(snapshot)?;
    let Some(hits) = index.probe_at(generation, last_offset, &sought) else { return Ok(None) };
    let mut found = vec![Vec::new(); keys.len()];
    let mut chunks = Chunks::new(snapshot)?;
    for Hit { position, place } in hits {
        check_deadline()?;
        let offsets = chunks.offsets(index, place, sought[position].fingerprint)?;
        // What was appended meanwhile is in memory already.
        found[position].extend(offsets.into_iter().filter(|&offset| offset <= last_offset));
    }
    Ok(Some(found))
}
