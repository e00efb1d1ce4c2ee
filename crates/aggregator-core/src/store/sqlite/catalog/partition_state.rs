//! The partition's row: its counters.

use rusqlite::{Connection, Row};

use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::row::checksum::Checksum;
use crate::store::sqlite::schema;

/// The partition's row.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PartitionState {
    pub(crate) last_offset: u64,
    pub(crate) last_processed_at: i64,
    pub(crate) topics: u64,
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
    /// The number of the oldest row of the journal. If that is the one behind the last row, there is none.
    pub(crate) journal_first: u64,
    pub(crate) journal_last: u64,
}

impl PartitionState {
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let select = connection.prepare_cached(
            "SELECT last_offset, last_processed_at, topics, stored, duplicates, conflicts, checksum,
                    journal_first, journal_last
             FROM partitions WHERE partition = 0",
        );
        let mut select = match select {
            // Formats without a journal.
            Err(_) if !schema::has_journal(connection)? => {
                return Self::read_without_journal(connection, "partitions");
            }
            select => select?,
        };
        select.query_row([], |row| {
            let journal = (row.get(7)?, row.get(8)?);
            Self { journal_first: journal.0, journal_last: journal.1, ..Self::counters(row)? }.checked(row)
        })
    }

    /// That of a format without a journal.
    pub(crate) fn read_without_journal(connection: &Connection, table: &str) -> rusqlite::Result<Self> {
        connection.query_row(
            &format!(
                "SELECT last_offset, last_processed_at, topics, stored, duplicates, conflicts, checksum
                 FROM {table} WHERE partition = 0"
            ),
            [],
            |row| Self::counters(row)?.checked(row),
        )
    }

    fn counters(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            last_offset: row.get(0)?,
            last_processed_at: row.get(1)?,
            topics: row.get(2)?,
            stored: row.get(3)?,
            duplicates: row.get(4)?,
            conflicts: row.get(5)?,
            ..Self::default()
        })
    }

    fn checked(self, row: &Row<'_>) -> rusqlite::Result<Self> {
        if self.checksum() == row.get::<_, i64>(6)? {
            return Ok(self);
        }
        Err(Corruption::error("the partition's counters do not match their checksum".into()))
    }

    /// Inserts the row of an empty store.
    pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
        let partition = Self { last_processed_at: i64::MIN, ..Self::default() };
        connection.execute(
            "INSERT INTO partitions (partition, last_offset, last_processed_at, topics, stored, duplicates,
                                     conflicts, checksum, journal_first, journal_last)
             VALUES (0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
            [],
        )?;
        partition.with_journal().write(connection)
    }

    /// With an empty journal, which a row of a format without one lacks.
    pub(crate) fn with_journal(self) -> Self {
        Self { journal_first: 1, journal_last: 0, ..self }
    }

    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE partitions SET last_offset = ?1, last_processed_at = ?2, topics = ?3, stored = ?4,
                    duplicates = ?5, conflicts = ?6, checksum = ?7, journal_first = ?8, journal_last = ?9
             WHERE partition = 0",
        )?;
        let rows = update.execute((
            self.last_offset,
            self.last_processed_at,
            self.topics,
            self.stored,
            self.duplicates,
            self.conflicts,
            self.checksum(),
            self.journal_first,
            self.journal_last,
        ))?;
        if rows == 1 { Ok(()) } else { Err(Corruption::error("the row of the partition is missing".into())) }
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        let times = [self.last_processed_at.cast_unsigned(), self.last_offset];
        let counters = [self.topics, self.stored, self.duplicates, self.conflicts];
        times.into_iter().chain(counters).for_each(|number| sum.number(number));
        if self.journal_first > 0 {
            [self.journal_first, self.journal_last].into_iter().for_each(|number| sum.number(number));
        }
        sum.finish()
    }
}
