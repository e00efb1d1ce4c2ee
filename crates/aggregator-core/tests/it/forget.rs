//! Forgetting in the SQLite file, beyond what the contract asks of every store: its format, its index, damage, copies.

use std::fs;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use aggregator_core::store::IndexOptions;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, EventId, Identity, Outcome, Query, SqliteOptions, SqliteStore,
    StoreError, Timestamp, Topic, TopicSelector,
};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::index::{flushed, with};

/// Of each topic.
const EVENTS: u64 = 150;
/// Of `a`: the first ones were forgotten, further ones purged.
const FORGOTTEN: u64 = 60;
const PURGED: u64 = 70;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(topic: &str, n: u64) -> Event {
    Event::new(topic, format!("event-{n}")).unwrap()
}

fn append(store: &SqliteStore, events: &[Event]) -> Result<Vec<Outcome>, StoreError> {
    let receipts = store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>())?;
    Ok(receipts.into_iter().map(|receipt| receipt.outcome).collect())
}

/// Those of `a` and `b`, by turns.
fn events() -> Vec<Event> {
    (1..=EVENTS).flat_map(|n| [event("a", n), event("b", n)]).collect()
}

fn forget(store: &SqliteStore, name: &str, most: u64) -> u64 {
    store.forget_identities(&topic(name), Timestamp::from_micros(i64::MAX), most).unwrap()
}

fn fill(path: &Path, options: SqliteOptions) -> SqliteStore {
    let store = SqliteStore::open_with(path, options).unwrap();
    for batch in events().chunks(30) {
        append(&store, batch).unwrap();
    }
    store.purge(&topic("a"), PURGED).unwrap();
    // Stubs before and behind the last row that is forgotten.
    store.purge(&topic("b"), PURGED).unwrap();
    assert_eq!(forget(&store, "a", FORGOTTEN), FORGOTTEN);
    store
}

/// A file that was closed, in which identities were forgotten.
fn filled(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("events.db");
    drop(fill(&path, flushed()));
    path
}

fn assert_sound(store: &SqliteStore) {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// What was forgotten comes again, and nothing else.
fn assert_has_forgotten(store: &SqliteStore) {
    assert_sound(store);
    let identity = |event: &Event| Identity {
        topic: topic(event.view().topic()),
        event_id: EventId::new(event.view().event_id()).unwrap(),
        source: None,
    };
    let is_forgotten = |event: &Event| {
        (1..=FORGOTTEN)
            .any(|n| (event.view().topic(), event.view().event_id()) == ("a", &*format!("event-{n}")))
    };
    let ids: Vec<_> = events().iter().map(identity).collect();
    let seen = store.lookup(&ids).unwrap();
    assert!(events().iter().zip(seen).all(|(event, seen)| seen.is_none() == is_forgotten(event)));
    for event in events() {
        let expected = if is_forgotten(&event) { Outcome::Stored } else { Outcome::Duplicate };
        assert_eq!(append(store, &[event]).unwrap(), [expected]);
    }
    assert!(append(store, &events()).unwrap().iter().all(|outcome| *outcome == Outcome::Duplicate));
    assert_sound(store);
}

fn format(path: &Path) -> u32 {
    let connection = Connection::open(path).unwrap();
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn forgetting_leaves_the_format_as_it_is() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    append(&store, &events()).unwrap();
    assert_eq!(forget(&store, "a", u64::MAX), 0, "nothing is purged");
    store.purge(&topic("a"), 10).unwrap();
    assert_eq!((forget(&store, "a", 1), format(&path)), (1, 5));
    drop(store);
    let options = || SqliteOptions::default();
    assert_eq!(SqliteStore::upgrade(&path, None, options(), &mut |_| Continue(())).unwrap(), None);
    assert_eq!(format(&path), 5);
    assert_sound(&SqliteStore::open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 6").unwrap();
    let error = SqliteStore::open(&path).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 6, known: 5, .. }), "{error}");
}

#[test]
fn a_store_that_has_forgotten_is_opened_by_any_layout_of_the_index() {
    for index in [
        IndexOptions::default(),
        IndexOptions { memtable: 1, section: 2, fan_out: 2 },
        IndexOptions { memtable: 50, section: 10, fan_out: 3 },
    ] {
        let directory = TempDir::new().unwrap();
        assert_has_forgotten(&SqliteStore::open_with(filled(&directory), with(index)).unwrap());
        // All of it from memory.
        let path = directory.path().join("other.db");
        assert_has_forgotten(&fill(&path, with(index)));
    }
}

#[test]
fn an_index_is_made_anew_beside_what_was_forgotten() {
    let directory = TempDir::new().unwrap();
    let path = filled(&directory);
    let layout = with(IndexOptions { memtable: 16, section: 8, fan_out: 3 });
    assert_has_forgotten(&SqliteStore::rebuild_index(&path, layout).unwrap());
    assert_eq!(format(&path), 5);
}

/// Then all other tables are copied into a new file.
#[test]
fn an_index_is_made_anew_beside_what_was_forgotten_where_its_pages_are_gone() {
    let directory = TempDir::new().unwrap();
    let path = filled(&directory);
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'index_chunks'";
    let root: usize = Connection::open(&path).unwrap().query_row(root, [], |row| row.get(0)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[(root - 1) * 8192..root * 8192].fill(0);
    fs::write(&path, bytes).unwrap();
    assert_has_forgotten(&SqliteStore::rebuild_index(&path, flushed()).unwrap());
    assert_eq!(format(&path), 5);
}

#[test]
fn copies_have_forgotten_the_same() {
    let directory = TempDir::new().unwrap();
    let path = filled(&directory);
    let at = |name: &str| directory.path().join(name);
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    store.maintain().unwrap().backup(&at("backup.db"), &mut |_| Continue(())).unwrap();
    drop(store);
    SqliteStore::restore(at("backup.db"), at("restored.db"), &flushed(), &mut |_| Continue(())).unwrap();
    assert_has_forgotten(&SqliteStore::open_with(at("restored.db"), flushed()).unwrap());
    SqliteStore::compact(&path, &flushed()).unwrap();
    assert_eq!(format(&path), 5);
    assert_has_forgotten(&SqliteStore::open_with(&path, flushed()).unwrap());
}

/// The entries of what was forgotten leave the index when their runs are merged. A store that forgets as much as it takes
/// does not grow, also beside a topic that keeps a few rows.
#[test]
fn the_index_does_not_keep_what_was_forgotten() {
    let bytes_after = |forgets: bool| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store =
            SqliteStore::open_with(&path, with(IndexOptions { memtable: 50, section: 20, fan_out: 2 }))
                .unwrap();
        for round in 0..40 {
            let kept = (0..2).map(|n| event("kept", round * 2 + n));
            let events: Vec<_> = (0..100).map(|n| event("a", round * 100 + n)).chain(kept).collect();
            append(&store, &events).unwrap();
            store.purge(&topic("a"), u64::MAX).unwrap();
            if forgets {
                assert!(forget(&store, "a", u64::MAX) >= 99);
            }
        }
        assert_sound(&store);
        let bytes = |sql: &str| -> u64 {
            Connection::open(&path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let pages =
            "SELECT (SELECT page_count FROM pragma_page_count) - freelist_count FROM pragma_freelist_count";
        (bytes("SELECT coalesce(sum(length(entries)), 0) FROM index_chunks"), bytes(pages))
    };
    let ((kept, all_pages), (left, pages)) = (bytes_after(false), bytes_after(true));
    assert!(left * 4 < kept, "{left} of {kept} bytes of entries");
    assert!(pages * 2 < all_pages, "{pages} of {all_pages} pages are used");
}

/// Rows may be missing before what was forgotten. Still, none is lost without a word.
#[test]
fn whatever_is_lost_beside_what_was_forgotten_is_found() {
    for damage in [
        // A stub of the other topic before the last row that was forgotten, and one of either behind it.
        "DELETE FROM stubs WHERE offset = 20",
        "DELETE FROM stubs WHERE offset = 138",
        "DELETE FROM stubs WHERE offset = (SELECT max(offset) FROM stubs)",
        "DELETE FROM events WHERE offset = 200",
        "DELETE FROM forgotten",
        "DROP TABLE forgotten",
        "UPDATE forgotten SET seq = seq + 1",
        "UPDATE forgotten SET offset = offset + 1",
        "UPDATE forgotten SET processed_at = 0",
        "UPDATE forgotten SET topic_id = 2",
        "DELETE FROM gaps",
        "DELETE FROM gaps WHERE first_offset = 31",
        "UPDATE gaps SET last_offset = last_offset + 1",
        "DROP TABLE gaps",
        // A whole stub that comes back.
        "INSERT INTO stubs SELECT 5, topic_id, seq, event_id, source, digest, processed_at, checksum
         FROM stubs WHERE offset = 20",
    ] {
        let directory = TempDir::new().unwrap();
        let path = filled(&directory);
        assert_eq!(
            Connection::open(&path)
                .unwrap()
                .query_row("SELECT offset FROM forgotten", [], |row| row.get::<_, u64>(0))
                .unwrap(),
            105
        );
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let found = SqliteStore::open_with(&path, flushed()).and_then(|store| store.verify());
        assert!(found.as_ref().map_or(true, |report| !report.faults.is_empty()), "{damage}: {found:?}");
    }
}

/// A row that a damaged file has lost stops the append of its identity, wherever it was.
#[test]
fn a_repeat_whose_row_is_lost_is_not_taken_for_one_that_was_forgotten() {
    for (name, n) in [("a", 70), ("b", 10), ("b", 70)] {
        let directory = TempDir::new().unwrap();
        let path = filled(&directory);
        let topic_id = if name == "a" { 1 } else { 2 };
        let lost = format!("DELETE FROM stubs WHERE event_id = 'event-{n}' AND topic_id = {topic_id}");
        assert_eq!(Connection::open(&path).unwrap().execute(&lost, []).unwrap(), 1);
        let store = SqliteStore::open_with(&path, flushed()).unwrap();
        assert_eq!(append(&store, &[event("a", 1)]).unwrap(), [Outcome::Stored]);
        let error = append(&store, &[event(name, n)]).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn forgetting_goes_on_beside_appends_and_reads() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(
        directory.path().join("events.db"),
        SqliteOptions {
            index: IndexOptions { memtable: 100, section: 40, fan_out: 2 },
            ..SqliteOptions::default()
        },
    )
    .unwrap();
    let (done, forgotten) = (AtomicBool::new(false), AtomicU64::new(0));
    let is_done = || done.load(Ordering::SeqCst);
    thread::scope(|scope| {
        let mut readers = Vec::new();
        readers.push(scope.spawn(|| {
            while !is_done() {
                store.purge(&topic("a"), u64::MAX).unwrap();
                forgotten.fetch_add(forget(&store, "a", 70), Ordering::SeqCst);
            }
        }));
        readers.push(scope.spawn(|| {
            while !is_done() {
                for page in store.pages(Query::of(TopicSelector::All)) {
                    assert!(matches!(page, Ok(_) | Err(StoreError::Expired { .. })), "{page:?}");
                }
                let id = |n: u64| Identity {
                    topic: topic("a"),
                    event_id: EventId::new(format!("event-{n}")).unwrap(),
                    source: None,
                };
                store.lookup(&(1..500).map(id).collect::<Vec<_>>()).unwrap();
            }
        }));
        for n in 1..=300 {
            let events: Vec<_> = (0..10).map(|at| event(["a", "b"][at % 2], n * 10 + at as u64)).collect();
            assert_eq!(append(&store, &events).unwrap(), [Outcome::Stored; 10]);
        }
        done.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_sound(&store);
    // The first ones were forgotten while the last ones were appended.
    assert!(forgotten.load(Ordering::SeqCst) > 500);
    assert_eq!(append(&store, &[event("a", 10)]).unwrap(), [Outcome::Stored]);
    assert_sound(&store);
}
