//! What is left of forgotten rows: one mark per topic, which says up to where there is nothing.

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::checksum::Checksum;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::schema;

/// The mark of a topic: the last row of it that was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) topic_id: i64,
    /// Rows of the topic are missing up to this offset, and at this one.
    pub(crate) offset: u64,
    /// The seq of the last event that was forgotten; 0 if only identities without seqs were.
    pub(crate) seq: u64,
    /// At how many offsets there is nothing because of it.
    pub(crate) rows: u64,
    /// When the event of `seq` was stored.
    pub(crate) processed_at: i64,
}

/// The columns that [`Forgotten::read`] reads.
pub(crate) const FORGOTTEN_COLUMNS: &str = "f.topic_id, f.offset, f.seq, f.rows, f.processed_at, f.checksum";

impl Forgotten {
    /// Reads a row of [`FORGOTTEN_COLUMNS`], and checks it.
    pub(crate) fn read(row: &Row<'_>) -> Result<Self> {
        let mark = Self {
            topic_id: row.get(0)?,
            offset: row.get(1)?,
            seq: row.get(2)?,
            rows: row.get(3)?,
            processed_at: row.get(4)?,
        };
        if mark.checksum() == row.get::<_, i64>(5)? {
            return Ok(mark);
        }
        let what = format!("the mark of what topic {} forgot does not match its checksum", mark.topic_id);
        Err(Corruption::error(what))
    }

    /// That of a topic, if any of it was forgotten.
    pub(crate) fn of(connection: &Connection, topic_id: i64) -> Result<Option<Self>> {
        if !schema::has_forgotten(connection)? {
            return Ok(None);
        }
        let sql = format!("SELECT {FORGOTTEN_COLUMNS} FROM forgotten f WHERE f.topic_id = ?1");
        connection.prepare_cached(&sql)?.query_row([topic_id], Self::read).optional()
    }

    /// Those whose offsets are behind `after`, up to `to`, in the order of their offsets.
    pub(crate) fn between(connection: &Connection, after: u64, to: u64) -> Result<Vec<Self>> {
        if !schema::has_forgotten(connection)? {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {FORGOTTEN_COLUMNS} FROM forgotten f WHERE f.offset > ?1 AND f.offset <= ?2 ORDER BY f.offset"
        );
        connection.prepare_cached(&sql)?.query_map((after, to), Self::read)?.collect()
    }

    pub(crate) fn write(&self, connection: &Connection) -> Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO forgotten (topic_id, offset, seq, rows, processed_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (topic_id) DO UPDATE SET offset = excluded.offset, seq = excluded.seq,
                     rows = excluded.rows, processed_at = excluded.processed_at, checksum = excluded.checksum",
            )?
            .execute((self.topic_id, self.offset, self.seq, self.rows, self.processed_at, self.checksum()))
            .map(drop)
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        let numbers = [self.topic_id.cast_unsigned(), self.offset, self.seq, self.rows];
        numbers.into_iter().for_each(|number| sum.number(number));
        sum.number(self.processed_at.cast_unsigned());
        sum.finish()
    }
}

/// Up to this offset, rows may be missing because they were forgotten; 0 if none was.
pub(crate) fn horizon(connection: &Connection) -> Result<u64> {
    if !schema::has_forgotten(connection)? {
        return Ok(0);
    }
    let mut select = connection.prepare_cached("SELECT coalesce(max(offset), 0) FROM forgotten")?;
    select.query_row([], |row| row.get(0))
}
