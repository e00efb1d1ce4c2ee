//! A row of the journal.

use std::collections::BTreeSet;

use rusqlite::{Connection, Result};

use super::damaged;
use crate::store::sqlite::row::checksum::Checksum;
use crate::varint;

pub(crate) const CREATE: &str = "
-- What each commit changed of its topics, until it is folded into topics and spans. The row of the partition says which
-- rows there are.
CREATE TABLE journal (
    id           INTEGER PRIMARY KEY,
    first_offset INTEGER NOT NULL, -- of the commit's events; the entries say how many each topic has
    folded       BLOB NOT NULL,    -- the topics that the commit has folded before its own changes
    entries      BLOB NOT NULL,    -- the topics that the commit has changed, in the order of its events
    checksum     INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;
";

/// What a commit has changed of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) topic_id: i64,
    /// How many events were stored. Those of the first entry come first.
    pub(crate) stored: u64,
    /// Conflicts included.
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

/// A row, with its entries still in bytes.
///
/// | bytes | |
/// |---|---|
/// | `folded` | ids that follow on each other, ascending: how far the first one is behind the last one before, and how many |
/// | `entries` | the id, the number of events times four, plus 2 if there are duplicates, plus 1 if there are conflicts; their numbers |
///
/// All numbers are varints: seven bits a byte, the lower ones first (LEB128).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) first_offset: u64,
    folded: Vec<u8>,
    entries: Vec<u8>,
}

impl Row {
    pub(crate) fn new(id: u64, first_offset: u64, folded: &BTreeSet<i64>, entries: &[Entry]) -> Self {
        let mut row =
            Self { id, first_offset, folded: Vec::new(), entries: Vec::with_capacity(entries.len() * 4) };
        let folded: Vec<_> = folded.iter().copied().collect();
        let mut last = 0;
        for run in folded.chunk_by(|a, b| a + 1 == *b) {
            varint::write(&mut row.folded, (run[0] - last).cast_unsigned());
            varint::write(&mut row.folded, run.len() as u64);
            last = run[run.len() - 1];
        }
        for entry in entries {
            let (duplicates, conflicts) = (entry.duplicates > 0, entry.conflicts > 0);
            varint::write(&mut row.entries, entry.topic_id.cast_unsigned());
            varint::write(
                &mut row.entries,
                entry.stored << 2 | u64::from(duplicates) << 1 | u64::from(conflicts),
            );
            [entry.duplicates, entry.conflicts]
                .into_iter()
                .filter(|&count| count > 0)
                .for_each(|count| varint::write(&mut row.entries, count));
        }
        row
    }

    /// How many bytes it takes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.folded.len() + self.entries.len()) as u64
    }

    pub(crate) fn insert(&self, connection: &Connection) -> Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO journal (id, first_offset, folded, entries, checksum) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((self.id, self.first_offset, &self.folded, &self.entries, self.checksum()))
            .map(drop)
    }

    /// Deletes the rows from `first` on, up to the one before `until`. All of them have to be there.
    pub(crate) fn delete(connection: &Connection, first: u64, until: u64) -> Result<()> {
        let mut delete = connection.prepare_cached("DELETE FROM journal WHERE id >= ?1 AND id < ?2")?;
        if delete.execute((first, until))? as u64 == until - first {
            return Ok(());
        }
        Err(damaged(format!("a row is missing, of {first} to {}", until - 1)))
    }

    /// Hands `take` the rows from `first` on, in their order, checked.
    pub(crate) fn each(
        connection: &Connection,
        first: u64,
        mut take: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        let mut select = connection.prepare_cached(
            "SELECT id, first_offset, folded, entries, checksum FROM journal WHERE id >= ?1 ORDER BY id",
        )?;
        let mut rows = select.query([first])?;
        while let Some(row) = rows.next()? {
            let read = Self {
                id: row.get(0)?,
                first_offset: row.get(1)?,
                folded: row.get(2)?,
                entries: row.get(3)?,
            };
            if read.checksum() != row.get::<_, i64>(4)? {
                return Err(damaged(format!("row {} does not match its checksum", read.id)));
            }
            take(&read)?;
        }
        Ok(())
    }

    /// The ids of the topics that were folded, of so many that there are.
    pub(crate) fn folded(&self, topics: u64) -> Result<Vec<i64>> {
        let mut bytes = self.folded.as_slice();
        let mut ids = Vec::new();
        let mut last: u64 = 0;
        while !bytes.is_empty() {
            let (gap, count) = (self.varint(&mut bytes)?, self.varint(&mut bytes)?);
            let first = last.checked_add(gap).filter(|_| gap > 0).ok_or_else(|| self.garbled())?;
            // There are no such topics: a wrong number is no reason to run out of memory.
            let end = first.checked_add(count).filter(|&end| end <= topics.saturating_add(1) && count > 0);
            last = end.ok_or_else(|| self.garbled())? - 1;
            ids.extend((first..=last).map(u64::cast_signed));
        }
        Ok(ids)
    }

    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        let mut bytes = self.entries.as_slice();
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let (topic_id, numbers) = (self.varint(&mut bytes)?, self.varint(&mut bytes)?);
            let mut count = |flag| if numbers & flag == 0 { Ok(0) } else { self.varint(&mut bytes) };
            let (duplicates, conflicts) = (count(2)?, count(1)?);
            if !(1..MAX_ID).contains(&topic_id) {
                return Err(self.garbled());
            }
            entries.push(Entry {
                topic_id: topic_id.cast_signed(),
                stored: numbers >> 2,
                duplicates,
                conflicts,
            });
        }
        Ok(entries)
    }

    fn varint(&self, bytes: &mut &[u8]) -> Result<u64> {
        varint::read(bytes).ok_or_else(|| self.garbled())
    }

    fn garbled(&self) -> rusqlite::Error {
        damaged(format!("row {} cannot be understood", self.id))
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        sum.number(self.id);
        sum.number(self.first_offset);
        for bytes in [&self.folded, &self.entries] {
            sum.number(bytes.len() as u64);
            sum.bytes(bytes);
        }
        sum.finish()
    }
}

/// Greater than any id of a topic.
const MAX_ID: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(topic_id: i64, stored: u64, duplicates: u64, conflicts: u64) -> Entry {
        Entry { topic_id, stored, duplicates, conflicts }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let entries =
            [entry(1, 0, 0, 0), entry(300, 7, 0, 0), entry(2, 1 << 60, u64::MAX, 3), entry(9, 1, 5, 0)];
        let row = Row::new(7, 1 << 40, &BTreeSet::from([9, 3, 4, 1, 5, 1_000_000]), &entries);
        assert_eq!(row.entries().unwrap(), entries);
        assert_eq!(row.folded(1_000_000).unwrap(), [1, 3, 4, 5, 9, 1_000_000]);
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(CREATE).unwrap();
        row.insert(&connection).unwrap();
        let mut read = 0;
        Row::each(&connection, 7, |found| {
            assert_eq!(*found, row);
            read += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(read, 1);
    }

    #[test]
    fn a_topic_with_one_event_takes_two_to_four_bytes() {
        let bytes = |topic_id| Row::new(1, 1, &BTreeSet::new(), &[entry(topic_id, 1, 0, 0)]).bytes();
        assert_eq!((bytes(100), bytes(10_000), bytes(1_000_000)), (2, 3, 4));
    }

    /// The bytes come from a file, and the checksum protects against accidents alone.
    #[test]
    fn no_bytes_make_it_panic_or_run_out_of_memory() {
        let long = [0xff; 9];
        for bytes in
            [&[][..], &[0], &[0, 1], &[1], &[1, 0], &[0x80], &long, &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            let row = Row { id: 1, first_offset: 1, folded: bytes.to_vec(), entries: bytes.to_vec() };
            let (folded, entries) = (row.folded(1_000_000), row.entries());
            assert_eq!(folded.is_ok(), bytes.is_empty(), "{bytes:?}: {folded:?}");
            assert_eq!(entries.is_ok(), matches!(bytes, [] | [1, 0]), "{bytes:?}: {entries:?}");
        }
    }
}
