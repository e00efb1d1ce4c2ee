//! Space that purges have made free goes back to the file system, while the store is in use.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aggregator_core::{DedupStoreExt, Event, Outcome, SqliteStore, Topic};
use tempfile::TempDir;

use crate::restore::{Load, options, topic};

fn on_the_disk(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

fn event(n: u64) -> Event {
    let payload = "x".repeat(usize::try_from(n % 7 * 4_000).unwrap());
    Event::new("old", n.to_string()).unwrap().with_payload(&format!("{payload:?}")).unwrap()
}

fn filled(path: &Path) -> SqliteStore {
    let store = SqliteStore::open_with(path, options()).unwrap();
    for first in (1..=600).step_by(50) {
        let events: Vec<_> = (first..first + 50).map(event).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    }
    store
}

fn old() -> Topic {
    Topic::new("old").unwrap()
}

#[test]
fn free_pages_are_given_back_but_for_those_to_keep() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = filled(&path);
    assert_eq!(store.give_back(0).unwrap(), 0, "nothing is free");
    store.purge(&old(), 600).unwrap();
    let keep = 1 << 20;
    // Which also copies the log into the file.
    let given = store.give_back(keep).unwrap();
    assert!(given > 4 << 20, "{given}");
    let (length, before) = (fs::metadata(&path).unwrap().len(), on_the_disk(&path));
    assert!(before + given <= length + 65_536, "{given} of {length}: {before}");
    assert_eq!(store.give_back(keep).unwrap(), 0, "once is enough");
    let rest = store.give_back(0).unwrap();
    assert!((keep - 65_536..=keep).contains(&rest), "{rest}");
    assert_eq!(on_the_disk(&path), before - rest);
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    // The pages are used again.
    let again: Vec<_> = (1..=300).map(|n| event(n + 1_000)).collect();
    store.append_all(&again.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    assert_eq!(store.append_one(&event(3)).unwrap().outcome, Outcome::Duplicate);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
}

#[test]
fn free_pages_are_given_back_beside_appends() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = filled(&path);
    let given = Load::beside(&store, |_| {
        let mut given = 0;
        for through in [200, 400, 600] {
            store.purge(&old(), through).unwrap();
            store.purge(&topic(), through).unwrap();
            given += store.give_back(0).unwrap();
        }
        given
    });
    assert!(given > 2 << 20, "{given}");
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
}
