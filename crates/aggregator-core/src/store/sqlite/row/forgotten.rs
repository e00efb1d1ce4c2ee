//! What is left of the rows that a topic has forgotten: a mark, which says up to which seq they went.

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::checksum::Checksum;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::schema;

/// The mark of a topic: the last row of it that was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) topic_id: i64,
    /// That of the row. Nothing is there any more: see [`Gap`](super::gap::Gap).
    pub(crate) offset: u64,
    /// The seq of the last event that was forgotten; 0 if only identities without seqs were.
    pub(crate) seq: u64,
    /// When the event of `seq` was stored.
    pub(crate) processed_at: i64,
}

/// The columns that [`Forgotten::read`] reads.
pub(crate) const FORGOTTEN_COLUMNS: &str = "f.topic_id, f.offset, f.seq, f.processed_at, f.checksum";

impl Forgotten {
    /// Reads a row of [`FORGOTTEN_COLUMNS`], and checks it.
    pub(crate) fn read(row: &Row<'_>) -> Result<Self> {
        let mark =
            Self { topic_id: row.get(0)?, offset: row.get(1)?, seq: row.get(2)?, processed_at: row.get(3)? };
        if mark.checksum() == row.get::<_, i64>(4)? {
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
                "INSERT INTO forgotten (topic_id, offset, seq, processed_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (topic_id) DO UPDATE SET offset = excluded.offset, seq = excluded.seq,
                     processed_at = excluded.processed_at, checksum = excluded.checksum",
            )?
            .execute((self.topic_id, self.offset, self.seq, self.processed_at, self.checksum()))
            .map(drop)
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        let numbers = [self.topic_id.cast_unsigned(), self.offset, self.seq];
        numbers.into_iter().for_each(|number| sum.number(number));
        sum.number(self.processed_at.cast_unsigned());
        sum.finish()
    }
}
