//! What a store measures of itself.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aggregator_core::store::{HelperStep, IndexOptions, TestHooks};
use aggregator_core::{
    DedupStore, DedupStoreExt as _, Event, MemoryStore, SqliteOptions, SqliteStore, StoreGauges,
};
use tempfile::TempDir;

use crate::index::with;

fn append(store: &dyn DedupStore, ids: std::ops::Range<u32>) {
    let events: Vec<_> = ids.map(|id| Event::new("t", id.to_string()).unwrap()).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

fn gauges(store: &dyn DedupStore) -> StoreGauges {
    store.gauges().unwrap()
}

#[test]
fn commits_checkpoints_files_and_runs_are_measured() {
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions {
        checkpoint_bytes: 64 << 10,
        ..with(IndexOptions { memtable: 10, section: 20, fan_out: 2 })
    };
    // Through a pointer, as a server has it.
    let store: Arc<dyn DedupStore> =
        Arc::new(SqliteStore::open_with(directory.path().join("events.db"), options).unwrap());
    let before = gauges(&store);
    assert_eq!(before.syncs.unwrap().count(), 0);
    assert_eq!((before.index_runs, before.index_bytes), (Some(0), Some(0)));
    for append_number in 0..20 {
        append(&store, append_number * 10..append_number * 10 + 10);
    }
    let after = gauges(&store);
    let syncs = after.syncs.as_ref().unwrap();
    assert_eq!(syncs.count(), 20, "one for each commit");
    assert!(syncs.sum() > 0.0);
    let checkpoints = after.checkpoints.as_ref().unwrap();
    assert!(checkpoints.count() > 0 && checkpoints.sum() > 0.0, "{checkpoints:?}");
    assert!(after.index_runs.unwrap() > 0 && after.index_bytes.unwrap() > 0, "{after:?}");
    assert!(after.log_bytes.unwrap() > 0);
    let names: Vec<_> = after.parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["main", "log"]);
    let bytes: u64 = after.parts.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(bytes, store.stats().unwrap().bytes);
}

#[test]
fn gauges_wait_for_no_append() {
    let directory = TempDir::new().unwrap();
    let (held, is_held) = channel();
    let (release, released) = channel::<()>();
    let (held, released) = (Mutex::new(held), Mutex::new(released));
    let on_helper = Arc::new(move |step: HelperStep<'_>| {
        if matches!(step, HelperStep::Begin("dedup-index")) {
            let _ = held.lock().unwrap().send(());
            let _ = released.lock().unwrap().recv();
        }
    });
    let test_hooks = TestHooks { in_step: true, on_helper: Some(on_helper), ..TestHooks::default() }.into();
    let index = IndexOptions { memtable: 1, section: 2, fan_out: 2 };
    let options = SqliteOptions { index, test_hooks, ..SqliteOptions::default() };
    let store = Arc::new(SqliteStore::open_with(directory.path().join("events.db"), options).unwrap());
    let appending = Arc::clone(&store);
    let appender = thread::spawn(move || append(&*appending, 0..1));
    let appending = Arc::clone(&store);
    let second = thread::spawn(move || append(&*appending, 1..2));
    is_held.recv_timeout(Duration::from_secs(60)).unwrap();
    let (told, tells) = channel();
    let asked = Arc::clone(&store);
    thread::spawn(move || drop(told.send(gauges(&*asked))));
    let gauges = tells.recv_timeout(Duration::from_secs(60)).expect("an append holds them up");
    assert!(gauges.syncs.unwrap().count() <= 2);
    drop(release);
    appender.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_store_that_measures_nothing_says_so() {
    assert_eq!(MemoryStore::default().gauges(), None);
}
