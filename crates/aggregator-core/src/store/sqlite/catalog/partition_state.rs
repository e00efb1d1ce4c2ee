//! The partition's row: its counters.

use rusqlite::Connection;

use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::row::checksum::Checksum;

/// The partition's row.
#[derive(Clone, Copy, Default)]
pub(crate) struct PartitionState {
    pub(crate) last_offset: u64,
    pub(crate) last_processed_at: i64,
    pub(crate) topics: u64,
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

impl PartitionState {
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut select = connection.prepare_cached(
            "SELECT last_offset, last_processed_at, topics, stored, duplicates, conflicts, checksum
             FROM partitions WHERE partition = 0",
        )?;
        select.query_row([], |row| {
            let partition = Self {
                last_offset: row.get(0)?,
                last_processed_at: row.get(1)?,
                topics: row.get(2)?,
                stored: row.get(3)?,
                duplicates: row.get(4)?,
                conflicts: row.get(5)?,
            };
            if partition.checksum() != row.get::<_, i64>(6)? {
                return Err(Corruption::error("the partition's counters do not match their checksum".into()));
            }
            Ok(partition)
        })
    }

    /// Inserts the row of an empty store.
    pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
        let partition = Self { last_processed_at: i64::MIN, ..Self::default() };
        connection.execute("INSERT INTO partitions VALUES (0, 0, 0, 0, 0, 0, 0, 0)", [])?;
        partition.write(connection)
    }

    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE partitions SET last_offset = ?1, last_processed_at = ?2, topics = ?3, stored = ?4,
                    duplicates = ?5, conflicts = ?6, checksum = ?7
             WHERE partition = 0",
        )?;
        update.execute((
            self.last_offset,
            self.last_processed_at,
            self.topics,
            self.stored,
            self.duplicates,
            self.conflicts,
            self.checksum(),
        ))?;
        Ok(())
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        let times = [self.last_processed_at.cast_unsigned(), self.last_offset];
        let counters = [self.topics, self.stored, self.duplicates, self.conflicts];
        times.into_iter().chain(counters).for_each(|number| sum.number(number));
        sum.finish()
    }
}
