//! The mark in the main file that says: a log belongs to this file.
//!
//! Without the mark, a missing log looks like an empty log, and a start would serve only what the main file holds.
//!
//! * The mark is written before the first write of an opened store: it is committed, copied into the main file and
//!   synced. Only then is anything else committed. By then the log is on the disk, too, with the mark's own commit in
//!   it. While the file is marked, the log never becomes empty: SQLite overwrites it from its start, and cuts it to no
//!   less than [`SqliteOptions::checkpoint_bytes`](crate::store::sqlite::SqliteOptions::checkpoint_bytes).
//! * An orderly close copies all of the log and syncs the file, then removes the mark in a last commit. That commit is
//!   copied and synced before the log is cut and deleted.
//! * So a marked file whose log is missing or empty has lost its log. No crash and no power loss leaves that behind.
//!
//! The mark also names both files by their inodes and the times of their births. Programs that copy a file in use copy its
//! log at another instant, and what was copied back in between is in neither copy: rows that are missing together are
//! not missed. A copy is another file. (A snapshot of a whole volume has the same files, and so has a crash.) This is left
//! out where the file system may give a file another inode when it is mounted again. It does not notice copies that are
//! written over the very files of the store.
//!
//! Both changes of the mark overwrite its row in place, by as many bytes. If the power fails while that page is copied into the
//! file, some of its sectors are the old ones: then the row has a part of each value, and the rest of the page is whole.
//! A row that is added, deleted or made longer changes the page in several places, and a mixture of them is corrupt. So the
//! first mark of a file does that, and no later one.
//!
//! A file from before there were records, or before identities could be forgotten, gets the tables in the commit of the mark.
//!
//! A copy that SQLite makes (`.backup`, `VACUUM INTO`) includes the content of the log, but also the mark. The *schema
//! cookie* in the file's header distinguishes such a copy: the mark counts only if its number equals the cookie. SQLite
//! gives each copy another cookie, so that connections read the schema again (`.backup`: the cookie of the file it
//! overwrites, plus one; `VACUUM`: the original's cookie, plus one). A copy of the bare file, as `cp` makes it, keeps the
//! cookie. That is why marking a file gives it a new random cookie. If another program changes the schema of a store in
//! use, or runs `VACUUM` on it, the mark does not count until the next start.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, ffi};

use super::files::beside;
use super::mount::has_lasting_inodes;
use crate::store::sqlite::checkpoint::checkpoint;
use crate::store::sqlite::row::record::RecordTotals;
use crate::store::sqlite::schema;
use crate::{StoreError, Timestamp};

/// The name of the mark's row in the table `meta`.
pub(crate) const META_NAME: &str = "log";

/// Readers that began before the mark keep it out of the main file. After this time, the append fails and may be tried
/// again.
const MARK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long anything else waits for other connections to the file.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_millis(200);

/// What the mark says.
pub(crate) struct Mark {
    /// Since when the log may hold what the file does not.
    pub(crate) since: String,
    /// The files that were marked, if they were noted.
    files: Option<[Born; 2]>,
}

impl Mark {
    /// Whether the file at `path` or its log is another one than was marked.
    pub(crate) fn is_of_other_files(&self, path: &Path) -> bool {
        match (self.files, files(path)) {
            (Some(marked), Some(found)) => {
                marked.iter().zip(found).any(|(marked, found)| marked.differs(found))
            }
            _ => false,
        }
    }
}

/// If the file is marked: what the mark says.
pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Option<Mark>> {
    let mark = row(connection)?;
    let cookie: i64 = connection.pragma_query_value(None, "schema_version", |row| row.get(0))?;
    let mark = mark.as_deref().and_then(|mark| mark.split_once(' '));
    let said = mark.filter(|(of, _)| *of == cookie.to_string()).map(|(_, said)| said);
    Ok(said.map(|said| {
        // An older program has written the time alone.
        let (since, files) = said.split_once(' ').unwrap_or((said, NO_FILES));
        Mark { since: since.to_owned(), files: parse(files) }
    }))
}

/// The row of the mark, whether the mark counts or not.
fn row(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut select = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    select.query_row([META_NAME], |row| row.get(0)).optional()
}

/// Which file it is: a number is used again once its file is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Born {
    inode: u64,
    /// In nanoseconds since 1970; 0 where the file system does not tell.
    at: u64,
}

impl Born {
    fn differs(self, other: Self) -> bool {
        self.inode != other.inode || (self.at > 0 && other.at > 0 && self.at != other.at)
    }
}

fn parse(text: &str) -> Option<[Born; 2]> {
    let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d] = numbers[..] else { return None };
    (a > 0).then_some([Born { inode: a, at: b }, Born { inode: c, at: d }])
}

/// The file at `path`, and its log. `None` where inodes do not identify them.
fn files(path: &Path) -> Option<[Born; 2]> {
    let born = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        let at = file.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let at = at.and_then(|at| u64::try_from(at.as_nanos()).ok()).unwrap_or(0);
        Some(Born { inode: file.ino(), at })
    };
    let files = [born(path)?, born(&beside(path, "-wal"))?];
    has_lasting_inodes(path).then_some(files)
}

/// Whether the file is one that was closed and never opened since, as a backup is, although there is something in the log
/// beside it: that of another store, then. Both as the connection sees them.
pub(crate) fn has_log_of_another(connection: &Connection, path: &Path) -> rusqlite::Result<bool> {
    let mark = row(connection)?;
    let was_never_opened = mark.is_some_and(|mark| mark.starts_with(NO_COOKIE) && mark.ends_with(NO_FILES))
        && has_lasting_inodes(path);
    Ok(was_never_opened && checkpoint(connection, "NOOP")?.0 > 0)
}

/// Makes sure that the main file has the mark, on the disk. To be called before the first write, and again until it
/// succeeds.
pub(crate) fn ensure(connection: &mut Connection, now: Timestamp) -> rusqlite::Result<()> {
    keep_wal(connection)?;
    // A table changes the schema, and so the cookie: it is made together with a mark.
    let lacks_table = RecordTotals::lacks_table(connection)? || !schema::has_forgotten(connection)?;
    if lacks_table || read(connection)?.is_none() {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write(&transaction, now)?;
        transaction.commit()?;
    }
    // Readers that began without a log read the main file itself, so it cannot be written until they end.
    connection.busy_timeout(MARK_TIMEOUT)?;
    let copied = copy_all(connection, "FULL");
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if !copied? {
        let reason = format!(
            "the file cannot be marked as one that needs its log: another program copies the log, or a reader that began \
             before has not ended for {} s",
            MARK_TIMEOUT.as_secs()
        );
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(reason)));
    }
    Ok(())
}

/// From now on SQLite does not delete the log when the connection is closed, unless [`close_in_order`] was called.
pub(crate) fn keep_wal(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// Writes the mark, and makes the tables that the file lacks. To be called last in a transaction that changes the schema,
/// and behind [`keep_wal`].
pub(super) fn write(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    if RecordTotals::lacks_table(transaction)? {
        RecordTotals::create_table(transaction)?;
    }
    if !schema::has_forgotten(transaction)? {
        transaction.execute_batch(schema::CREATE_FORGOTTEN)?;
    }
    let marked = transaction.path().and_then(|path| files(path.as_ref()));
    let marked = marked.map_or_else(
        || NO_FILES.to_owned(),
        |[main, log]| format!("{:020} {:020} {:020} {:020}", main.inode, main.at, log.inode, log.at),
    );
    let cookie = new_cookie();
    transaction.pragma_update(None, "schema_version", cookie)?;
    transaction
        .prepare_cached(
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )?
        .execute((META_NAME, format!("{cookie} {now} {marked}")))
        .map(drop)
}

/// A random positive number, and a large one: copies of copies get small numbers.
fn new_cookie() -> i32 {
    let random = ulid::Ulid::generate().random();
    i32::try_from(random & 0x3fff_ffff).expect("it has 30 bits") | 0x4000_0000
}

/// Stands for the cookie in a mark that does not count. As long as any cookie, and none.
const NO_COOKIE: &str = "0000000000";

/// Stands for the files where nothing identifies them for ever. As long as any.
const NO_FILES: &str = "00000000000000000000 00000000000000000000 00000000000000000000 00000000000000000000";

/// The mark of a file that needs no log, as long as any other.
pub(crate) fn none() -> String {
    format!("{NO_COOKIE} {} {NO_FILES}", Timestamp::now())
}

/// Makes the file of `connection`, which is a copy, one that was never opened.
pub(crate) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE meta SET value = ?2 WHERE name = ?1", [META_NAME, &none()]).map(drop)
}

/// Removes the mark from the file of `connection`, which is about to be closed.
pub(crate) fn remove(connection: &Connection) -> rusqlite::Result<()> {
    let removed = "UPDATE meta SET value = ?2 || substr(value, 11) WHERE name = ?1";
    connection.execute(removed, [META_NAME, NO_COOKIE]).map(drop)
}

/// Moves everything into the main file, so that the file alone can be copied: copies the log, removes the mark, copies
/// that, cuts the log, and lets SQLite delete the log when the connection is closed. Returns whether all of that was
/// possible; if not, the log stays.
pub(crate) fn close_in_order(connection: &Connection) -> rusqlite::Result<bool> {
    if read(connection)?.is_some() {
        // Everything else is copied and synced first. A power loss while pages are copied keeps any of these pages, and the
        // page without the mark must not be there before the others.
        if !copy_all(connection, "FULL")? {
            return Ok(false);
        }
        remove(connection)?;
    }
    let all = copy_all(connection, "TRUNCATE")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !all)?;
    Ok(all)
}

/// Copies the log into the file and syncs it. Returns whether all was done as `mode` asks. SQLite returns no lengths if
/// another connection is already copying.
pub(super) fn copy_all(connection: &Connection, mode: &str) -> rusqlite::Result<bool> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let [busy, log, copied] = [row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?];
        Ok(busy == 0 && log >= 0 && copied == log)
    })
}

/// Whether there is a log beside the file that is long enough to hold a commit.
pub(crate) fn has_wal(path: &Path) -> bool {
    // The log's header, a frame's header and a page: <https://sqlite.org/walformat.html>.
    const LEAST: u64 = 32 + 24 + schema::PAGE_BYTES as u64;
    fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() >= LEAST)
}

/// The error for a marked file that was copied, and its log too.
pub(crate) fn refusal_of_copies(path: &Path) -> StoreError {
    let file = path.display();
    StoreError::corrupt(format!(
        "{file} was not closed, and it or its write-ahead log {log} is a copy. Copied one after the other while a server \
         was writing, they can lack acknowledged events although they look whole: restore a copy that aggregator-server \
         backup has made. Only if nothing was written while they were copied (no server was running, or it was a snapshot), \
         accept them: aggregator-server check --accept-copied-files --store sqlite:{file} (or restore with that option)",
        log = beside(path, "-wal").display()
    ))
}

/// The error for a file that was never opened and has a log beside it.
pub(crate) fn refusal_of_log(path: &Path) -> StoreError {
    let file = path.display();
    StoreError::corrupt(format!(
        "{file} is a backup, or another file that was closed, and the write-ahead log {log} beside it is that of another \
         store, which had this name before: it may hold acknowledged events of that one. Put that store back, or move the \
         log away; aggregator-server restore makes a store of a backup",
        log = beside(path, "-wal").display()
    ))
}

/// The error for a marked file whose log is missing.
pub(crate) fn refusal(path: &Path, since: &str, newest: Option<Timestamp>) -> StoreError {
    let (file, log) = (path.display(), beside(path, "-wal"));
    let log = log.display();
    let newest =
        newest.map_or_else(String::new, |newest| format!(" (the newest event in the file is of {newest})"));
    StoreError::corrupt(format!(
        "{file} was not closed, and its write-ahead log {log} is missing or empty: events acknowledged since {since} \
         may be in it and nowhere else{newest}. Put the log back beside the file. A store in use is copied with \
         aggregator-server backup and not with cp. Only if the log is gone for good, or if another program has \
         opened the file since (it copies the log into the file and deletes it, and nothing is lost), go on with what \
         the file holds: aggregator-server check --accept-lost-log --store sqlite:{file}"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_new_cookie_is_a_large_positive_number() {
        assert!((0..1_000).all(|_| new_cookie() >= 0x4000_0000));
        // As many digits each.
        assert_eq!([i32::MAX, 0x4000_0000].map(|cookie| cookie.to_string().len()), [NO_COOKIE.len(); 2]);
    }

    /// A connection whose log holds a commit, and the path of the file.
    fn with_log(directory: &TempDir) -> (Connection, PathBuf) {
        let path = directory.path().join("test.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        (connection, path)
    }

    #[test]
    fn a_log_that_is_kept_stays_when_its_last_connection_closes() {
        let directory = TempDir::new().unwrap();
        let (connection, path) = with_log(&directory);
        keep_wal(&connection).unwrap();
        drop(connection);
        assert!(fs::metadata(beside(&path, "-wal")).unwrap().len() > 0);
        Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert!(!beside(&path, "-wal").exists(), "nobody kept it");
    }

    #[test]
    fn a_log_that_somebody_reads_is_copied_and_cannot_be_cut() {
        let directory = TempDir::new().unwrap();
        let (connection, path) = with_log(&directory);
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        assert!(!copy_all(&connection, "TRUNCATE").unwrap());
        reader.execute_batch("ROLLBACK").unwrap();
        assert!(copy_all(&connection, "TRUNCATE").unwrap());
    }
}
