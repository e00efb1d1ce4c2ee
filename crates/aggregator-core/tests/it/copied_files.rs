//! Copies that are not whole, or may not be: none is taken for a store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregator_core::{DedupStoreExt, Event, Outcome, SqliteOptions, SqliteStore, StoreError};
use tempfile::TempDir;

use crate::restore::{Load, go_on, names, options, restore};

/// An open store with one event, `events.db`, and a plain copy of both its files, `copy.db`.
fn store_and_copy(directory: &Path) -> SqliteStore {
    let store = SqliteStore::open(directory.join("events.db")).unwrap();
    store.append_one(&Event::new("t", "1").unwrap()).unwrap();
    for suffix in ["", "-wal"] {
        let [from, to] = ["events.db", "copy.db"].map(|name| directory.join(format!("{name}{suffix}")));
        fs::copy(from, to).unwrap();
    }
    store
}

#[test]
fn a_copy_that_is_damaged_is_not_restored_and_nothing_stays_of_it() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = SqliteStore::open(path("events.db")).unwrap();
    for n in 0..200 {
        let event = Event::new("t", n.to_string()).unwrap();
        store.append_one(&event.with_payload(&format!("[\"{}\"]", "y".repeat(500))).unwrap()).unwrap();
    }
    store.backup(&path("copy.db")).unwrap();
    let mut bytes = fs::read(path("copy.db")).unwrap();
    let at = bytes.windows(100).rposition(|window| window.iter().all(|&byte| byte == b'y')).unwrap();
    bytes[at] = b'z';
    fs::write(path("copy.db"), bytes).unwrap();
    fs::create_dir(path("new")).unwrap();
    let error = restore(&path("copy.db"), &path("new/events.db")).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(names(&path("new")), [""; 0]);
    // Nor a directory that was made for it.
    assert!(restore(&path("copy.db"), &path("new/deep/down/events.db")).is_err());
    assert_eq!(names(&path("new")), [""; 0]);
}

#[test]
fn a_plain_copy_of_a_store_in_use_is_refused() {
    let directory = TempDir::new().unwrap();
    let original = directory.path().join("events.db");
    let store = SqliteStore::open_with(&original, options()).unwrap();
    let copy_of = |n: u32, suffix: &str| PathBuf::from(format!("{}-{n}{suffix}", original.display()));
    Load::beside(&store, |_| {
        for n in 0..12 {
            let order: &[&str] = [&["", "-wal"][..], &["-wal", ""], &[""]][n as usize % 3];
            for suffix in order {
                fs::copy(format!("{}{suffix}", original.display()), copy_of(n, suffix)).unwrap();
                std::thread::sleep(Duration::from_millis(u64::from(n / 3)));
            }
            let restored = copy_of(n, "-restored");
            let opened = SqliteStore::open(copy_of(n, "")).map(drop);
            for refused in [opened, restore(&copy_of(n, ""), &restored).map(drop)] {
                let error = refused.unwrap_err();
                assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            }
            let error = SqliteStore::open(copy_of(n, "")).err().unwrap().to_string();
            let way_out = if order.len() == 2 { "--accept-copied-files" } else { "--accept-lost-log" };
            assert!(error.contains(way_out), "{error}");
            assert!(!restored.exists());
        }
    });
}

#[test]
fn a_plain_copy_of_a_store_that_has_crashed_is_whole_once_it_is_accepted() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let _store = store_and_copy(directory.path());
    let accept = SqliteOptions { accept_copied_files: true, ..SqliteOptions::default() };
    assert!(restore(&path("copy.db"), &path("a.db")).is_err());
    SqliteStore::restore(path("copy.db"), path("a.db"), &accept, &mut go_on).unwrap();
    assert!(SqliteStore::adopt(path("copy.db"), &SqliteOptions::default()).is_err());
    assert_eq!(SqliteStore::verify_file(path("copy.db"), &accept).unwrap().events, 1);
    for name in ["a.db", "copy.db"] {
        let store = SqliteStore::open(path(name)).unwrap();
        assert_eq!(store.append_one(&Event::new("t", "1").unwrap()).unwrap().outcome, Outcome::Duplicate);
    }
}

#[test]
fn a_backup_beside_the_log_of_another_store_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = SqliteStore::open(path("events.db")).unwrap();
    store.append_one(&Event::new("t", "1").unwrap()).unwrap();
    store.backup(&path("copy.db")).unwrap();
    store.append_one(&Event::new("t", "2").unwrap()).unwrap();
    fs::copy(path("events.db-wal"), path("kept")).unwrap();
    drop(store);
    fs::copy(path("copy.db"), path("events.db")).unwrap();
    fs::rename(path("kept"), path("events.db-wal")).unwrap();
    let log = fs::read(path("events.db-wal")).unwrap();
    for _ in 0..2 {
        let error = SqliteStore::open(path("events.db")).err().unwrap();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("is that of another store"), "{error}");
        assert!(fs::read(path("events.db-wal")).unwrap() == log, "it stays as it is");
    }
    // Neither a backup nor a restore puts a new file beside it.
    fs::remove_file(path("events.db")).unwrap();
    let error = restore(&path("copy.db"), &path("events.db")).unwrap_err().to_string();
    assert!(error.contains("its write-ahead log"), "{error}");
    fs::rename(path("events.db-wal"), path("other.db-wal")).unwrap();
    let store = SqliteStore::open(path("copy.db")).unwrap();
    let error = store.backup(&path("other.db")).unwrap_err().to_string();
    assert!(error.contains("its write-ahead log"), "{error}");
}

#[test]
fn a_copy_is_refused_whatever_files_were_removed_before() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = store_and_copy(directory.path());
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(path(&format!("events.db{suffix}")));
    }
    let error = restore(&path("copy.db"), &path("events.db")).unwrap_err().to_string();
    assert!(error.contains("copy.db was not closed") && error.contains("--accept-copied-files"), "{error}");
    // Through a link as well, and the log is found behind it.
    std::os::unix::fs::symlink(path("copy.db"), path("latest.db")).unwrap();
    let error = restore(&path("latest.db"), &path("events.db")).unwrap_err().to_string();
    assert!(error.contains("--accept-copied-files"), "{error}");
}
