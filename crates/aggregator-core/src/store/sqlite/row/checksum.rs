//! A checksum for each row, because SQLite has none, and a disk may return other bytes than were written.

use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::sqlite::fault::Corruption;

/// A row of `events`, in the order of [`EVENT_COLUMNS`].
pub(crate) struct EventRow<'a> {
    pub(crate) offset: u64,
    pub(crate) topic_id: i64,
    pub(crate) seq: u64,
    pub(crate) event_id: &'a str,
    pub(crate) timestamp: &'a str,
    pub(crate) source: &'a str,
    pub(crate) payload: &'a str,
    pub(crate) sequence: Option<u64>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) attributes: Option<&'a str>,
    pub(crate) processed_at: i64,
    /// Whether its identity was released: see [`check`].
    pub(crate) released: bool,
}

/// The columns that [`EventRow::read`] reads.
pub(crate) const EVENT_COLUMNS: &str =
    "e.offset, e.topic_id, e.seq, e.event_id, e.timestamp, e.source, e.payload,
    e.sequence, e.content_type, e.attributes, e.processed_at, e.checksum";

impl<'a> EventRow<'a> {
    /// Reads a row whose columns begin with [`EVENT_COLUMNS`], and checks it.
    pub(crate) fn read(row: &'a Row<'_>) -> Result<Self> {
        let optional =
            |column| row.get_ref(column)?.as_str_or_null().map_err(|error| not_text(column, error));
        let mut event = Self {
            offset: row.get(0)?,
            topic_id: row.get(1)?,
            seq: row.get(2)?,
            event_id: text(row, 3)?,
            timestamp: text(row, 4)?,
            source: text(row, 5)?,
            payload: text(row, 6)?,
            sequence: row.get(7)?,
            content_type: optional(8)?,
            attributes: optional(9)?,
            processed_at: row.get(10)?,
            released: false,
        };
        event.released = check("event", event.offset, event.checksum(), row.get(11)?)?;
        Ok(event)
    }

    pub(crate) fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        sum.number(self.offset);
        sum.number(self.topic_id.cast_unsigned());
        sum.number(self.seq);
        sum.text(Some(self.event_id));
        sum.text(Some(self.timestamp));
        sum.text(Some(self.source));
        sum.text(Some(self.payload));
        // No sequence is above i64::MAX.
        sum.number(self.sequence.unwrap_or(u64::MAX));
        sum.text(self.content_type);
        sum.text(self.attributes);
        sum.number(self.processed_at.cast_unsigned());
        sum.finish_row(self.released)
    }
}

/// A row of `stubs`, in the order of [`STUB_COLUMNS`].
pub(crate) struct StubRow<'a> {
    pub(crate) offset: u64,
    pub(crate) topic_id: i64,
    pub(crate) seq: Option<u64>,
    pub(crate) event_id: &'a str,
    pub(crate) source: &'a str,
    pub(crate) digest: Option<[u8; 16]>,
    pub(crate) processed_at: i64,
    /// As that of an event.
    pub(crate) released: bool,
}

/// The columns that [`StubRow::read`] reads.
pub(crate) const STUB_COLUMNS: &str =
    "s.offset, s.topic_id, s.seq, s.event_id, s.source, s.digest, s.processed_at, s.checksum";

impl<'a> StubRow<'a> {
    /// Reads a row whose columns begin with [`STUB_COLUMNS`], and checks it.
    pub(crate) fn read(row: &'a Row<'_>) -> Result<Self> {
        let mut stub = Self {
            offset: row.get(0)?,
            topic_id: row.get(1)?,
            seq: row.get(2)?,
            event_id: text(row, 3)?,
            source: text(row, 4)?,
            digest: row.get(5)?,
            processed_at: row.get(6)?,
            released: false,
        };
        stub.released = check("stub", stub.offset, stub.checksum(), row.get(7)?)?;
        // The checksum does not distinguish 0 from no seq.
        if stub.seq == Some(0) {
            return Err(mismatch("stub", stub.offset));
        }
        Ok(stub)
    }

    pub(crate) fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        sum.number(self.offset);
        sum.number(self.topic_id.cast_unsigned());
        // No seq is 0.
        sum.number(self.seq.unwrap_or(0));
        sum.text(Some(self.event_id));
        sum.text(Some(self.source));
        sum.bytes(self.digest.as_ref().map_or(&[], |digest| digest.as_slice()));
        sum.number(self.processed_at.cast_unsigned());
        sum.finish_row(self.released)
    }
}

/// XXH3-64 of the values. The hash of each value is the seed of the next one. A text is hashed with its length, so that
/// moving bytes between neighbours changes the checksum. Rows are short, so hashing value by value costs less than
/// streaming.
#[derive(Default)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn text(&mut self, text: Option<&str>) {
        self.number(text.map_or(u64::MAX, |text| text.len() as u64));
        if let Some(text) = text {
            self.bytes(text.as_bytes());
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    pub(crate) fn finish(self) -> i64 {
        self.0.cast_signed()
    }

    /// See [`check`].
    fn finish_row(self, released: bool) -> i64 {
        if released { !self.finish() } else { self.finish() }
    }
}

/// Checks a row against its stored checksum, and returns whether its identity was released. Then all bits of the checksum
/// are inverted: the row says so itself, it is as well protected as the rest, and a row that was not released costs
/// nothing. `computed` is for a row that is not released.
fn check(kind: &str, offset: u64, computed: i64, stored: i64) -> Result<bool> {
    match stored {
        _ if stored == computed => Ok(false),
        _ if stored == !computed => Ok(true),
        _ => Err(mismatch(kind, offset)),
    }
}

fn mismatch(kind: &str, offset: u64) -> Error {
    Corruption::error(format!("the {kind} at offset {offset} does not match its checksum"))
}

/// A text column, borrowed.
pub(crate) fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str> {
    row.get_ref(column)?.as_str().map_err(|error| not_text(column, error))
}

fn not_text(column: usize, error: rusqlite::types::FromSqlError) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
