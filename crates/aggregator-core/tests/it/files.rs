//! The store's files while it is open, and what an opening that fails leaves behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Outcome, Query, SqliteOptions, SqliteStore, StoreError, Topic,
};
use rusqlite::Connection;
use tempfile::TempDir;

fn event(id: &str) -> Event {
    Event::new("t", id).unwrap()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn refusal(path: &Path) -> StoreError {
    SqliteStore::open(path).err().unwrap_or_else(|| panic!("{} was opened", path.display()))
}

/// What lies in the directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_empty_file_is_none_of_ours_and_not_a_corrupt_store() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    fs::write(&path, "").unwrap();
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("is empty, and so none of our files"), "{error}");
    assert_eq!(names(directory.path()), ["a.db"]);
}

#[test]
fn an_opening_that_fails_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notes.txt");
    fs::write(&path, "dear diary").unwrap();
    refusal(&path);
    assert_eq!(names(directory.path()), ["notes.txt"]);
    assert!(SqliteStore::verify_file(&path, &SqliteOptions::default()).is_err());
    assert_eq!(names(directory.path()), ["notes.txt"]);

    // Directories are made before it turns out that the name is too long.
    let long = directory.path().join("deep/down").join("x".repeat(300));
    refusal(&long);
    assert_eq!(names(directory.path()), ["notes.txt"]);
}

#[test]
fn where_there_is_no_store_to_look_into_nothing_is_made() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/nope.db");
    for error in [
        SqliteStore::verify_file(&path, &SqliteOptions::default()).err(),
        SqliteStore::rebuild_index(&path, SqliteOptions::default()).err(),
    ] {
        let error = error.expect("there is nothing");
        assert!(
            matches!(error, StoreError::Invalid(_)) && error.to_string().contains("does not exist"),
            "{error}"
        );
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

#[test]
fn a_link_that_leads_nowhere_is_refused_and_stays() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let error = refusal(&path).to_string();
    assert!(error.contains("cannot be used: Too many levels of symbolic links"), "{error}");
    assert_eq!(fs::read_link(&path).unwrap(), path);
}

#[test]
fn verify_finds_a_page_that_belongs_to_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    drop(SqliteStore::open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let pages = u32::from_be_bytes(bytes[28..32].try_into().unwrap());
    bytes[28..32].copy_from_slice(&(pages + 1).to_be_bytes());
    bytes.resize(bytes.len() + 8192, 0);
    fs::write(&path, bytes).unwrap();
    let report = SqliteStore::verify_file(&path, &SqliteOptions::default()).unwrap();
    assert!(report.faults.iter().any(|fault| fault.contains("never used")), "{:?}", report.faults);
}

#[test]
fn its_bytes_are_those_of_the_file_and_of_its_log() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("2")).unwrap();
    let log = fs::metadata(beside(&path, "-wal")).unwrap().len();
    assert!(log > 0);
    assert_eq!(store.stats().unwrap().bytes, fs::metadata(&path).unwrap().len() + log);
}

#[test]
fn a_damaged_file_is_not_taken_for_a_disk_without_room() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    drop(SqliteStore::open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    // The size of a page.
    bytes[16..18].fill(0);
    fs::write(&path, bytes).unwrap();
    let warned = Arc::new(AtomicBool::new(false));
    let hear = Arc::clone(&warned);
    let on_warning = Arc::new(move |warning: &str| {
        // The file system may be one to warn of.
        hear.fetch_or(warning.contains("room"), Ordering::SeqCst);
    });
    let options = SqliteOptions { on_warning, ..SqliteOptions::default() };
    let error = SqliteStore::open_with(&path, options).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(!warned.load(Ordering::SeqCst));
}

#[test]
fn a_second_opening_that_is_refused_leaves_the_lock_of_the_first() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    refusal(&path);
    refusal(&path);
    store.append_one(&event("1")).unwrap();
    assert!(beside(&path, "-lock").exists());
}

#[test]
fn new_files_and_directories_are_for_their_owner_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/down/events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("1")).unwrap();
    let copy = directory.path().join("copy.db");
    store.backup(&copy).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let file = beside(&path, suffix);
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(&copy), 0o600);
    for made in ["deep", "deep/down"] {
        assert_eq!(mode(&directory.path().join(made)), 0o700, "{made}");
    }
}

/// An event is there already, so that the file is marked and all files are in use.
fn open_store() -> (TempDir, PathBuf, SqliteStore) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("data/events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event("1")).unwrap();
    (directory, path, store)
}

type Mishap = fn(&Path);

/// What can be done to the files of an open store, and which file is named then.
const MISHAPS: [(&str, Mishap); 8] = [
    ("events.db", |path| fs::remove_file(path).unwrap()),
    ("events.db", |path| fs::rename(path, beside(path, ".old")).unwrap()),
    ("events.db", |path| {
        fs::copy(path, beside(path, ".new")).unwrap();
        fs::rename(beside(path, ".new"), path).unwrap();
    }),
    ("events.db", |path| {
        let data = path.parent().unwrap();
        fs::rename(data, data.with_file_name("elsewhere")).unwrap();
    }),
    ("events.db", |path| {
        for suffix in ["", "-wal", "-shm", "-lock"] {
            fs::remove_file(beside(path, suffix)).unwrap();
        }
        drop(SqliteStore::open(path).unwrap());
    }),
    ("events.db-wal", |path| fs::remove_file(beside(path, "-wal")).unwrap()),
    ("events.db-wal", |path| {
        let wal = beside(path, "-wal");
        fs::copy(&wal, beside(path, ".new")).unwrap();
        fs::rename(beside(path, ".new"), wal).unwrap();
    }),
    ("events.db-lock", |path| fs::remove_file(beside(path, "-lock")).unwrap()),
];

#[test]
fn nothing_is_acknowledged_once_a_file_is_gone_from_its_name_or_replaced() {
    for (number, (file, mishap)) in MISHAPS.into_iter().enumerate() {
        let (_directory, path, store) = open_store();
        mishap(&path);
        for id in ["2", "3"] {
            let error = store.append_one(&event(id)).unwrap_err();
            assert!(matches!(error, StoreError::Poisoned { .. }), "{number}: {error}");
            assert!(error.to_string().contains(file), "{number}: {error}");
        }
        let error = store.purge(&Topic::new("t").unwrap(), 1).unwrap_err();
        assert!(error.is_fatal(), "{number}: {error}");
    }
}

#[test]
fn a_look_at_its_health_finds_it_without_an_append() {
    for (number, (file, mishap)) in MISHAPS.into_iter().enumerate() {
        let (_directory, path, store) = open_store();
        store.check_health().unwrap();
        mishap(&path);
        let error = store.check_health().unwrap_err();
        assert!(error.is_fatal() && error.to_string().contains(file), "{number}: {error}");
        let error = store.append_one(&event("2")).unwrap_err();
        assert!(error.is_fatal() && error.to_string().contains(file), "{number}: {error}");
    }
}

#[test]
fn closing_a_store_whose_files_were_replaced_touches_nothing_of_the_others() {
    let (_directory, path, store) = open_store();
    for suffix in ["", "-wal", "-shm", "-lock"] {
        fs::remove_file(beside(&path, suffix)).unwrap();
    }
    let other = SqliteStore::open(&path).unwrap();
    other.append_one(&event("other")).unwrap();
    drop(store);
    other.check_health().unwrap();
    other.append_one(&event("another")).unwrap();
}

/// A reader opens the file by its name, too.
#[test]
fn a_replaced_file_is_not_read_under_the_name_of_the_old_one() {
    let (_directory, path, store) = open_store();
    for suffix in ["", "-wal", "-shm", "-lock"] {
        fs::remove_file(beside(&path, suffix)).unwrap();
    }
    drop(SqliteStore::open(&path).unwrap());
    let error = store.read(&Query::topic(Topic::new("t").unwrap())).unwrap_err();
    assert!(error.is_fatal() && error.to_string().contains("events.db"), "{error}");
}

#[test]
fn the_reason_names_the_place_from_which_everything_can_be_rescued() {
    let (directory, path, store) = open_store();
    store.append_one(&event("2")).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(beside(&path, "-wal")).unwrap();
    let reason = store.check_health().unwrap_err().to_string();
    let places: Vec<&str> = reason.split([' ', ',']).filter(|word| word.starts_with("/proc/")).collect();
    let rescued = directory.path().join("rescued.db");
    fs::copy(places[0], &rescued).unwrap();
    fs::copy(places[1], beside(&rescued, "-wal")).unwrap();
    drop(store);
    let accept = SqliteOptions { accept_copied_files: true, ..SqliteOptions::default() };
    assert_eq!(SqliteStore::verify_file(&rescued, &accept).unwrap().faults, [""; 0]);
    let rescued = SqliteStore::open(&rescued).unwrap();
    for id in ["1", "2"] {
        assert_eq!(rescued.append_one(&event(id)).unwrap().outcome, Outcome::Duplicate, "{reason}");
    }
}

#[test]
fn another_program_that_opens_and_closes_the_file_is_no_reason_to_stop() {
    let (_directory, path, store) = open_store();
    for id in ["2", "3"] {
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("SELECT count(*) FROM events").unwrap();
        drop(reader);
        store.append_one(&event(id)).unwrap();
        store.check_health().unwrap();
    }
}
