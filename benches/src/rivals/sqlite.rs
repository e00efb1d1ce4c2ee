//! SQLite with the ids as a key: the simplest design.

use rusqlite::Connection;

use super::drive::{Client, Events, drive};
use super::{Measured, Tried};
use crate::append;
use crate::measures::Scratch;
use crate::options::Options;
use crate::process::{Memory, disk_bytes};
use crate::workload::Workload;

pub(super) const TEXT_KEY: &str = "SQLite, text primary key, WITHOUT ROWID";
pub(super) const UNIQUE_INDEX: &str = "SQLite, rowid table and unique index";
pub(super) const HOW: &str = "in the bench's own process, one connection, `insert or ignore`, a row a statement, \
    a transaction per 5,000 rows; pages of 8 KB, 64 MB of cache, a checkpoint per 8 MB of log; memory is what the \
    bench grew by";
pub(super) const DURABILITY: &str = "committed and fsynced";

const ROWS: u64 = 5_000;

pub(super) fn text_key(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    let schema = "CREATE TABLE events (topic TEXT NOT NULL, event_id TEXT NOT NULL, timestamp TEXT NOT NULL,
        source TEXT NOT NULL, payload TEXT NOT NULL, PRIMARY KEY (topic, event_id)) STRICT, WITHOUT ROWID;";
    measure(options, workload, schema)
}

pub(super) fn unique_index(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    let schema = "CREATE TABLE events (topic TEXT NOT NULL, event_id TEXT NOT NULL, timestamp TEXT NOT NULL,
        source TEXT NOT NULL, payload TEXT NOT NULL) STRICT;
        CREATE UNIQUE INDEX identities ON events (topic, event_id);";
    measure(options, workload, schema)
}

fn measure(options: &Options, workload: &Workload, schema: &str) -> anyhow::Result<Tried> {
    let directory = Scratch::new(options, "sqlite")?;
    let before = Memory::of(std::process::id())?.resident;
    let client = Sqlite(append::open(&directory.path().join("events.db"), schema)?);
    // SQLite allows one writer: a second connection would only wait.
    let mut clients = vec![client];
    let driven = drive(options, workload, ROWS, &mut clients)?;
    let resident_bytes = Memory::of(std::process::id())?.resident.saturating_sub(before);
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

struct Sqlite(Connection);

impl Client for Sqlite {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        let transaction = self.0.transaction()?;
        let mut insert =
            transaction.prepare_cached("INSERT OR IGNORE INTO events VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let mut stored = 0;
        for row in events.rows() {
            stored += insert.execute((row.topic, row.event_id, row.timestamp, row.source, row.payload))?;
        }
        drop(insert);
        transaction.commit()?;
        append::checkpoint(&self.0)?;
        Ok(stored as u64)
    }
}
