//! The ceiling: SQLite appending the same deliveries as rows, in the bench's own process.
//!
//! The same columns and values as the server's log, the same durability, page size, cache and checkpoints; no
//! HTTP, no JSON, no dedup, no second index. Every delivery is appended, repeats too.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use rusqlite::Connection;

use crate::workload::{Row, TEMPLATE, Workload};

/// As the server has them.
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

/// Copies the log into the file once 8 MB of it have gathered, as the server does.
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

/// Appends the deliveries to a new file at `path`, in transactions of `rows`; how many a second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
pub(crate) fn deliveries(path: &Path, workload: &Workload, count: u64, rows: usize) -> anyhow::Result<f64> {
    let mut connection = open(path, CREATE)?;
    let started = Instant::now();
    append(&mut connection, workload, 0..count, rows, |n| workload.identity(n))?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Bytes that a row takes in a file of rows alone: what an event costs without any dedup. The rows are those
/// from `first` on, since SQLite writes small numbers in fewer bytes.
#[expect(clippy::cast_precision_loss, reason = "an average needs no 53 bits")]
pub(crate) fn bytes_per_row(path: &Path, workload: &Workload, first: u64) -> anyhow::Result<f64> {
    const ROWS: u64 = 200_000;
    let mut connection = open(path, CREATE)?;
    append(&mut connection, workload, first..first + ROWS, 5_000, |n| n)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(std::fs::metadata(path)?.len() as f64 / ROWS as f64)
}

fn append(
    connection: &mut Connection,
    workload: &Workload,
    numbers: Range<u64>,
    rows: usize,
    identity: impl Fn(u64) -> u64,
) -> anyhow::Result<()> {
    let mut event = TEMPLATE.to_vec();
    for first in numbers.clone().step_by(rows) {
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?;
        for n in first..(first + rows as u64).min(numbers.end) {
            let identity = identity(n);
            workload.render(identity, &mut event);
            let row = Row::of(&event);
            let nothing: Option<&str> = None;
            // The checksum is any number of its size: computing it is not SQLite's work.
            let checksum = identity.wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed();
            insert.execute((
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
                checksum,
            ))?;
        }
        drop(insert);
        transaction.commit()?;
        checkpoint(connection)?;
    }
    Ok(())
}

/// Microseconds since 1970 of about now: the number's size is what counts.
const PROCESSED_AT: u64 = 1_790_000_000_000_000;
