//! The ceiling: SQLite appends the same deliveries as rows, in the bench's own process.
//!
//! Columns, values, durability, page size, cache and checkpoints are the same as for the server's log. There is no
//! HTTP, no JSON, no dedup and no second index. Every delivery is appended, including repeats. A statement writes one
//! row, as is common, or as many as a statement of the server.

use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::ensure;
use rusqlite::Connection;

use crate::workload::{Row, TEMPLATE, Workload};

/// The pragmas of the server.
const PRAGMAS: &str = "
PRAGMA page_size = 8192;
PRAGMA synchronous = FULL;
PRAGMA journal_mode = WAL;
PRAGMA mmap_size = 0;
PRAGMA cache_size = -65536;
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 33554432;
";

const CHECKPOINT_PAGES: i64 = (8 << 20) / 8192;

const CREATE: &str = "
CREATE TABLE events (
    offset       INTEGER PRIMARY KEY,
    topic_id     INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    event_id     TEXT    NOT NULL,
    timestamp    TEXT    NOT NULL,
    source       TEXT    NOT NULL,
    payload      TEXT    NOT NULL,
    sequence     INTEGER,
    content_type TEXT,
    attributes   TEXT,
    processed_at INTEGER NOT NULL,
    checksum     INTEGER NOT NULL
) STRICT;
";

/// How many rows a statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    /// One, with its offset.
    Row,
    /// [`MANY`], with offsets that SQLite counts, as the server writes events.
    Many,
}

/// The rows of one statement of the server.
pub(crate) const MANY: usize = 20;

const INSERT_ROW: &str = "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

/// Parameters of each row in [`INSERT_MANY`]. The first parameter of the statement comes before them, and is the same
/// for all rows.
const PARAMETERS: usize = 7;

static INSERT_MANY: LazyLock<String> = LazyLock::new(|| {
    let row = |at: usize| {
        let parameters: Vec<_> = (at..at + PARAMETERS).map(|at| format!("?{at}")).collect();
        format!("(?1, {})", parameters.join(", "))
    };
    let rows: Vec<_> = (2..).step_by(PARAMETERS).map(row).take(MANY).collect();
    format!(
        "INSERT OR FAIL INTO events (processed_at, topic_id, seq, event_id, timestamp, source, payload, checksum)
         VALUES {}",
        rows.join(", ")
    )
});

/// Opens a database at `path` with the pragmas of the server, and creates `schema` in it.
pub(crate) fn open(path: &Path, schema: &str) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(PRAGMAS)?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let synchronous: u32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    let page_size: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let read_back = (mode.as_str(), synchronous, page_size);
    ensure!(read_back == ("wal", 2, 8192), "SQLite has the pragmas {read_back:?}");
    connection.execute_batch(schema)?;
    Ok(connection)
}

/// Copies the log into the file once 8 MB have gathered, as the server does.
pub(crate) fn checkpoint(connection: &Connection) -> anyhow::Result<()> {
    let pages = |mode: &str| -> rusqlite::Result<(i64, i64)> {
        let mut checkpoint = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
        checkpoint.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
    };
    let (log, copied) = pages("NOOP")?;
    if log - copied >= CHECKPOINT_PAGES {
        pages("PASSIVE")?;
    }
    Ok(())
}

/// Appends the deliveries to a new file at `path`, in transactions of `rows`. Returns how many it appended per second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
pub(crate) fn deliveries(
    path: &Path,
    workload: &Workload,
    count: u64,
    rows: usize,
    statement: Statement,
) -> anyhow::Result<f64> {
    let mut connection = open(path, CREATE)?;
    let started = Instant::now();
    append(&mut connection, workload, 0..count, rows, statement, |n| workload.identity(n))?;
    let seconds = started.elapsed().as_secs_f64();
    let last: u64 = connection.query_row("SELECT max(offset) FROM events", [], |row| row.get(0))?;
    ensure!(last == count, "the last of {count} rows has the offset {last}");
    Ok(count as f64 / seconds)
}

/// The bytes of a row in a file that has only rows: the cost of an event without dedup. The rows begin at `first`,
/// because SQLite writes small numbers in fewer bytes.
#[expect(clippy::cast_precision_loss, reason = "an average needs no 53 bits")]
pub(crate) fn bytes_per_row(path: &Path, workload: &Workload, first: u64) -> anyhow::Result<f64> {
    const ROWS: u64 = 200_000;
    let mut connection = open(path, CREATE)?;
    append(&mut connection, workload, first..first + ROWS, 5_000, Statement::Row, |n| n)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(std::fs::metadata(path)?.len() as f64 / ROWS as f64)
}

fn append(
    connection: &mut Connection,
    workload: &Workload,
    numbers: Range<u64>,
    rows: usize,
    statement: Statement,
    identity: impl Fn(u64) -> u64,
) -> anyhow::Result<()> {
    let mut event = TEMPLATE.to_vec();
    for first in numbers.clone().step_by(rows) {
        let transaction = connection.transaction()?;
        let mut one = transaction.prepare_cached(INSERT_ROW)?;
        let mut many = transaction.prepare_cached(&INSERT_MANY)?;
        let end = (first + rows as u64).min(numbers.end);
        let by_many = match statement {
            Statement::Row => first,
            Statement::Many => end - (end - first) % MANY as u64,
        };
        // Any number of a checksum's size: computing a real one is not SQLite's work.
        let checksum = |identity: u64| identity.wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed();
        for start in (first..by_many).step_by(MANY) {
            many.raw_bind_parameter(1, PROCESSED_AT + start)?;
            for (n, at) in (start..start + MANY as u64).zip((2..).step_by(PARAMETERS)) {
                let identity = identity(n);
                workload.render(identity, &mut event);
                let row = Row::of(&event);
                many.raw_bind_parameter(at, workload.topic(identity) + 1)?;
                many.raw_bind_parameter(at + 1, n / 4 + 1)?;
                many.raw_bind_parameter(at + 2, row.event_id)?;
                many.raw_bind_parameter(at + 3, row.timestamp)?;
                many.raw_bind_parameter(at + 4, row.source)?;
                many.raw_bind_parameter(at + 5, row.payload)?;
                many.raw_bind_parameter(at + 6, checksum(identity))?;
            }
            many.raw_execute()?;
        }
        for n in by_many..end {
            let identity = identity(n);
            workload.render(identity, &mut event);
            let row = Row::of(&event);
            let nothing: Option<&str> = None;
            one.execute((
                n + 1,
                workload.topic(identity) + 1,
                n / 4 + 1,
                row.event_id,
                row.timestamp,
                row.source,
                row.payload,
                nothing,
                nothing,
                nothing,
                PROCESSED_AT + n,
                checksum(identity),
            ))?;
        }
        drop((one, many));
        transaction.commit()?;
        checkpoint(connection)?;
    }
    Ok(())
}

/// A recent time in microseconds since 1970. Only the size of the number matters.
const PROCESSED_AT: u64 = 1_790_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::RECENT;

    #[test]
    fn many_rows_a_statement_are_the_same_rows() {
        let workload = Workload::new(1, RECENT, 4_u16);
        let stored = |statement| {
            let mut connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(CREATE).unwrap();
            append(&mut connection, &workload, 0..1_207, 500, statement, |n| workload.identity(n)).unwrap();
            let mut select = connection
                .prepare("SELECT offset, topic_id, seq, event_id, timestamp, source, payload, checksum FROM events")
                .unwrap();
            let row = |row: &rusqlite::Row<'_>| (0..8).map(|at| row.get(at)).collect();
            let rows = select.query_map([], row).unwrap();
            rows.collect::<rusqlite::Result<Vec<Vec<rusqlite::types::Value>>>>().unwrap()
        };
        let (by_one, by_many) = (stored(Statement::Row), stored(Statement::Many));
        assert_eq!(by_one.len(), 1_207);
        assert_eq!(by_one, by_many);
    }
}
