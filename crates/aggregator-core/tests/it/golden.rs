//! Real stores of every format there has been, as `tests/golden/README.md` says. They hold what [`contents`] has.

#[path = "../golden/contents.rs"]
mod contents;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aggregator_core::store::{IndexOptions, Rows};
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Kept, MemoryStore, Outcome, Partitions, SqliteOptions, SqliteStore,
    StoreError, StoreStats, StoredRow, Timestamp, Topic, TopicInfo, TopicQuery, Upgraded,
};
use tempfile::TempDir;

/// So few that the index of a golden store has runs.
const INDEX: IndexOptions = IndexOptions { memtable: 16, section: 8, fan_out: 2 };

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of a golden store that a test may change.
struct Copy {
    _directory: TempDir,
    path: PathBuf,
}

impl Copy {
    fn of(name: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(name);
        std::fs::copy(golden(name), &path).unwrap();
        Self { _directory: directory, path }
    }

    fn refusal(&self) -> String {
        let before = std::fs::read(&self.path).unwrap();
        let error = SqliteStore::open(&self.path).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Format { .. }), "{error}");
        assert_eq!(std::fs::read(&self.path).unwrap(), before, "a store that is refused is not changed");
        error.to_string()
    }
}

/// All that a store keeps and counts, but for its size.
fn contents_of(store: &dyn DedupStore) -> (Vec<StoredRow>, Vec<TopicInfo>, StoreStats) {
    let mut rows = Rows::of(store);
    let rows = std::iter::from_fn(|| rows.next().unwrap()).collect();
    let mut stats = store.stats().unwrap();
    stats.bytes = 0;
    (rows, store.topics(&TopicQuery { times: true, ..TopicQuery::default() }).unwrap(), stats)
}

/// Nothing was lost, nothing was added, and every identity is known.
fn assert_whole(store: &SqliteStore) {
    let expected = MemoryStore::new(Partitions::ONE).with_clock(contents::clock());
    contents::fill(&expected);
    assert_eq!(contents_of(store), contents_of(&expected));
    assert_goes_on(store);
}

fn assert_goes_on(store: &SqliteStore) {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);

    let outcomes = |events: &[Event]| -> Vec<_> {
        let receipts = store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        receipts.iter().map(|receipt| receipt.outcome).collect()
    };
    let events = contents::events();
    assert_eq!(outcomes(&events), vec![Outcome::Duplicate; events.len()]);
    let conflicts: Vec<_> = events.iter().map(contents::conflicting).collect();
    assert_eq!(outcomes(&conflicts), vec![Outcome::Conflict; events.len()]);
    let rows = contents::rows();
    let alone: Vec<_> = rows.iter().filter(|row| row.kept == Kept::Identity).map(|row| of(row)).collect();
    assert_eq!(outcomes(&alone), vec![Outcome::Duplicate; 13]);
    assert_eq!(outcomes(&[Event::new("orders.created", "new").unwrap()]), [Outcome::Stored]);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// An event with the identity of a row.
fn of(row: &StoredRow) -> Event {
    let event = Event::new(row.topic.clone(), row.event_id.clone()).unwrap();
    event.with_source(row.source()).unwrap().with_scope(row.scope.unwrap())
}

/// With a small index or with the usual one, with few spans in the journal or with the usual number.
fn options() -> [SqliteOptions; 3] {
    [
        SqliteOptions::default(),
        SqliteOptions { index: INDEX, ..SqliteOptions::default() },
        SqliteOptions { max_unfolded: 0, ..SqliteOptions::default() },
    ]
}

#[test]
fn a_store_of_todays_format_opens_with_all_it_held() {
    for options in options() {
        let copy = Copy::of("format-5.db");
        assert_whole(&SqliteStore::open_with(&copy.path, options).unwrap());
    }
}

#[test]
fn the_golden_store_of_todays_format_has_a_journal_and_folded_spans() {
    let copy = Copy::of("format-5.db");
    let connection = rusqlite::Connection::open(&copy.path).unwrap();
    for table in ["journal", "spans"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert!(connection.query_row(&sql, [], |row| row.get::<_, u64>(0)).unwrap() > 1, "{table}");
    }
}

#[test]
fn a_store_without_a_journal_is_refused_until_it_is_upgraded() {
    for options in options() {
        let copy = Copy::of("format-3.db");
        let error = copy.refusal();
        assert!(error.contains("format 3") && error.contains("aggregator-server upgrade"), "{error}");
        let before = std::fs::read(&copy.path).unwrap();
        let done = copy.upgrade(None).unwrap().unwrap();
        assert_eq!((done.from, done.to, std::fs::read(&done.backup).unwrap()), (3, 5, before));
        assert_whole(&SqliteStore::open_with(&copy.path, options).unwrap());
    }
}

#[test]
fn a_store_that_has_forgotten_opens_with_all_that_it_still_held() {
    let expected = MemoryStore::new(Partitions::ONE).with_clock(contents::clock());
    contents::fill(&expected);
    forget(&expected);
    for options in options() {
        let copy = Copy::of("format-4.db");
        assert!(copy.refusal().contains("format 4"));
        assert_eq!(copy.upgrade(None).unwrap().unwrap().from, 4);
        let store = SqliteStore::open_with(&copy.path, options).unwrap();
        assert_eq!(contents_of(&store), contents_of(&expected));
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        let events = contents::events();
        let receipts = store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        let is_new = |at: usize| receipts[at].outcome == Outcome::Stored;
        let new: Vec<_> = (0..events.len()).filter(|&at| is_new(at)).collect();
        assert_eq!(
            new,
            [0, 1, 2, 3, 4, 5, 6, 40, 41, 42],
            "seven orders, and all that was purged of the others"
        );
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
    }
}

fn forget(store: &dyn DedupStore) {
    for (topic, most, forgotten) in [("orders.created", 7, 7), ("by-source", 10, 3), ("legacy", 4, 4)] {
        let all = Timestamp::from_micros(i64::MAX);
        assert_eq!(store.forget_identities(&Topic::new(topic).unwrap(), all, most).unwrap(), forgotten);
    }
}

#[test]
fn a_store_of_format_2_is_refused_until_its_index_is_made_anew_and_loses_nothing() {
    let copy = Copy::of("format-2.db");
    let error = copy.refusal();
    assert!(error.contains("format 2") && error.contains("aggregator-server upgrade"), "{error}");
    for index in [INDEX, IndexOptions::default()] {
        let copy = Copy::of("format-2.db");
        let options = || SqliteOptions { index, ..SqliteOptions::default() };
        drop(SqliteStore::rebuild_index(&copy.path, options()).unwrap());
        assert_eq!(SqliteStore::verify_file(&copy.path, &options()).unwrap().faults, [""; 0]);
        assert_whole(&SqliteStore::open_with(&copy.path, options()).unwrap());
    }
}

#[test]
fn a_store_of_format_1_is_refused_and_left_as_it_is() {
    let copy = Copy::of("format-1.db");
    let error = copy.refusal();
    assert!(error.contains("format 1") && error.contains("the program that wrote it"), "{error}");
    let before = std::fs::read(&copy.path).unwrap();
    let error = SqliteStore::rebuild_index(&copy.path, SqliteOptions::default()).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 1, .. }), "{error}");
    let error = copy.upgrade(None).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 1, .. }), "{error}");
    assert_eq!(std::fs::read(&copy.path).unwrap(), before);
}

impl Copy {
    fn upgrade(&self, backup: Option<&Path>) -> Result<Option<Upgraded>, StoreError> {
        SqliteStore::upgrade(&self.path, backup, SqliteOptions::default(), &mut |_| ControlFlow::Continue(()))
    }
}

#[test]
fn a_store_of_format_2_is_upgraded_and_its_copy_is_as_it_was() {
    let copy = Copy::of("format-2.db");
    let before = std::fs::read(&copy.path).unwrap();
    let done = copy.upgrade(None).unwrap().unwrap();
    assert_eq!((done.from, std::fs::read(&done.backup).unwrap()), (2, before));
    assert!(done.backup.ends_with("format-2.db.format-2"), "{done:?}");
    assert_whole(&SqliteStore::open(&copy.path).unwrap());
}

/// An older program that was killed has left a log with what the file does not have.
#[test]
fn the_copy_of_a_store_that_was_not_closed_has_what_its_log_had() {
    let copy = Copy::of("format-2.db");
    let connection = rusqlite::Connection::open(&copy.path).unwrap();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO meta VALUES ('late', 'news')").unwrap();
    drop(connection);
    let done = copy.upgrade(None).unwrap().unwrap();
    let backup = rusqlite::Connection::open(&done.backup).unwrap();
    let late: String =
        backup.query_row("SELECT value FROM meta WHERE name = 'late'", [], |row| row.get(0)).unwrap();
    assert_eq!(late, "news");
    assert_whole(&SqliteStore::open(&copy.path).unwrap());
}

#[test]
fn an_upgrade_overwrites_no_other_file_and_takes_the_copy_of_an_earlier_try() {
    let copy = Copy::of("format-2.db");
    let before = std::fs::read(&copy.path).unwrap();
    let refused = |backup: &Path| {
        let error = copy.upgrade(Some(backup)).unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
        assert_eq!(std::fs::read(&copy.path).unwrap(), before);
    };
    let backup = copy.path.with_extension("kept");
    let mut other = before.clone();
    *other.last_mut().unwrap() ^= 1;
    for wrong in [b"mine".to_vec(), other] {
        std::fs::write(&backup, &wrong).unwrap();
        refused(&backup);
        assert_eq!(std::fs::read(&backup).unwrap(), wrong);
    }
    refused(&copy.path);
    std::fs::write(&backup, &before).unwrap();
    assert_eq!(copy.upgrade(Some(&backup)).unwrap().unwrap().backup, backup);
    assert_eq!(std::fs::read(&backup).unwrap(), before);
    assert_whole(&SqliteStore::open(&copy.path).unwrap());
}

#[test]
fn an_upgrade_of_a_store_of_todays_format_changes_nothing() {
    let copy = Copy::of("format-5.db");
    let before = std::fs::read(&copy.path).unwrap();
    assert_eq!(copy.upgrade(None).unwrap(), None);
    assert_eq!(std::fs::read(&copy.path).unwrap(), before);
    let names =
        std::fs::read_dir(copy.path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("format-5.db.")));
}

/// Not a test: it writes the golden store of the format this program has to the path in `GOLDEN_STORE`.
#[test]
#[ignore = "writes a golden store; tests/golden/README.md says when"]
fn make_a_golden_store() {
    let path = std::env::var("GOLDEN_STORE").unwrap();
    // So few that some spans are folded and others are not.
    let max_unfolded = 3;
    // The store asks for the time when it is opened, and when it is marked.
    let (asked, times) = (AtomicU32::new(0), contents::clock());
    let clock = Arc::new(move || match asked.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Timestamp::from_micros(1),
        _ => times(),
    });
    let options = SqliteOptions { index: INDEX, clock, max_unfolded, ..SqliteOptions::default() };
    contents::fill(&SqliteStore::open_with(path, options).unwrap());
}
