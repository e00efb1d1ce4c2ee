//! The journal of the topics: whatever of it is folded already, a store holds the same.

use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aggregator_core::store::Rows;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, MemoryStore, Order, Partitions, Query, SqliteOptions, SqliteStore,
    StoreError, StoredRow, Topic, TopicInfo, TopicQuery, TopicSelector, Topics,
};
use rusqlite::Connection;
use sqlite_power_loss::Random;
use tempfile::TempDir;

use crate::index::with;

const TOPICS: u64 = 12;

/// Those of a store that folds so many spans late.
fn folding(max_unfolded: u32) -> SqliteOptions {
    let index = aggregator_core::store::IndexOptions { memtable: 50, section: 20, fan_out: 2 };
    SqliteOptions { max_unfolded, ..with(index) }
}

fn name(topic: u64) -> String {
    format!("{}.{topic}", if topic.is_multiple_of(3) { "a" } else { "b" })
}

fn topic(topic: u64) -> Topic {
    Topic::new(name(topic)).unwrap()
}

/// Events of several topics, some of them repeats, some of them conflicts.
fn batch(random: &mut Random) -> Vec<Event> {
    let event = |random: &mut Random| {
        let event = Event::new(name(random.below(TOPICS)), random.below(400).to_string()).unwrap();
        if random.below(10) == 0 { event.with_payload("1").unwrap() } else { event }
    };
    (0..1 + random.below(9)).map(|_| event(random)).collect()
}

fn append(store: &dyn DedupStore, events: &[Event]) {
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

/// All that a store keeps and counts, by topic, but for times.
fn contents_of(store: &dyn DedupStore) -> (Vec<StoredRow>, Vec<TopicInfo>) {
    let mut rows = Rows::of(store);
    let mut rows: Vec<_> = std::iter::from_fn(|| rows.next().unwrap()).collect();
    rows.iter_mut().for_each(|row| row.processed_at = aggregator_core::Timestamp::from_micros(0));
    rows.sort_by(|a, b| (&a.topic, a.seq()).cmp(&(&b.topic, b.seq())));
    (rows, store.topics(&TopicQuery::default()).unwrap())
}

/// The seqs of a topic, read in pages from both ends, and the bytes of its events.
fn assert_read(store: &SqliteStore, expected: &MemoryStore, topic: &Topic) {
    for order in [Order::Ascending, Order::Descending] {
        let query = || Query { order, limit: 7, ..Query::topic(topic.clone()) };
        let seqs = |store: &dyn DedupStore| -> Vec<u64> {
            store.pages(query()).flat_map(|page| page.unwrap().events).map(|event| event.seq).collect()
        };
        assert_eq!(seqs(store), seqs(expected), "{topic} {order:?}");
    }
    let bytes = |store: &dyn DedupStore| store.maintain().unwrap().bytes(topic, 3..=40).unwrap();
    assert_eq!(bytes(store), bytes(expected));
}

fn rows_of_journal(path: &Path) -> u64 {
    let count = "SELECT count(*) FROM journal";
    Connection::open(path).unwrap().query_row(count, [], |row| row.get(0)).unwrap()
}

/// Opened with other bounds each time: with tails that are folded at once, late, or not at all.
#[test]
fn a_store_holds_the_same_whatever_of_its_journal_is_folded() {
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let expected = MemoryStore::new(Partitions::ONE);
        for _ in 0..12 {
            let bounds = [0, 1, 5, 40, SqliteOptions::default().max_unfolded];
            let max_unfolded = bounds[usize::try_from(random.below(5)).unwrap()];
            let store = SqliteStore::open_with(&path, folding(max_unfolded)).unwrap();
            for _ in 0..random.below(30) {
                let events = batch(&mut random);
                append(&store, &events);
                append(&expected, &events);
                if random.below(5) == 0 {
                    let (topic, through) = (topic(random.below(TOPICS)), random.below(20));
                    assert_eq!(
                        store.purge(&topic, through).unwrap(),
                        expected.purge(&topic, through).unwrap()
                    );
                }
            }
            assert_eq!(contents_of(&store), contents_of(&expected), "seed {seed}, {max_unfolded}");
            (0..TOPICS).for_each(|n| assert_read(&store, &expected, &topic(n)));
            assert_eq!(store.verify().unwrap().faults, [""; 0], "seed {seed}, {max_unfolded}");
        }
    }
}

/// Also where nothing new comes, and so no spans wait.
#[test]
fn the_journal_stays_short_whatever_comes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, folding(10)).unwrap();
    let events: Vec<_> = (0..TOPICS).map(|n| Event::new(name(n), "1").unwrap()).collect();
    let mut longest = 0;
    for n in 0..600 {
        append(&store, &events[n % events.len()..][..1]);
        longest = longest.max(rows_of_journal(&path));
    }
    assert!((80..150).contains(&longest), "{longest} rows");
    for n in 0..600 {
        append(&store, &[Event::new(name(n % TOPICS), format!("new {n}")).unwrap()]);
        longest = longest.max(rows_of_journal(&path));
    }
    assert!(longest < 150, "{longest} rows");
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// A store with a journal of several rows, that was closed, and the number of its events.
fn closed_store(directory: &TempDir) -> (PathBuf, usize) {
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, folding(8)).unwrap();
    let mut random = Random::new(7);
    for _ in 0..30 {
        append(&store, &batch(&mut random));
    }
    let rows = contents_of(&store).0.len();
    drop(store);
    assert!(rows_of_journal(&path) > 5);
    (path, rows)
}

/// Everything or an error: no reader is given less, and no repeat is taken for new.
#[test]
fn a_damaged_journal_is_noticed_and_loses_nothing() {
    for damage in [
        "DELETE FROM journal",
        "DELETE FROM journal WHERE id = (SELECT max(id) FROM journal)",
        "DELETE FROM journal WHERE id = (SELECT min(id) FROM journal)",
        "DELETE FROM journal WHERE id = (SELECT min(id) + 2 FROM journal)",
        "UPDATE journal SET id = id + 1000 WHERE id = (SELECT max(id) FROM journal)",
        "UPDATE journal SET first_offset = first_offset + 1",
        "UPDATE journal SET entries = zeroblob(length(entries))",
        "UPDATE journal SET entries = x'' WHERE id = (SELECT max(id) FROM journal)",
        "UPDATE journal SET folded = x'0101'",
        "UPDATE journal SET checksum = checksum + 1",
        "UPDATE partitions SET journal_first = journal_first + 1",
        "UPDATE partitions SET journal_last = journal_last - 1",
        "INSERT INTO journal SELECT max(id) + 1, first_offset, folded, entries, checksum FROM journal",
    ] {
        let directory = TempDir::new().unwrap();
        let (path, rows) = closed_store(&directory);
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let found = SqliteStore::verify_file(&path, &SqliteOptions::default());
        assert!(found.map_or(true, |report| !report.faults.is_empty()), "{damage}: the check did not notice");
        // The store may refuse to open.
        let Ok(store) = SqliteStore::open_with(&path, folding(8)) else { continue };
        let appended = store.append_one(&Event::new(name(0), "new").unwrap());
        assert!(matches!(appended, Err(StoreError::Corrupt { .. })), "{damage}: {appended:?}");
        for n in 0..TOPICS {
            let page = store.read(&Query { limit: 1_000, ..Query::topic(topic(n)) });
            assert!(matches!(page, Err(StoreError::Corrupt { .. })), "{damage}: {page:?}");
        }
        assert!(matches!(store.topics(&TopicQuery::default()), Err(StoreError::Corrupt { .. })), "{damage}");
        // What is in no need of the journal goes on.
        let mut saved = Rows::of(&store);
        assert_eq!(std::iter::from_fn(|| saved.next().unwrap()).count(), rows, "{damage}");
    }
}

/// Events and stubs say all but how many repeats the journal had counted.
#[test]
fn a_damaged_journal_is_made_anew_from_the_events() {
    for damage in [
        "DELETE FROM journal",
        "UPDATE journal SET checksum = checksum + 1 WHERE id = (SELECT max(id) FROM journal)",
        "UPDATE journal SET entries = x'' WHERE id = (SELECT max(id) - 1 FROM journal)",
    ] {
        let directory = TempDir::new().unwrap();
        let (path, _) = closed_store(&directory);
        let store = SqliteStore::open_with(&path, folding(8)).unwrap();
        for (n, through) in [(0, 5), (1, 1_000), (2, 9), (3, 1)] {
            store.purge(&topic(n), through).unwrap();
        }
        let all = aggregator_core::Timestamp::from_micros(i64::MAX);
        for (n, most) in [(0, 2), (1, 1_000), (2, 9)] {
            store.forget_identities(&topic(n), all, most).unwrap();
        }
        append(&store, &(0..6).map(|n| Event::new(name(n), "last").unwrap()).collect::<Vec<_>>());
        let (rows, before) = contents_of(&store);
        drop(store);
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let store = SqliteStore::rebuild_index(&path, folding(8)).unwrap();
        assert_eq!(store.verify().unwrap().faults, [""; 0], "{damage}");
        let (rebuilt_rows, after) = contents_of(&store);
        assert_eq!(rebuilt_rows, rows, "{damage}");
        let places = |topics: &[TopicInfo]| -> Vec<_> {
            topics.iter().map(|info| (info.topic.clone(), info.last_seq, info.purged_seq)).collect()
        };
        assert_eq!(places(&after), places(&before), "{damage}");
        assert!(before.iter().zip(&after).all(|(before, after)| after.duplicates <= before.duplicates));
        append(&store, &(0..6).map(|n| Event::new(name(n), "last").unwrap()).collect::<Vec<_>>());
        assert_eq!(contents_of(&store).0, rows, "repeats are known");
        append(&store, &(0..6).map(|n| Event::new(name(n), "new").unwrap()).collect::<Vec<_>>());
        assert_eq!(store.verify().unwrap().faults, [""; 0], "{damage}");
    }
}

/// Purges fold nothing but their own topics: tails wait no longer for that.
#[test]
fn purges_between_appends_do_not_let_the_journal_grow() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, folding(5)).unwrap();
    let topics = 400;
    let events = |n: u64| -> Vec<_> {
        (0..topics).map(|topic| Event::new(format!("t{topic}"), n.to_string()).unwrap()).collect()
    };
    let purged = Topic::new("t0").unwrap();
    for n in 0..40 {
        append(&store, &events(n));
        store.purge(&purged, n).unwrap();
    }
    let rows = rows_of_journal(&path);
    assert!(rows < 15, "{rows} rows");
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// A store that was opened with more room folds and deletes what it has.
#[test]
fn a_smaller_bound_empties_the_journal() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, folding(100_000)).unwrap();
    for n in 0..200 {
        append(&store, &[Event::new(name(n % TOPICS), n.to_string()).unwrap()]);
    }
    drop(store);
    assert_eq!(rows_of_journal(&path), 200);
    for (max_unfolded, most) in [(1, 20), (0, 2)] {
        let store = SqliteStore::open_with(&path, folding(max_unfolded)).unwrap();
        for n in 0..200 {
            append(&store, &[Event::new(name(n % TOPICS), format!("{max_unfolded} {n}")).unwrap()]);
        }
        let rows = rows_of_journal(&path);
        assert!(rows <= most, "{max_unfolded}: {rows} rows");
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
    }
}

#[test]
fn rows_of_other_commits_are_found_by_the_check() {
    let directory = TempDir::new().unwrap();
    let (path, _) = closed_store(&directory);
    let copy = "INSERT INTO journal SELECT 0, first_offset, folded, entries, checksum FROM journal LIMIT 1";
    Connection::open(&path).unwrap().execute_batch(copy).unwrap();
    let report = SqliteStore::verify_file(&path, &SqliteOptions::default()).unwrap();
    assert!(report.faults.iter().any(|fault| fault.contains("rows that are not its own")), "{report:?}");
}

/// One topic is damaged. Others can be read, with what is in the journal alone.
#[test]
fn topics_can_be_read_beside_one_that_is_damaged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let expected = MemoryStore::new(Partitions::ONE);
    let store = SqliteStore::open_with(&path, folding(8)).unwrap();
    let mut random = Random::new(3);
    for _ in 0..30 {
        let events = batch(&mut random);
        append(&store, &events);
        append(&expected, &events);
    }
    drop(store);
    let damage = format!("UPDATE topics SET last_seq = last_seq + 1 WHERE name = '{}'", name(0));
    Connection::open(&path).unwrap().execute_batch(&damage).unwrap();
    let store = SqliteStore::open_with(&path, folding(8)).unwrap();
    assert!(store.read(&Query::topic(topic(0))).is_err());
    (1..TOPICS).for_each(|n| assert_read(&store, &expected, &topic(n)));
    assert!(matches!(
        store.append_one(&Event::new(name(1), "new").unwrap()),
        Err(StoreError::Corrupt { .. })
    ));
}

/// Readers whose snapshots are from before a fold, and from behind the last commit that memory was told of.
#[test]
fn readers_miss_nothing_while_tails_are_folded() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("events.db"), folding(6)).unwrap();
    append(&store, &(0..TOPICS).map(|n| Event::new(name(n), "first").unwrap()).collect::<Vec<_>>());
    let done = AtomicBool::new(false);
    let sparse =
        || Query::of(Topics::new([TopicSelector::Exact(topic(0)), TopicSelector::Exact(topic(3))]).unwrap());
    let reads: [&(dyn Fn() + Sync); 4] = [
        &|| assert_dense(store.pages(Query { limit: 50, ..Query::topic(topic(1)) })),
        &|| {
            let down = Query { order: Order::Descending, limit: 50, ..Query::topic(topic(2)) };
            let seqs = assert_read_down(&store.read(&down).unwrap().events);
            assert!(!seqs.is_empty());
        },
        &|| drop(store.read(&Query { limit: 500, ..sparse() }).unwrap()),
        &|| {
            let topics = store.topics(&TopicQuery { times: true, ..TopicQuery::default() }).unwrap();
            for info in topics {
                store.maintain().unwrap().bytes(&info.topic, 1..=info.last_seq).unwrap();
            }
        },
    ];
    thread::scope(|scope| {
        for read in reads {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    read();
                }
            });
        }
        let mut random = Random::new(1);
        for n in 0..1_500 {
            let event = |at: u64| Event::new(name((n + at) % TOPICS), format!("{n} {at}")).unwrap();
            append(&store, &(0..1 + random.below(20)).map(event).collect::<Vec<_>>());
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// From the first event on, without a gap.
fn assert_dense(pages: impl Iterator<Item = Result<aggregator_core::Page, StoreError>>) {
    let events = pages.flat_map(|page| page.unwrap().events);
    for (event, seq) in events.zip(1..) {
        assert_eq!(event.seq, seq);
    }
}

fn assert_read_down(events: &[aggregator_core::StoredEvent]) -> Vec<u64> {
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] == pair[1] + 1), "{seqs:?}");
    seqs
}

/// A backup, its restored copy and a file that is written anew have the journal, too.
#[test]
fn copies_have_the_journal() {
    let directory = TempDir::new().unwrap();
    let (path, rows) = closed_store(&directory);
    let at = |name: &str| directory.path().join(name);
    let store = SqliteStore::open_with(&path, folding(8)).unwrap();
    let before = contents_of(&store);
    store.maintain().unwrap().backup(&at("backup.db"), &mut |_| Continue(())).unwrap();
    drop(store);
    SqliteStore::restore(at("backup.db"), at("restored.db"), &folding(8), &mut |_| Continue(())).unwrap();
    SqliteStore::compact(&path, &folding(8)).unwrap();
    drop(SqliteStore::rebuild_index(&path, folding(8)).unwrap());
    for copy in [at("restored.db"), path] {
        let store = SqliteStore::open_with(&copy, folding(8)).unwrap();
        assert_eq!(contents_of(&store), before);
        assert_eq!(contents_of(&store).0.len(), rows);
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
    }
}
