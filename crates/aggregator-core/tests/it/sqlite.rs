//! What is the SQLite store's own: its file, its refusals, its failures.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aggregator_core::store::IndexOptions;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Order, Outcome, Query, SqliteOptions, SqliteStore, StoreError, Topic,
};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::index::{flushed, with, without_journal};

fn event(id: &str) -> Event {
    Event::new("t", id).unwrap()
}

/// A store with one event in it, closed.
fn closed_store() -> (TempDir, std::path::PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("1")).unwrap();
    drop(store);
    (directory, path)
}

fn refusal(path: &Path) -> StoreError {
    let Err(error) = SqliteStore::open(path) else { panic!("{} was opened", path.display()) };
    error
}

fn reader(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

#[test]
fn the_bundled_sqlite_does_not_lose_commits_to_overlapping_checkpoints() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[test]
fn the_file_is_in_wal_mode_with_the_page_size_asked_for() {
    let (_directory, path) = closed_store();
    let pragma = |name| reader(&path).pragma_query_value(None, name, |row| row.get::<_, String>(0));
    assert_eq!(pragma("journal_mode").unwrap(), "wal");
    let page_size: u32 = reader(&path).pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
    assert_eq!(page_size, 8192);
}

#[test]
fn a_second_opener_is_refused_under_every_name_of_the_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [&path, &link, &directory.path().join("./events.db")] {
        let error = refusal(name);
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("open in another process"), "{error}");
    }
    drop(store);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn an_empty_file_is_refused_and_its_log_is_kept() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let wal = directory.path().join("events.db-wal");
    fs::write(&path, "").unwrap();
    fs::write(&wal, "acknowledged").unwrap();
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains("is empty"), "{error}");
    assert_eq!(fs::read(&wal).unwrap(), b"acknowledged");

    fs::remove_file(&path).unwrap();
    let error = refusal(&path);
    assert!(
        matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains("is missing"),
        "{error}"
    );
    assert_eq!(fs::read(&wal).unwrap(), b"acknowledged");
}

#[test]
fn foreign_files_are_refused_and_not_touched() {
    let directory = TempDir::new().unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "dear diary").unwrap();
    let database = directory.path().join("other.db");
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    for (path, kind) in [(&text, "not an SQLite database"), (&database, "of another program")] {
        let before = fs::read(path).unwrap();
        let error = refusal(path);
        assert!(matches!(error, StoreError::Invalid(_)) && error.to_string().contains(kind), "{error}");
        assert_eq!(fs::read(path).unwrap(), before);
    }
    assert!(matches!(refusal(directory.path()), StoreError::Unavailable { .. }));
}

/// As a power loss leaves it while the log is copied: the log has the whole page, and is gone.
#[test]
fn a_store_whose_first_page_is_torn_is_not_called_a_foreign_file() {
    let (_directory, path) = closed_store();
    let mut bytes = fs::read(&path).unwrap();
    bytes[..512].fill(0xA5);
    fs::write(&path, &bytes).unwrap();
    let error = refusal(&path);
    let text = error.to_string();
    assert!(matches!(error, StoreError::Corrupt { .. }) && text.contains("put the log back"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_file_of_a_later_format_is_refused() {
    let (_directory, path) = closed_store();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = refusal(&path);
    assert!(error.to_string().contains("format 99"), "{error}");
}

#[test]
fn a_creation_cut_short_leaves_nothing_in_the_way() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/down/events.db");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let left = directory.path().join("deep/down/.events.db.01ARZ3NDEKTSV4RRFFQ69G5FAV.new");
    let [strange, copy] = [".events.db.notes.new", ".events.db.01ARZ3NDEKTSV4RRFFQ69G5FAV.copy"]
        .map(|name| directory.path().join("deep/down").join(name));
    for file in [&left, &strange, &copy] {
        fs::write(file, "half a file").unwrap();
    }
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.append_one(&event("1")).unwrap().outcome, Outcome::Stored);
    assert!(!left.exists() && strange.exists() && copy.exists());
}

#[test]
fn missing_directories_are_made() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("a/b/c/events.db")).unwrap();
    store.append_one(&event("1")).unwrap();
}

#[test]
fn the_view_reads_well_from_outside_while_the_store_is_open() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let clock = Arc::new(|| aggregator_core::Timestamp::from_micros(1_767_225_600_000_001));
    let store = SqliteStore::open_with(&path, SqliteOptions { clock, ..SqliteOptions::default() }).unwrap();
    let sent = event("1").with_timestamp("2025-12-31T23:00:00Z").unwrap().with_payload("[1, 2]").unwrap();
    store.append_one(&sent).unwrap();
    let row: (String, String, String, String, String, u64, String) = reader(&path)
        .query_row(
            "SELECT topic, event_id, timestamp, source, payload, seq, processed_at FROM processed_events",
            [],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                ))
            },
        )
        .unwrap();
    let expected = ("t", "1", "2025-12-31T23:00:00Z", "unknown", "[1,2]", 1, "2026-01-01T00:00:00.000001Z");
    assert_eq!((&*row.0, &*row.1, &*row.2, &*row.3, &*row.4, row.5, &*row.6), expected);
}

#[test]
fn a_busy_file_is_unavailable_and_nothing_is_lost_or_half_stored() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("1")).unwrap();
    let intruder = Connection::open(&path).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.append_one(&event("2")).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_retryable(), "{error}");
    intruder.execute_batch("ROLLBACK").unwrap();
    let receipt = store.append_one(&event("2")).unwrap();
    assert_eq!((receipt.outcome, receipt.seq), (Outcome::Stored, Some(2)));
    assert!(store.verify().unwrap().faults.is_empty());
}

#[test]
fn an_index_that_contradicts_the_events_stops_the_store() {
    let (_directory, path) = closed_store();
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    for n in 2..9 {
        store.append_one(&event(&n.to_string())).unwrap();
    }
    Connection::open(&path).unwrap().execute_batch("DELETE FROM events WHERE offset < 3").unwrap();
    let error = store.append_one(&event("1")).unwrap_err();
    assert!(error.to_string().contains("points to offset 1, where there is nothing"), "{error}");
    let error = store.append_one(&event("9")).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned { .. }) && error.is_fatal(), "{error}");
}

#[test]
fn a_start_refuses_a_log_with_a_hole() {
    let (_directory, path) = closed_store();
    let store = SqliteStore::open(&path).unwrap();
    store.append_all(&[event("2").view(), event("3").view()]).unwrap();
    drop(store);
    Connection::open(&path).unwrap().execute_batch("DELETE FROM events WHERE seq = 2").unwrap();
    let error = SqliteStore::open(&path).err().expect("an identity is missing");
    assert!(error.to_string().contains("neither an event nor a stub at offset 2"), "{error}");
}

#[test]
fn verify_finds_what_does_not_fit_together() {
    for (damage, found) in [
        ("DELETE FROM events WHERE seq = 2", "the counter stored says 9, the rows say 8"),
        ("UPDATE events SET seq = 7 WHERE seq = 3", "topic t has seq 7 where 3 belongs"),
        ("UPDATE partitions SET duplicates = 5", "the counter duplicates says 5, the rows say 0"),
        ("UPDATE topics SET last_seq = 12", "topic t ends at seq 12 and has 9 rows"),
        ("UPDATE topics SET purged_seq = 1", "topic t has an event at seq 1 where a stub belongs"),
        ("UPDATE topics SET purged_offset = 1", "says it is purged to offset 1, its last stub is at 0"),
        ("UPDATE events SET payload = '{' WHERE seq = 2", "the payload at offset 2 is not JSON"),
        ("UPDATE events SET processed_at = 1 WHERE seq = 2", "processed_at goes back before offset 2"),
        ("UPDATE partitions SET last_processed_at = 1", "processed_at goes back before offset 10"),
        ("UPDATE index_chunks SET entries = zeroblob(100)", "does not match its checksum"),
        ("DELETE FROM index_chunks", "is missing"),
        ("DELETE FROM spans", "no span of its topic holds the event at offset 1"),
        ("UPDATE topics SET last_span = 3", "topic t"),
    ] {
        let (_directory, path) = closed_store();
        let store = SqliteStore::open_with(&path, without_journal(flushed())).unwrap();
        for n in 2..=9 {
            store.append_one(&event(&n.to_string())).unwrap();
        }
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let faults = store.verify().unwrap().faults;
        assert!(faults.iter().any(|fault| fault.contains(found)), "{damage}: {faults:?}");
    }
}

#[test]
fn the_log_is_copied_back_and_stays_short() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    // Appends wait for the thread that copies: on a busy machine, it would have its turn late.
    let options = SqliteOptions { checkpoint_bytes: 256 << 10, ..with(IndexOptions::default()) };
    let store = SqliteStore::open_with(&path, options).unwrap();
    let payload = format!("\"{}\"", "x".repeat(1_000));
    for batch in 0..40 {
        let events: Vec<_> =
            (0..100).map(|n| event(&format!("{batch}-{n}")).with_payload(&payload).unwrap()).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    }
    let wal = fs::metadata(directory.path().join("events.db-wal")).unwrap().len();
    assert!(wal < 2 << 20, "the log has {wal} bytes after 4 MB of events");
}

#[test]
fn readers_that_overlap_without_end_do_not_let_the_log_grow_for_ever() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let options = SqliteOptions { checkpoint_bytes: 64 << 10, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(&path, options).unwrap();
    let payload = format!("\"{}\"", "x".repeat(1_000));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let connections = [reader(&path), reader(&path)];
            let begin = |at: usize| {
                connections[at].execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
            };
            let end = |at: usize| connections[at].execute_batch("ROLLBACK").unwrap();
            begin(0);
            while !done.load(Ordering::SeqCst) {
                begin(1);
                end(0);
                begin(0);
                end(1);
            }
        });
        for batch in 0..400 {
            let events: Vec<_> =
                (0..50).map(|n| event(&format!("{batch}-{n}")).with_payload(&payload).unwrap()).collect();
            store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    let wal = fs::metadata(directory.path().join("events.db-wal")).unwrap().len();
    assert!(wal < 4 << 20, "the log has {wal} bytes after 20 MB of events");
}

#[test]
fn a_cursor_ahead_of_the_store_is_refused() {
    let (directory, path) = closed_store();
    // A copy by hand, which nothing can tell from the original.
    let copy = directory.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("2")).unwrap();
    let all = Query::topic(Topic::new("t").unwrap());
    let after = Some(store.read(&all).unwrap().next);
    let store = SqliteStore::open(&copy).unwrap();
    let error = store.read(&Query { after, ..all }).unwrap_err();
    assert!(error.to_string().contains("ahead of the store"), "{error}");
}

#[test]
fn what_lies_in_the_log_is_synced_into_the_file_before_it_is_told() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("1")).unwrap();
    // As a crash leaves it: the log full, the file without its events.
    let crashed = directory.path().join("crashed.db");
    let wal = directory.path().join("crashed.db-wal");
    // A store that does not find its files under their names leaves them as they are.
    fs::rename(directory.path().join("events.db-wal"), &wal).unwrap();
    fs::rename(&path, &crashed).unwrap();
    drop(store);
    let recovered = SqliteStore::open(&crashed).unwrap();
    let file_alone = directory.path().join("alone.db");
    fs::copy(&crashed, &file_alone).unwrap();
    let events: u32 =
        reader(&file_alone).query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(events, 1);
    assert_eq!(recovered.append_one(&event("1")).unwrap().outcome, Outcome::Duplicate);
}

#[test]
fn a_refused_batch_leaves_the_next_one_nothing_to_pay() {
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions { max_topics: 1, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
    store.append_one(&event("1")).unwrap();
    let other = Event::new("other", "1").unwrap();
    let batch = [event("2"), other, event("3")];
    for _ in 0..3 {
        let error = store.append_all(&[batch[0].view(), batch[1].view(), batch[2].view()]).unwrap_err();
        assert!(matches!(&error, StoreError::Invalid(faults) if faults.len() == 1), "{error}");
    }
    assert_eq!(store.append_all(&[batch[0].view(), batch[2].view()]).unwrap()[1].seq, Some(3));
    assert!(store.verify().unwrap().faults.is_empty());
}

/// Publishers that try again for ever do not make the file grow.
#[test]
fn repeats_leave_nothing_but_their_count() {
    let (_directory, path) = closed_store();
    let store = SqliteStore::open_with(&path, without_journal(SqliteOptions::default())).unwrap();
    let other = |id: &str| Event::new("other", id).unwrap();
    store.append_one(&other("1")).unwrap();
    let rows = || -> (u64, u64, u64) {
        let count = |table| format!("(SELECT count(*) FROM {table})");
        let sql = format!("SELECT {}, {}, {}", count("events"), count("spans"), count("stubs"));
        reader(&path).query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    };
    assert_eq!(rows(), (2, 2, 0));
    for _ in 0..3 {
        // Of a topic that is not the newest, alone and beside the newest.
        store.append_one(&event("1")).unwrap();
        store.append_all(&[other("1").view(), event("1").view()]).unwrap();
    }
    assert_eq!(rows(), (2, 2, 0));
    assert_eq!(store.stats().unwrap().duplicates, 9);
    // What the topic gets next is where its last event was not.
    store.append_all(&[other("2").view(), event("2").view()]).unwrap();
    assert_eq!(rows(), (4, 3, 0));
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn reads_of_one_topic_do_not_walk_the_whole_log() {
    let (_directory, path) = closed_store();
    let store = SqliteStore::open(&path).unwrap();
    // Were the other topic's rows scanned, the page would end before the event.
    let others: Vec<_> =
        (0..2 * Query::MAX_SCANNED).map(|n| Event::new("other", n.to_string()).unwrap()).collect();
    store.append_all(&others.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    store.append_one(&event("2")).unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let page = store.read(&Query { order, ..Query::topic(Topic::new("t").unwrap()) }).unwrap();
        assert!(page.events.len() == 2 && page.caught_up);
    }
}
