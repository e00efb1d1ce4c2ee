//! The mark in the main file that says: a log belongs to me.
//!
//! Without it, a log that is missing looks like one that is empty, and a start would serve what the file alone holds.
//!
//! * The mark is written before the first write of an opened store: committed, copied into the main file and synced.
//!   Only then is anything else committed. By that time the log is on the disk, too, with the mark's own commit in it,
//!   and it never becomes empty while the file is marked: SQLite writes over it from its start and cuts it to no less
//!   than [`SqliteOptions::checkpoint_bytes`](crate::store::sqlite::SqliteOptions::checkpoint_bytes).
//! * A store that is closed in order copies all of the log and syncs the file, and takes the mark back in a last commit.
//!   That is copied and synced, too, before the log is cut and deleted.
//! * So a marked file without a log, or with an empty one, has lost it; no crash and no power loss leaves that behind.
//!
//! A file of before there were records gets their table in the commit of the mark.
//!
//! A copy that SQLite makes (`.backup`, `VACUUM INTO`) holds what is in the log, but also the mark. It is told by the
//! *schema cookie* in the file's header: the mark counts only where its number is that of the cookie. SQLite gives each
//! copy another cookie, so that connections read the schema anew (`.backup` the one of the file it writes over, plus one;
//! `VACUUM` the original's, plus one). A copy of the bare file, as `cp` makes it, keeps the cookie. That is why marking
//! a file gives it a new cookie at random. Another program that changes the schema of a store in use, or runs `VACUUM` on
//! it, takes the mark's meaning away until the next start.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, ffi};

use super::files::beside;
use crate::store::sqlite::row::record::RecordState;
use crate::store::sqlite::schema;
use crate::{StoreError, Timestamp};

/// How the row of the mark is called in the table `meta`.
const NAME: &str = "log";

/// How long readers that began before the mark may keep it out of the main file, until an append is told to try again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long anything else waits for others who have the file open.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_millis(200);

/// Since when the log may hold what the file does not, if the file has the mark.
pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mark: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([NAME], |row| row.get(0))
        .optional()?;
    let cookie: i64 = connection.pragma_query_value(None, "schema_version", |row| row.get(0))?;
    let mark = mark.as_deref().and_then(|mark| mark.split_once(' '));
    Ok(mark.filter(|(of, _)| *of == cookie.to_string()).map(|(_, since)| since.to_owned()))
}

/// Sees to it that the main file has the mark, on the disk. To be called before the first write, and again until it
/// succeeds.
pub(crate) fn ensure(connection: &mut Connection, now: Timestamp) -> rusqlite::Result<()> {
    keep_log(connection)?;
    // The table changes the schema, and so the cookie: it is made together with a mark.
    if read(connection)?.is_none() || RecordState::lacks_table(connection)? {
        write(connection, now)?;
    }
    // Readers that began when there was no log read the file itself, which cannot be written meanwhile.
    connection.busy_timeout(PATIENCE)?;
    let copied = copy_all(connection, "FULL");
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if !copied? {
        let reason = format!(
            "the file cannot be marked as one that needs its log: another program copies the log, or a reader that began \
             before has not ended for {} s",
            PATIENCE.as_secs()
        );
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(reason)));
    }
    Ok(())
}

/// From here on SQLite deletes no log when the connection is closed, unless it is [closed in order](close_in_order).
pub(crate) fn keep_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

fn write(connection: &mut Connection, now: Timestamp) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if RecordState::lacks_table(&transaction)? {
        schema::create_records(&transaction)?;
    }
    let cookie = new_cookie();
    transaction.pragma_update(None, "schema_version", cookie)?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute((NAME, format!("{cookie} {now}")))?;
    transaction.commit()
}

/// At random, positive, and not one of the small numbers that copies over copies get.
fn new_cookie() -> i32 {
    let random = ulid::Ulid::generate().random();
    i32::try_from(random & 0x3fff_ffff).expect("it has 30 bits") | 0x4000_0000
}

/// Takes the mark out of `connection`'s file, which is a copy or about to be closed.
pub(crate) fn remove(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM meta WHERE name = ?1", [NAME]).map(drop)
}

/// Leaves everything in the main file, so that it alone can be copied: copies the log, takes the mark back, copies that,
/// cuts the log, and lets SQLite delete it when the connection is closed. Whether it came to that; otherwise the log stays.
pub(crate) fn close_in_order(connection: &Connection) -> rusqlite::Result<bool> {
    if read(connection)?.is_some() {
        // Copied and synced before: a power loss while pages are copied keeps any of them, and the one without the mark may
        // not be there before the others are.
        if !copy_all(connection, "FULL")? {
            return Ok(false);
        }
        remove(connection)?;
    }
    let all = copy_all(connection, "TRUNCATE")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !all)?;
    Ok(all)
}

/// Copies the log into the file and syncs it; whether that was done, and in the way that `mode` asks for. SQLite gives no
/// numbers where another connection is copying already.
fn copy_all(connection: &Connection, mode: &str) -> rusqlite::Result<bool> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let [busy, log, copied] = [row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?];
        Ok(busy == 0 && log >= 0 && copied == log)
    })
}

/// Whether a log that can hold a commit lies beside the file.
pub(crate) fn has_log(path: &Path) -> bool {
    // The header of the log and that of a frame: <https://sqlite.org/walformat.html>.
    const LEAST: u64 = 32 + 24 + schema::PAGE_BYTES as u64;
    fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() >= LEAST)
}

/// Why a marked file without its log is not opened.
pub(crate) fn refusal(path: &Path, since: &str, newest: Option<Timestamp>) -> StoreError {
    let (file, log) = (path.display(), beside(path, "-wal"));
    let log = log.display();
    let newest =
        newest.map_or_else(String::new, |newest| format!(" (the newest event in the file is of {newest})"));
    StoreError::corrupt(format!(
        "{file} was not closed, and its write-ahead log {log} is missing or empty: events acknowledged since {since} \
         may be in it and nowhere else{newest}. Put the log back beside the file. A store in use is copied with \
         sqlite3 {file} '.backup COPY' and not with cp. Only if the log is gone for good, or if another program has \
         opened the file since (it copies the log into the file and deletes it, and nothing is lost), go on with what \
         the file holds: aggregator-server check --accept-lost-log --store sqlite:{file}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_cookie_is_a_large_positive_number() {
        assert!((0..1_000).all(|_| new_cookie() >= 0x4000_0000));
    }
}
