//! Inserts events, many with one statement where possible, and stubs.

use std::sync::LazyLock;

use rusqlite::{CachedStatement, Connection, Result};

use super::prefetch::prefetch;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::row::checksum::{EventRow, StubRow};

/// How many rows one statement inserts. Measured: with more, a row costs no less.
const BATCH_ROWS: usize = 20;

/// Inserts the events of one append or import, inside its transaction.
///
/// A row costs a third less if one statement inserts many rows and SQLite chooses their offsets. SQLite chooses the
/// offset of the last row plus one, which is the right one.
pub(crate) struct Inserts<'c, 'e> {
    connection: &'c Connection,
    one: CachedStatement<'c>,
    batch: CachedStatement<'c>,
    /// Rows of one time that are still to be written, with consecutive offsets.
    waiting: Vec<EventRow<'e>>,
    /// The offset of the last row that was written; `None` if SQLite would not choose the right next offset.
    written: Option<u64>,
}

impl<'c, 'e> Inserts<'c, 'e> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self> {
        Ok(Self {
            connection,
            one: connection.prepare_cached(
                "INSERT INTO events (offset, topic_id, seq, event_id, timestamp, source, payload,
                                     sequence, content_type, attributes, processed_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?,
            batch: connection.prepare_cached(&INSERT_BATCH)?,
            waiting: Vec::with_capacity(BATCH_ROWS),
            written: None,
        })
    }

    /// Takes the next event; it may be written later.
    pub(crate) fn push(&mut self, row: EventRow<'e>) -> Result<()> {
        let is_alike = |first: &EventRow<'_>| first.processed_at == row.processed_at;
        if !self.waiting.first().is_none_or(is_alike) {
            self.flush()?;
        }
        let plain = row.sequence.is_none() && row.content_type.is_none() && row.attributes.is_none();
        // The first row is written with its offset, so that SQLite counts on from there.
        if !plain || self.written.is_none() {
            self.flush()?;
            return self.write(&row);
        }
        self.waiting.push(row);
        if self.waiting.len() == BATCH_ROWS { self.write_batch() } else { Ok(()) }
    }

    /// To be called before a stub is written: the next event will not have the offset behind the last event's.
    pub(crate) fn interrupt(&mut self) -> Result<()> {
        self.flush()?;
        self.written = None;
        Ok(())
    }

    /// Writes the rows that are still waiting.
    pub(crate) fn flush(&mut self) -> Result<()> {
        for row in std::mem::take(&mut self.waiting) {
            self.write(&row)?;
        }
        Ok(())
    }

    fn write(&mut self, row: &EventRow<'_>) -> Result<()> {
        self.one.execute((
            row.offset,
            row.topic_id,
            row.seq,
            row.event_id,
            row.timestamp,
            row.source,
            row.payload,
            row.sequence,
            row.content_type,
            row.attributes,
            row.processed_at,
            row.checksum(),
        ))?;
        self.written = Some(row.offset);
        Ok(())
    }

    fn write_batch(&mut self) -> Result<()> {
        // Another thread has decoded these texts, so they are not in this processor's cache.
        prefetch(self.waiting.iter().flat_map(|row| [row.event_id, row.payload].map(str::as_bytes)));
        let (first, last) = (&self.waiting[0], &self.waiting[BATCH_ROWS - 1]);
        self.batch.raw_bind_parameter(1, first.processed_at)?;
        let last = last.offset;
        for (row, at) in self.waiting.iter().zip((2..).step_by(BATCH_PARAMETERS)) {
            self.batch.raw_bind_parameter(at, row.topic_id)?;
            self.batch.raw_bind_parameter(at + 1, row.seq)?;
            self.batch.raw_bind_parameter(at + 2, row.event_id)?;
            self.batch.raw_bind_parameter(at + 3, row.timestamp)?;
            self.batch.raw_bind_parameter(at + 4, row.source)?;
            self.batch.raw_bind_parameter(at + 5, row.payload)?;
            self.batch.raw_bind_parameter(at + 6, row.checksum())?;
        }
        self.batch.raw_execute()?;
        self.waiting.clear();
        self.written = Some(last);
        if self.connection.last_insert_rowid().cast_unsigned() == last {
            return Ok(());
        }
        Err(Corruption::error(format!("offset {last} is not the one behind the last event")))
    }
}

/// Inserts stubs.
pub(crate) struct StubInserts<'c>(CachedStatement<'c>);

impl<'c> StubInserts<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self> {
        let insert = connection.prepare_cached(
            "INSERT INTO stubs (offset, topic_id, seq, event_id, source, digest, processed_at, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        Ok(Self(insert))
    }

    pub(crate) fn write(&mut self, stub: &StubRow<'_>) -> Result<()> {
        let insert = self.0.execute((
            stub.offset,
            stub.topic_id,
            stub.seq,
            stub.event_id,
            stub.source,
            stub.digest,
            stub.processed_at,
            stub.checksum(),
        ));
        insert.map(drop)
    }
}

/// How many parameters a row of a batch has of its own.
const BATCH_PARAMETERS: usize = 7;

static INSERT_BATCH: LazyLock<String> = LazyLock::new(|| {
    let row = |n: usize| {
        let at = 2 + BATCH_PARAMETERS * n;
        let own: Vec<_> = (at..at + BATCH_PARAMETERS).map(|at| format!("?{at}")).collect();
        format!("(?1, {})", own.join(", "))
    };
    let rows: Vec<_> = (0..BATCH_ROWS).map(row).collect();
    // OR FAIL, because a statement that fails ends the transaction anyway. By default SQLite would be ready to undo this
    // statement alone, and would keep a copy of each page for that.
    format!(
        "INSERT OR FAIL INTO events (processed_at, topic_id, seq, event_id, timestamp, source, payload, checksum)
         VALUES {}",
        rows.join(", ")
    )
});
