//! The write-ahead log belongs to the main file: without it, nothing is served that only looks whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Import, Outcome, Partition, Query, RowLimit, SqliteOptions,
    SqliteStore, StoreError, StoredRow, Times, Timestamp, Topic,
};
use rusqlite::Connection;
use rusqlite::backup::Backup;
use tempfile::TempDir;

use crate::index::flushed;

fn event(id: &str) -> Event {
    Event::new("t", id).unwrap()
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// An open store with one event, and its path.
fn open_store() -> (TempDir, PathBuf, SqliteStore) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("1")).unwrap();
    (directory, path, store)
}

/// What `kill -9` leaves of a store with one event.
fn crashed_store() -> (TempDir, PathBuf) {
    let (directory, path, store) = open_store();
    let crashed = directory.path().join("crashed.db");
    // A store that does not find its files under their names leaves them as they are.
    fs::rename(wal(&path), wal(&crashed)).unwrap();
    fs::rename(&path, &crashed).unwrap();
    drop(store);
    (directory, crashed)
}

fn assert_refused(path: &Path, when: &str) {
    let verified = SqliteStore::verify_file(path, &SqliteOptions::default()).err();
    let rebuilt = SqliteStore::rebuild_index(path, SqliteOptions::default()).err();
    for error in [SqliteStore::open(path).err(), verified, rebuilt] {
        let error = error.unwrap_or_else(|| panic!("{when}: it was opened"));
        assert!(matches!(error, StoreError::Corrupt { .. }), "{when}: {error}");
        for part in ["was not closed", "-wal is missing or empty", "acknowledged since", "--accept-lost-log"]
        {
            assert!(error.to_string().contains(part), "{when}: {error}");
        }
    }
}

/// The tables of what was forgotten are not made in between: then the mark would not count.
#[test]
fn a_lost_log_is_noticed_although_something_was_forgotten() {
    let all = Timestamp::from_micros(i64::MAX);
    let topic = Topic::new("t").unwrap();
    let forget = |store: &SqliteStore| {
        store.append_one(&event("2")).unwrap();
        store.purge(&topic, 1).unwrap();
        assert_eq!(store.forget_identities(&topic, all, 1).unwrap(), 1);
    };
    let import = |store: &SqliteStore| {
        let (_directory, _, other) = open_store();
        forget(&other);
        let rows = other.rows(Partition(0), 0, RowLimit::default()).unwrap();
        let rows = rows.into_iter().map(|(_, row)| StoredRow { topic: "imported".into(), ..row });
        let rows: Vec<_> = rows.map(|row| row.check().unwrap()).collect();
        let import = Import { times: Times::Raise, ..Import::rows(&rows) };
        assert_eq!(store.import(Partition(0), import).unwrap().added, 2);
    };
    for what in ["forgetting", "a mark that is imported"] {
        let (directory, path, store) = open_store();
        if what == "forgetting" {
            forget(&store);
        } else {
            import(&store);
        }
        // As the writer does once the log is long enough.
        let connection = Connection::open(&path).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap();
        store.append_one(&event("3")).unwrap();
        let copy = directory.path().join("copy.db");
        fs::copy(&path, &copy).unwrap();
        assert_refused(&copy, what);
    }
}

/// Whoever decides whether to go on without the log is told how new the file is.
#[test]
fn the_refusal_tells_the_time_of_the_newest_event_that_the_file_holds() {
    for (events, told) in [(0, None), (2, Some("2001-09-09T01:46:40.000000Z"))] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let clock = Arc::new(|| Timestamp::from_micros(1_000_000_000_000_000));
        let options = SqliteOptions { clock, ..SqliteOptions::default() };
        let store = SqliteStore::open_with(&path, options.clone()).unwrap();
        for id in 0..events {
            store.append_one(&event(&id.to_string())).unwrap();
        }
        drop(store);
        let store = SqliteStore::open_with(&path, options).unwrap();
        let without_log = directory.path().join("copy.db");
        // The mark is in the file from the first commit on.
        store.append_one(&event("0")).unwrap();
        fs::copy(&path, &without_log).unwrap();
        let error = SqliteStore::open(&without_log).err().unwrap().to_string();
        let newest = told.map(|told| format!("(the newest event in the file is of {told})"));
        assert_eq!(error.contains("the newest event in the file"), newest.is_some(), "{error}");
        assert!(newest.is_none_or(|newest| error.contains(&newest)), "{error}");
    }
}

fn assert_holds_one_event(path: &Path, when: &str) {
    let store = SqliteStore::open(path).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(store.append_one(&event("1")).unwrap().outcome, Outcome::Duplicate, "{when}");
    assert_eq!(store.append_one(&event("2")).unwrap().outcome, Outcome::Stored, "{when}");
}

#[test]
fn a_log_that_is_missing_or_empty_after_a_crash_is_not_taken_for_one_without_events() {
    let (_directory, path) = crashed_store();
    let log = fs::read(wal(&path)).unwrap();
    let kept = path.with_file_name("kept");
    fs::rename(wal(&path), &kept).unwrap();
    assert_refused(&path, "missing");
    assert!(!wal(&path).exists(), "a refused opening leaves nothing behind");
    fs::write(wal(&path), "").unwrap();
    assert_refused(&path, "empty");
    fs::write(wal(&path), &log[..40]).unwrap();
    assert_refused(&path, "cut short");
    fs::rename(kept, wal(&path)).unwrap();
    assert_holds_one_event(&path, "the log is back");
}

#[test]
fn an_opening_that_fails_after_a_crash_leaves_the_log_as_it_is() {
    let (directory, path, store) = open_store();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let crashed = directory.path().join("crashed.db");
    fs::copy(&path, &crashed).unwrap();
    fs::copy(wal(&path), wal(&crashed)).unwrap();
    let log = fs::read(wal(&crashed)).unwrap();
    drop(store);
    for _ in 0..2 {
        let error = SqliteStore::open(&crashed).err().expect("it is of another format");
        assert!(error.to_string().contains("format 99"), "{error}");
        assert_eq!(fs::read(wal(&crashed)).unwrap(), log);
    }
}

#[test]
fn a_bare_copy_of_a_file_in_use_is_refused() {
    let (directory, path, store) = open_store();
    let copy = directory.path().join("copy.db");
    for id in 2..5 {
        fs::copy(&path, &copy).unwrap();
        assert_refused(&copy, &format!("before event {id}"));
        store.append_one(&event(&id.to_string())).unwrap();
    }
}

#[test]
fn a_file_of_which_the_log_was_copied_is_marked_all_the_same() {
    let (directory, path, store) = open_store();
    drop(store);
    // Checkpoints after nearly every append.
    let options = SqliteOptions { checkpoint_bytes: 32 << 10, ..flushed() };
    let store = SqliteStore::open_with(&path, options).unwrap();
    let copy = directory.path().join("copy.db");
    for id in 2..60 {
        store.append_one(&event(&id.to_string())).unwrap();
        fs::copy(&path, &copy).unwrap();
        assert!(SqliteStore::open(&copy).is_err(), "after event {id}");
    }
}

#[test]
fn a_store_that_was_closed_in_order_is_one_file() {
    let (directory, path, store) = open_store();
    drop(store);
    let copy = directory.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    assert_holds_one_event(&copy, "copied when closed");
    // The same after a crash, once it was opened and closed again, by a start or by a check.
    for close in [
        (|path| drop(SqliteStore::open(path).unwrap())) as fn(&Path),
        |path| drop(SqliteStore::verify_file(path, &SqliteOptions::default()).unwrap()),
        |path| drop(SqliteStore::rebuild_index(path, SqliteOptions::default()).unwrap()),
    ] {
        let (_directory, path) = crashed_store();
        close(&path);
        let _ = fs::remove_file(wal(&path));
        assert_holds_one_event(&path, "closed after a crash");
    }
}

/// What users are told to do: `sqlite3 FILE '.backup COPY'`, also over an older copy.
#[test]
fn copies_that_sqlite_makes_of_a_file_in_use_open() {
    let (directory, path, store) = open_store();
    let source = Connection::open(&path).unwrap();
    let copy = directory.path().join("copy.db");
    // As many times as the schema has parts, and more: each copy over a copy counts its cookie up.
    for round in 0..40 {
        let mut target = Connection::open(&copy).unwrap();
        let backup = Backup::new(&source, &mut target).unwrap();
        backup.run_to_completion(100, Duration::ZERO, None).unwrap();
        drop(backup);
        target.close().unwrap();
        let again = directory.path().join(format!("copy-{round}.db"));
        fs::copy(&copy, &again).unwrap();
        assert_holds_one_event(&again, ".backup");
    }
    let vacuumed = directory.path().join("vacuumed.db");
    source.execute("VACUUM INTO ?1", [vacuumed.to_str().unwrap()]).unwrap();
    assert_holds_one_event(&vacuumed, "VACUUM INTO");
    let own = directory.path().join("own.db");
    store.backup(&own).unwrap();
    assert_holds_one_event(&own, "backup");

    // Over a bare copy, which is marked with the same number.
    fs::copy(&path, &copy).unwrap();
    let mut target = Connection::open(&copy).unwrap();
    Backup::new(&source, &mut target).unwrap().run_to_completion(100, Duration::ZERO, None).unwrap();
    target.close().unwrap();
    assert_holds_one_event(&copy, "over a bare copy");
}

/// A copy is marked anew by what is appended to it.
#[test]
fn a_bare_copy_of_a_restored_copy_in_use_is_refused_too() {
    let (directory, _path, store) = open_store();
    let restored = directory.path().join("restored.db");
    store.backup(&restored).unwrap();
    let store = SqliteStore::open(&restored).unwrap();
    store.append_one(&event("2")).unwrap();
    let copy = directory.path().join("copy.db");
    fs::copy(&restored, &copy).unwrap();
    assert_refused(&copy, "a copy of a copy");
}

#[test]
fn an_opening_that_only_reads_writes_nothing() {
    let (_directory, path, store) = open_store();
    drop(store);
    let before = fs::read(&path).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    let page = store.read(&Query::topic(Topic::new("t").unwrap())).unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::metadata(wal(&path)).unwrap().len(), 0);
    drop(store);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_left_without_the_log_is_served_only_when_somebody_says_so() {
    let (_directory, path, store) = open_store();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("2")).unwrap();
    let bare = path.with_file_name("bare.db");
    fs::copy(&path, &bare).unwrap();
    let accept = SqliteOptions { accept_lost_log: true, ..SqliteOptions::default() };
    let report = SqliteStore::verify_file(&bare, &accept).unwrap();
    assert!(report.faults.is_empty() && report.events == 1, "{report:?}");
    // The word is given once.
    assert_holds_one_event(&bare, "accepted");
}

#[test]
fn what_is_left_without_the_log_is_not_accepted_if_it_contradicts_itself() {
    let (directory, path, store) = open_store();
    let bare = directory.path().join("bare.db");
    fs::copy(&path, &bare).unwrap();
    drop(store);
    let damaged = Connection::open(&bare).unwrap();
    damaged.execute_batch("UPDATE partitions SET stored = stored + 7").unwrap();
    drop(damaged);
    let accept = SqliteOptions { accept_lost_log: true, ..SqliteOptions::default() };
    assert!(!SqliteStore::verify_file(&bare, &accept).unwrap().faults.is_empty());
    assert_refused(&bare, "unsound");
}

/// The file cannot be written as long as a reader reads it, and not the log.
#[test]
fn a_reader_from_before_the_first_append_keeps_it_waiting_and_nothing_is_lost() {
    let (_directory, path, store) = open_store();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    std::thread::scope(|scope| {
        let append = scope.spawn(|| store.append_one(&event("2")));
        // It waits, and the mark is in the log alone.
        while fs::metadata(wal(&path)).unwrap().len() == 0 {
            std::thread::yield_now();
        }
        assert!(!append.is_finished());
        reader.execute_batch("ROLLBACK").unwrap();
        assert_eq!(append.join().unwrap().unwrap().outcome, Outcome::Stored);
    });
    let bare = path.with_file_name("bare.db");
    fs::copy(&path, &bare).unwrap();
    assert_refused(&bare, "after the wait");
}

#[test]
fn a_long_read_that_begins_before_the_first_append_does_not_keep_it_waiting() {
    let (directory, path, store) = open_store();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    store.backup(&directory.path().join("copy.db")).unwrap();
    // As a backup does that is under way: what is marked has frames in its log already.
    assert!(fs::metadata(wal(&path)).unwrap().len() > 0);
    assert_eq!(store.append_one(&event("2")).unwrap().outcome, Outcome::Stored);
}
