//! SQLite on a disk that fails.
#![expect(clippy::unwrap_used, reason = "this is test code")]

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use sqlite_power_loss::{Fault, FileKind, PowerLoss};
use tempfile::TempDir;

struct Bench {
    disk: Arc<PowerLoss>,
    directory: TempDir,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self { disk: PowerLoss::register(name).unwrap(), directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("test.db")
    }

    fn open(&self, journal_mode: &str, synchronous: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = Connection::open_with_flags_and_vfs(self.path(), flags, self.disk.name())?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "journal_mode", journal_mode)?;
        connection.pragma_update(None, "wal_autocheckpoint", 3)?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, y BLOB)")?;
        Ok(connection)
    }

    fn begin_anew(&self) {
        for file in std::fs::read_dir(self.directory.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        self.disk.settle();
    }

    /// How many rows there are, read without the shim; nothing if the file is not sound.
    fn rows(&self) -> Option<u64> {
        let connection = Connection::open(self.path()).unwrap();
        let sound = connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        sound.ok().filter(|sound| sound == "ok")?;
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).ok()
    }
}

fn insert(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute("INSERT INTO t (y) VALUES (zeroblob(3000))", [])
}

/// Inserts up to twenty rows on a disk that fails at `cut`; whether every commit was found again.
fn committed_rows_survive(bench: &Bench, journal_mode: &str, synchronous: &str, cut: u64) -> bool {
    bench.begin_anew();
    drop(bench.open(journal_mode, "FULL").unwrap());
    bench.disk.settle();
    bench.disk.cut_at(cut, cut);
    let inserted = bench
        .open(journal_mode, synchronous)
        .map(|connection| (0..20).take_while(|_| insert(&connection).is_ok()).count() as u64);
    if !bench.disk.is_off() {
        bench.disk.cut(cut);
    }
    bench.disk.restore_power();
    let inserted = inserted.unwrap_or(0);
    bench.rows().is_some_and(|rows| rows == inserted || rows == inserted + 1)
}

#[test]
fn what_sqlite_commits_survives_in_both_journal_modes() {
    let bench = Bench::new("commits");
    for journal_mode in ["WAL", "DELETE"] {
        for cut in 1..250 {
            assert!(
                committed_rows_survive(&bench, journal_mode, "EXTRA", cut),
                "{journal_mode}, cut at {cut}"
            );
        }
    }
}

#[test]
fn what_is_not_synced_is_lost_sooner_or_later() {
    let bench = Bench::new("unsynced");
    for (journal_mode, synchronous) in [("WAL", "NORMAL"), ("DELETE", "OFF")] {
        let lost = (1..100)
            .filter(|&cut| !committed_rows_survive(&bench, journal_mode, synchronous, cut * 2))
            .count();
        assert!(lost > 0, "{journal_mode}: {lost}");
    }
    bench.disk.ignore_syncs(true);
    let lost = (1..100).filter(|&cut| !committed_rows_survive(&bench, "WAL", "EXTRA", cut * 2)).count();
    assert!(lost > 0, "without syncs: {lost}");
}

#[test]
fn nothing_works_without_power_and_everything_does_after() {
    let bench = Bench::new("power");
    let connection = bench.open("WAL", "FULL").unwrap();
    insert(&connection).unwrap();
    bench.disk.cut(1);
    assert!(bench.disk.is_off());
    assert!(insert(&connection).is_err());
    assert!(connection.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err());
    assert!(bench.open("WAL", "FULL").is_err());
    bench.disk.restore_power();
    // The old handle belongs to a process that is gone.
    assert!(insert(&connection).is_err());
    drop(connection);
    assert_eq!(insert(&bench.open("WAL", "FULL").unwrap()).unwrap(), 1);
    assert_eq!(bench.rows().unwrap(), 2);
}

#[test]
fn what_a_killed_process_wrote_can_be_read_and_lost() {
    let bench = Bench::new("kill");
    let lost = (0..30).filter(|&seed| {
        bench.begin_anew();
        drop(bench.open("WAL", "FULL").unwrap());
        let connection = bench.open("WAL", "NORMAL").unwrap();
        connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        insert(&connection).unwrap();
        bench.disk.kill_at(1, seed);
        drop(connection);
        assert!(bench.disk.is_off());
        bench.disk.restore_power();

        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags_and_vfs(bench.path(), flags, bench.disk.name()).unwrap();
        let rows: u64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
        drop(connection);
        bench.disk.cut(seed);
        bench.disk.restore_power();
        bench.rows().unwrap() == 0
    });
    assert!((1..30).contains(&lost.count()));
}

#[test]
fn faults_come_once_where_they_were_asked_for() {
    let bench = Bench::new("faults");
    let connection = bench.open("WAL", "FULL").unwrap();
    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let code = |result: rusqlite::Result<usize>| result.unwrap_err().sqlite_error_code().unwrap();

    bench.disk.fail_nth(1, FileKind::Log, Fault::SyncFails);
    assert_eq!(code(insert(&connection)), ErrorCode::SystemIoFailure);
    insert(&connection).unwrap();
    bench.disk.fail_nth(2, FileKind::Log, Fault::WriteFails);
    assert_eq!(code(insert(&connection)), ErrorCode::SystemIoFailure);
    bench.disk.fail_nth(2, FileKind::Log, Fault::ShortWrite);
    assert_eq!(code(insert(&connection)), ErrorCode::DiskFull);
    bench.disk.set_full(true);
    assert_eq!(code(insert(&connection)), ErrorCode::DiskFull);
    bench.disk.set_full(false);
    insert(&connection).unwrap();

    bench.disk.fail_nth(1, FileKind::Database, Fault::SyncFails);
    assert!(connection.query_row("PRAGMA wal_checkpoint", [], |_| Ok(())).is_err());
    assert!(!bench.disk.clear_faults());
    bench.disk.fail_nth(9, FileKind::Database, Fault::ReadFails);
    assert!(bench.disk.clear_faults());
    drop(connection);
    assert_eq!(bench.rows().unwrap(), 2);
}

#[test]
fn whoever_has_a_file_open_is_told_of_a_failed_sync_once() {
    let bench = Bench::new("told");
    let [mut one, mut other] = [0; 2].map(|_| bench.open("WAL", "FULL").unwrap());
    for _ in 0..3 {
        bench.disk.fail_nth(1, FileKind::Log, Fault::SyncFails);
        assert!(insert(&one).is_err());
        assert!(insert(&other).is_err());
        insert(&other).unwrap();
        insert(&one).unwrap();
        let later = bench.open("WAL", "FULL").unwrap();
        insert(&later).unwrap();
        (one, other) = (other, later);
    }
}

#[test]
fn operations_are_counted() {
    let bench = Bench::new("counters");
    let connection = bench.open("WAL", "FULL").unwrap();
    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    insert(&connection).unwrap();
    let before = bench.disk.operations();
    insert(&connection).unwrap();
    let after = bench.disk.operations();
    assert!(after.writes > before.writes && after.syncs == before.syncs + 1, "{before:?} {after:?}");
    assert_eq!(after.mutating() - before.mutating(), after.writes - before.writes + 1);
}
