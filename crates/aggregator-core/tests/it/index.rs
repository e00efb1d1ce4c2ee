//! The dedup index beyond what the contract asks of every store: runs, merges, damage, and making it anew.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aggregator_core::store::{IndexOptions, TestHooks};
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, EventId, Identity, Outcome, SqliteOptions, SqliteStore, StoreError,
    Timestamp, Topic,
};
use rusqlite::Connection;
use tempfile::TempDir;

/// With an index that has nothing in memory but the last row or two.
pub(crate) fn flushed() -> SqliteOptions {
    with(IndexOptions { memtable: 1, section: 2, fan_out: 2 })
}

/// Each commit writes the tables of the topics, and the journal stays empty.
pub(crate) fn without_journal(options: SqliteOptions) -> SqliteOptions {
    SqliteOptions { max_unfolded: 0, ..options }
}

pub(crate) fn with(index: IndexOptions) -> SqliteOptions {
    let test_hooks = TestHooks { in_step: true, ..TestHooks::default() }.into();
    SqliteOptions { index, test_hooks, ..SqliteOptions::default() }
}

fn event(n: u32) -> Event {
    Event::new(["a", "b"][n as usize % 2], format!("event-{n}")).unwrap()
}

fn identity(n: u32) -> Identity {
    let event = event(n);
    let view = event.view();
    Identity {
        topic: Topic::new(view.topic()).unwrap(),
        event_id: EventId::new(view.event_id()).unwrap(),
        source: None,
    }
}

fn append(store: &SqliteStore, numbers: impl Iterator<Item = u32>) -> Result<Vec<Outcome>, StoreError> {
    let events: Vec<_> = numbers.map(event).collect();
    let views: Vec<_> = events.iter().map(Event::view).collect();
    Ok(store.append_all(&views)?.into_iter().map(|receipt| receipt.outcome).collect())
}

fn fill(store: &SqliteStore, count: u32, batch: u32) {
    for first in (0..count).step_by(batch as usize) {
        let outcomes = append(store, first..(first + batch).min(count)).unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
    }
}

fn all_are_repeats(store: &SqliteStore, count: u32) {
    for first in (0..count).step_by(500) {
        let outcomes = append(store, first..(first + 500).min(count)).unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Duplicate), "from {first} on");
    }
}

fn assert_sound(store: &SqliteStore) {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// What the file holds of the index, by its table.
fn count(path: &Path, table: &str) -> u64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn damage(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn every_identity_is_found_in_whatever_state_flushes_and_merges_are() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    // Merges over many slices, so that most appends meet one half done.
    let options = with(IndexOptions { memtable: 50, section: 10, fan_out: 3 });
    let mut store = SqliteStore::open_with(&path, options.clone()).unwrap();
    for first in (0..4_000).step_by(40) {
        assert!(append(&store, first..first + 40).unwrap().iter().all(|it| *it == Outcome::Stored));
        let old = (0..40).map(|n| (n * 97 + first) % (first + 40));
        assert!(append(&store, old).unwrap().iter().all(|it| *it == Outcome::Duplicate), "at {first}");
        if first % 400 == 0 {
            drop(store);
            store = SqliteStore::open_with(&path, options.clone()).unwrap();
            assert_sound(&store);
        }
    }
    let asked: Vec<_> = (0..4_100).map(identity).collect();
    for (ids, numbers) in asked.chunks(1_000).zip((0..4_100).collect::<Vec<u32>>().chunks(1_000)) {
        for (seen, n) in store.lookup(ids).unwrap().iter().zip(numbers) {
            assert_eq!(seen.is_some(), *n < 4_000, "{n}");
        }
    }
    all_are_repeats(&store, 4_000);
    assert_sound(&store);
}

/// The same with the thread in its own time, and readers beside it.
#[test]
fn readers_find_what_was_acknowledged_while_the_index_moves() {
    let directory = TempDir::new().unwrap();
    let index = IndexOptions { memtable: 40, section: 10, fan_out: 2 };
    let options = SqliteOptions { index, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
    let acknowledged = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut asked = 0_u64;
            loop {
                let until = acknowledged.load(Ordering::SeqCst);
                let ids: Vec<_> = (until.saturating_sub(300)..until).step_by(7).map(identity).collect();
                assert!(store.lookup(&ids).unwrap().iter().all(Option::is_some), "up to {until}");
                asked += ids.len() as u64;
                if until == 6_000 {
                    return asked;
                }
            }
        });
        for first in (0..6_000).step_by(20) {
            append(&store, first..first + 20).unwrap();
            acknowledged.store(first + 20, Ordering::SeqCst);
        }
        assert!(reader.join().unwrap() > 0);
    });
    assert_sound(&store);
}

#[test]
fn the_index_holds_no_more_than_it_has_to() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, with(IndexOptions { memtable: 500, section: 250, fan_out: 2 }))
        .unwrap();
    fill(&store, 20_000, 250);
    drop(store);
    // Full sections and their chunks; what was merged is gone.
    let (sections, chunks) = (count(&path, "index_sections"), count(&path, "index_chunks"));
    assert!((60..=200).contains(&sections) && chunks <= 2 * sections, "{sections} sections, {chunks} chunks");
    let bytes: u64 = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT (SELECT sum(length(head)) FROM index_sections) + (SELECT sum(length(entries)) FROM index_chunks)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(bytes < 14 * 20_000, "{bytes} bytes");
}

/// Merges go no faster than appends ask for, and no slower.
#[test]
fn merges_keep_up_with_appends() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let options = with(IndexOptions { memtable: 100, section: 50, fan_out: 4 });
    let store = SqliteStore::open_with(&path, options).unwrap();
    let file = Connection::open(&path).unwrap();
    let mut most = 0;
    for first in (0..20_000).step_by(50) {
        append(&store, first..first + 50).unwrap();
        let manifest: String =
            file.query_row("SELECT manifest FROM index_manifest", [], |row| row.get(0)).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let runs = manifest["runs"].as_array().unwrap();
        let of_level = |level: u64| runs.iter().filter(|run| run["level"] == level).count();
        most = most.max((0..5).map(of_level).max().unwrap());
    }
    assert!((4..=7).contains(&most), "{most} runs of a level");
}

/// Whatever of the index is damaged: a repeat is recognised, or nothing is acknowledged.
#[test]
fn a_damaged_index_never_lets_a_repeat_through() {
    for (sql, found_at_start) in [
        ("UPDATE index_chunks SET entries = zeroblob(length(entries))", false),
        ("UPDATE index_chunks SET entries = substr(entries, 1, 20)", false),
        ("DELETE FROM index_chunks", false),
        (
            "UPDATE index_chunks SET chunk = -chunk; UPDATE index_chunks SET chunk =
                 (SELECT max(-b.chunk) + min(-b.chunk) FROM index_chunks b) + index_chunks.chunk",
            false,
        ),
        ("UPDATE index_sections SET head = zeroblob(length(head))", true),
        ("UPDATE index_sections SET head = CAST(head || x'00' AS BLOB)", true),
        ("DELETE FROM index_sections WHERE section = (SELECT min(section) FROM index_sections)", true),
        ("UPDATE index_manifest SET manifest = replace(manifest, '\"covered\":', '\"covered\":1')", true),
        ("UPDATE index_manifest SET generation = generation + 1", true),
        ("DELETE FROM index_manifest", true),
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let options = with(IndexOptions { memtable: 100, section: 50, fan_out: 2 });
        let store = SqliteStore::open_with(&path, options.clone()).unwrap();
        fill(&store, 1_500, 100);
        drop(store);
        damage(&path, sql);
        match SqliteStore::open_with(&path, options.clone()) {
            Err(error) => {
                assert!(found_at_start, "{sql}: {error}");
                assert!(matches!(error, StoreError::Corrupt { .. }), "{sql}: {error}");
                assert!(error.to_string().contains("the dedup index"), "{sql}: {error}");
                assert!(error.to_string().contains("--rebuild-index"), "{sql}: {error}");
            }
            Ok(store) => {
                assert!(!found_at_start, "{sql}");
                let error = append(&store, 0..100).expect_err(sql);
                assert!(matches!(error, StoreError::Corrupt { .. }), "{sql}: {error}");
                assert!(matches!(append(&store, 5_000..5_001), Err(StoreError::Poisoned { .. })), "{sql}");
                assert!(store.lookup(&[identity(3)]).is_err(), "{sql}");
                assert!(!store.verify().unwrap().faults.is_empty(), "{sql}");
            }
        }
        // And what is damaged can be made anew.
        let store = SqliteStore::rebuild_index(&path, options).unwrap();
        assert_sound(&store);
        all_are_repeats(&store, 1_500);
        assert_eq!(append(&store, 5_000..5_001).unwrap(), [Outcome::Stored]);
        assert_sound(&store);
    }
}

#[test]
fn an_index_made_anew_knows_stubs_and_every_scope() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    let scoped = |n: u32, source: &str| {
        let event = Event::new("scoped", format!("{n}")).unwrap().with_source(source).unwrap();
        event.with_scope(aggregator_core::Scope::Source)
    };
    fill(&store, 300, 30);
    let of_sources: Vec<_> = (0..20).flat_map(|n| [scoped(n, "x"), scoped(n, "y")]).collect();
    for batch in of_sources.chunks(7) {
        store.append_all(&batch.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    }
    store.purge(&Topic::new("a").unwrap(), 70).unwrap();
    store.purge(&Topic::new("scoped").unwrap(), 15).unwrap();
    drop(store);
    // Cut off in between, and begun again.
    let store =
        SqliteStore::rebuild_index(&path, with(IndexOptions { memtable: 16, section: 8, fan_out: 3 }))
            .unwrap();
    assert_sound(&store);
    all_are_repeats(&store, 300);
    let receipts = store.append_all(&of_sources.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    assert!(receipts.iter().all(|receipt| receipt.outcome == Outcome::Duplicate));
    assert_eq!(store.append_one(&scoped(3, "z")).unwrap().outcome, Outcome::Stored);
}

#[test]
fn an_index_made_anew_leaves_a_short_log_and_no_more_in_memory_than_two_maps_hold() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    fill(&store, 300, 30);
    drop(store);
    let layout = IndexOptions { memtable: 16, section: 8, fan_out: 3 };
    let options = SqliteOptions { checkpoint_bytes: 64 << 10, ..with(layout) };
    let _store = SqliteStore::rebuild_index(&path, options).unwrap();
    let log = fs::metadata(directory.path().join("events.db-wal")).unwrap().len();
    assert!(log < 128 << 10, "the log has {log} bytes");
    let sql = "SELECT json_extract(manifest, '$.covered') FROM index_manifest";
    let covered: u32 = Connection::open(&path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert!((300 - 2 * 16..=300).contains(&covered), "{covered}");
}

/// What is older is among the golden stores.
#[test]
fn the_index_of_a_later_format_is_not_made_anew() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    drop(SqliteStore::open_with(&path, flushed()).unwrap());
    damage(&path, "PRAGMA user_version = 99");
    let error = SqliteStore::rebuild_index(&path, flushed()).map(drop).unwrap_err();
    assert!(error.to_string().contains("format 99"), "{error}");
}

#[test]
fn the_check_finds_an_identity_that_is_stored_twice() {
    let directory = TempDir::new().unwrap();
    let [path, other] = ["events.db", "other.db"].map(|name| directory.path().join(name));
    let orders = [(&path, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (&other, [0, 1, 2, 9, 4, 5, 6, 7, 8, 3])];
    for (path, order) in orders {
        let clock = Arc::new(|| Timestamp::from_micros(1));
        let store = SqliteStore::open_with(path, SqliteOptions { clock, ..flushed() }).unwrap();
        order.into_iter().for_each(|n| drop(append(&store, n..n + 1).unwrap()));
    }
    // A row that is whole, in the place of another one.
    damage(
        &path,
        &format!(
            "ATTACH '{}' AS other; DELETE FROM events WHERE offset = 10;
             INSERT INTO events SELECT * FROM other.events WHERE offset = 10",
            other.display()
        ),
    );
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    let faults = store.verify().unwrap().faults;
    drop(store);
    assert!(
        faults.iter().any(|fault| fault.contains("offsets 4 and 10 hold the same identity")),
        "{faults:?}"
    );
    let faults = SqliteStore::rebuild_index(&path, flushed()).unwrap().verify().unwrap().faults;
    assert!(
        faults.iter().any(|fault| fault.contains("offsets 4 and 10 hold the same identity")),
        "{faults:?}"
    );
}

/// SQLite cannot even drop a table whose pages are zeros.
#[test]
fn an_index_is_made_anew_where_its_pages_are_gone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    fill(&store, 300, 10);
    store.purge(&Topic::new("a").unwrap(), 20).unwrap();
    let id = store.info().id;
    drop(store);
    let root: usize = Connection::open(&path)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'index_chunks'", [], |row| row.get(0))
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[(root - 1) * 8192..root * 8192].fill(0);
    fs::write(&path, bytes).unwrap();
    let store = SqliteStore::rebuild_index(&path, flushed()).unwrap();
    assert_eq!(store.info().id, id);
    assert_sound(&store);
    all_are_repeats(&store, 300);
    assert_eq!(append(&store, 300..301).unwrap(), [Outcome::Stored]);
}

/// It would leave a store that cannot be opened at all.
#[test]
fn an_index_that_cannot_be_made_anew_is_left_as_it_is() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    fill(&store, 100, 10);
    drop(store);
    damage(&path, "UPDATE events SET payload = '[]' WHERE offset = 7");
    let error = SqliteStore::rebuild_index(&path, flushed()).err().unwrap();
    assert!(error.to_string().contains("the event at offset 7 does not match"), "{error}");
    let store = SqliteStore::open_with(&path, flushed()).unwrap();
    assert_eq!(append(&store, 100..101).unwrap(), [Outcome::Stored]);
}

/// Whoever sends new events only never asks for what is damaged. The thread that merges does.
#[test]
fn a_damaged_chunk_that_a_merge_meets_stops_appends() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let options = with(IndexOptions { memtable: 100, section: 50, fan_out: 4 });
    let store = SqliteStore::open_with(&path, options.clone()).unwrap();
    fill(&store, 1_200, 100);
    drop(store);
    damage(
        &path,
        "UPDATE index_chunks SET entries = zeroblob(length(entries)) WHERE chunk = (SELECT max(chunk) FROM index_chunks)",
    );
    let store = SqliteStore::open_with(&path, options).unwrap();
    let stopped = (0..20).find_map(|n| append(&store, 2_000 + n * 100..2_100 + n * 100).err());
    let error = stopped.expect("the newest runs are merged by then");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(matches!(append(&store, 9_000..9_001), Err(StoreError::Poisoned { .. })));
}

/// Two layouts of one file, one after the other.
#[test]
fn a_file_may_be_opened_with_another_layout() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let layouts = [(64, 16, 2), (7, 100, 4), (300, 5, 3), (3, 5, 2), (1_000, 1_000, 8)];
    for (round, (recent, section, fan_out)) in (0..).zip(layouts) {
        let store =
            SqliteStore::open_with(&path, with(IndexOptions { memtable: recent, section, fan_out })).unwrap();
        for first in (0..400).step_by(20) {
            let from = round * 400 + first;
            let outcomes = append(&store, from..from + 20).unwrap();
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored));
        }
        all_are_repeats(&store, (round + 1) * 400);
        assert_sound(&store);
    }
}
