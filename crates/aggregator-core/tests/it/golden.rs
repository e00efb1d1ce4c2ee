//! Real stores of every format there has been, as `tests/golden/README.md` says. They hold what [`contents`] has.

#[path = "../golden/contents.rs"]
mod contents;

use std::path::{Path, PathBuf};

use aggregator_core::store::{IndexOptions, Rows};
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Kept, MemoryStore, Outcome, Partitions, SqliteOptions, SqliteStore,
    StoreError, StoreStats, StoredRow, TopicInfo, TopicQuery,
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
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
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

#[test]
fn a_store_of_todays_format_opens_with_all_it_held() {
    let copy = Copy::of("format-3.db");
    assert_whole(&SqliteStore::open(&copy.path).unwrap());
    let copy = Copy::of("format-3.db");
    let options = SqliteOptions { index: INDEX, ..SqliteOptions::default() };
    assert_whole(&SqliteStore::open_with(&copy.path, options).unwrap());
}

#[test]
fn a_store_of_format_2_is_refused_until_its_index_is_made_anew_and_loses_nothing() {
    let copy = Copy::of("format-2.db");
    let error = copy.refusal();
    assert!(error.contains("format 2") && error.contains("--rebuild-index"), "{error}");
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
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert_eq!(std::fs::read(&copy.path).unwrap(), before);
}

/// Not a test: it writes the golden store of the format this program has to the path in `GOLDEN_STORE`.
#[test]
#[ignore = "writes a golden store; tests/golden/README.md says when"]
fn make_a_golden_store() {
    let path = std::env::var("GOLDEN_STORE").unwrap();
    let options = SqliteOptions { index: INDEX, clock: contents::clock(), ..SqliteOptions::default() };
    contents::fill(&SqliteStore::open_with(path, options).unwrap());
}
