//! What must not grow with the store, or with what is asked of it.

use std::path::Path;
use std::sync::Arc;

use aggregator_core::store::{IndexOptions, TestHooks};
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, EventId, Identity, Order, Query, SqliteOptions, SqliteStore,
    StoreError, Topic,
};
use sqlite_power_loss::PowerLoss;
use tempfile::TempDir;

use crate::index::with;

fn append(store: &SqliteStore, topic: &str, numbers: std::ops::Range<u32>) {
    let events: Vec<_> = numbers.map(|n| Event::new(topic, n.to_string()).unwrap()).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

/// How often SQLite reads from its files to answer a query of a store that was just opened, whose caches are empty.
fn reads_for(path: &Path, disk: &Arc<PowerLoss>, query: &Query, events: usize) -> u64 {
    // Nothing beside the query reads.
    let test_hooks =
        TestHooks { vfs: Some(disk.name().to_owned()), in_step: true, ..TestHooks::default() }.into();
    let options = SqliteOptions { test_hooks, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(path, options).unwrap();
    let before = disk.operations().reads;
    assert_eq!(store.read(query).unwrap().events.len(), events);
    disk.operations().reads - before
}

/// Each event of a rare topic is a span of its own, with thousands of other rows in between.
#[test]
fn a_page_of_a_rare_topic_reads_nothing_of_what_lies_between() {
    const SPANS: u32 = 60;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    for n in 0..SPANS {
        append(&store, "sparse", n..n + 1);
        append(&store, "busy", n * 2_000..(n + 1) * 2_000);
    }
    drop(store);
    let disk = PowerLoss::register("counts-reads").unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let query = Query { order, ..Query::topic(Topic::new("sparse").unwrap()) };
        let reads = reads_for(&path, &disk, &query, SPANS as usize);
        // A leaf for each event, the pages above the leaves, and a few to begin with. The rows in between take more
        // than a thousand pages.
        assert!(reads < u64::from(SPANS) * 3, "{order:?}: {reads} reads for {SPANS} events");
    }
}

#[test]
fn appends_as_large_as_a_run_do_not_let_the_runs_become_ever_more() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let layout = IndexOptions { memtable: 100, section: 50, fan_out: 2 };
    for options in [with(layout), SqliteOptions { index: layout, ..SqliteOptions::default() }] {
        let store = SqliteStore::open_with(&path, options).unwrap();
        let first = u32::try_from(store.stats().unwrap().stored).unwrap();
        for n in 0..60 {
            append(&store, "t", first + n * 150..first + (n + 1) * 150);
        }
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        drop(store);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let manifest: String =
            connection.query_row("SELECT manifest FROM index_manifest", [], |row| row.get(0)).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let (runs, covered) = (manifest["runs"].as_array().unwrap().len(), &manifest["covered"]);
        assert!(runs < 40, "{runs} runs of {} events", first + 9_000);
        let in_memory = u64::from(first + 9_000) - covered.as_u64().unwrap();
        assert!(in_memory <= 2 * 150 + 2 * 100, "{in_memory} identities are in no run");
    }
}

#[test]
fn what_was_read_is_known_to_a_lookup_right_after() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    append(&store, "t", 0..1);
    let newest = Query { order: Order::Descending, limit: 1, ..Query::topic(Topic::new("t").unwrap()) };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..300).for_each(|n| append(&store, "t", n * 100..(n + 1) * 100)));
        while !writer.is_finished() {
            let event = store.read(&newest).unwrap().events.remove(0);
            let id = Identity {
                topic: Topic::new("t").unwrap(),
                event_id: EventId::new(event.event_id).unwrap(),
                source: None,
            };
            assert!(store.lookup(&[id]).unwrap()[0].is_some(), "offset {}", event.offset);
        }
    });
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    let directory = TempDir::new().unwrap();
    let good = IndexOptions::default();
    for index in [
        IndexOptions { memtable: 0, ..good },
        IndexOptions { memtable: u32::MAX, ..good },
        IndexOptions { section: 0, ..good },
        IndexOptions { section: 1 << 21, ..good },
        IndexOptions { fan_out: 1, ..good },
        IndexOptions { fan_out: 17, ..good },
    ] {
        let options = SqliteOptions { index, ..SqliteOptions::default() };
        let refused = SqliteStore::open_with(directory.path().join("events.db"), options).err();
        assert!(matches!(&refused, Some(StoreError::Invalid(faults)) if faults[0].error.field == "index"));
    }
}
