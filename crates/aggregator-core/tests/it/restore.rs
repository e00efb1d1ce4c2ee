//! Copies beside appends, and stores that are made of copies.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aggregator_core::SqliteOptions;
use aggregator_core::{
    BackupProgress, DedupStore, DedupStoreExt, Event, Outcome, Query, RecordOutcome, RecordWrite,
    SqliteStore, StoreError, StoreId, Topic,
};
use tempfile::TempDir;

/// The log is copied back often, so that it starts again many times while a copy is made.
pub(crate) fn options() -> SqliteOptions {
    SqliteOptions { checkpoint_bytes: 256 << 10, ..SqliteOptions::default() }
}

pub(crate) fn go_on(_: BackupProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn restore(from: &Path, to: &Path) -> Result<StoreId, StoreError> {
    SqliteStore::restore(from, to, &SqliteOptions::default(), &mut go_on)
}

pub(crate) fn topic() -> Topic {
    Topic::new("t").unwrap()
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Appends batches of events, numbered from 1, and counts what was acknowledged.
pub(crate) struct Load {
    acknowledged: AtomicU64,
    ended: AtomicBool,
    longest_log: AtomicU64,
}

impl Load {
    const BATCH: u64 = 50;

    /// Runs `work` beside the appends, once there is something to copy.
    pub(crate) fn beside<T>(store: &SqliteStore, work: impl FnOnce(&Self) -> T) -> T {
        let load = Self {
            acknowledged: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            longest_log: AtomicU64::new(0),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| load.run(store));
            while load.acknowledged() < 20 * Self::BATCH {
                std::thread::yield_now();
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&load)));
            load.ended.store(true, Ordering::SeqCst);
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn run(&self, store: &SqliteStore) {
        let payload = format!("[\"{}\"]", "x".repeat(700));
        while !self.ended.load(Ordering::SeqCst) {
            let first = self.acknowledged() + 1;
            let event = |n: u64| Event::new("t", n.to_string()).unwrap().with_payload(&payload).unwrap();
            let events: Vec<_> = (first..first + Self::BATCH).map(event).collect();
            store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
            self.acknowledged.fetch_add(Self::BATCH, Ordering::SeqCst);
            let value = self.acknowledged().to_string();
            let records = store.records().unwrap();
            let write = match records.get("load", "last").unwrap() {
                None => RecordWrite::create("load", "last", value),
                Some(record) => RecordWrite::update(&record, value),
            };
            let written = records.write(&[write]).unwrap();
            assert!(matches!(written, RecordOutcome::Written(_)), "nobody else writes it");
            let log = store.gauges().unwrap().log_bytes.unwrap();
            self.longest_log.fetch_max(log, Ordering::SeqCst);
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// That it holds the first events, in order, and at least `least`; and is sound.
fn assert_holds(store: &SqliteStore, least: u64) {
    let report = store.verify().unwrap();
    assert_eq!(report.faults, [""; 0]);
    let last = store.stats().unwrap().stored;
    assert!(last >= least, "{last} of {least} that were acknowledged before the copy began");
    let pages = store.pages(Query { limit: 1_000, ..Query::topic(topic()) });
    let read = pages.flat_map(|page| page.unwrap().events).map(|event| event.event_id.to_string());
    assert!(read.eq((1..=last).map(|n| n.to_string())));
    // The record is written after the append of which it tells.
    let record = store.records().unwrap().get("load", "last").unwrap().unwrap();
    let told: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
    assert!(told == last || told + Load::BATCH == last, "{told} {last}");
}

#[test]
fn a_copy_beside_appends_is_as_of_one_commit_and_the_log_stays_short() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("events.db"), options()).unwrap();
    Load::beside(&store, |load| {
        for n in 0..4 {
            let before = load.acknowledged();
            let copy = directory.path().join(format!("copy-{n}.db"));
            store.backup(&copy).unwrap();
            assert_holds(&SqliteStore::open(&copy).unwrap(), before);
        }
        // Checkpoints may be late, and the log is a part of what was appended.
        let longest = load.longest_log.load(Ordering::SeqCst);
        assert!(longest < 32 * u64::from(options().checkpoint_bytes), "the log had {longest} bytes");
    });
}

/// However slow the copy is: no read of it keeps the log from starting again.
#[test]
fn a_copy_that_waits_holds_neither_the_log_nor_the_appends() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("events.db"), options()).unwrap();
    Load::beside(&store, |load| {
        let mut steps = 0;
        let wait_for_the_log = |_| {
            steps += 1;
            if steps == 1 {
                let begun = load.acknowledged();
                // Many times what the log may hold.
                while load.acknowledged() < begun + 16_000 {
                    std::thread::yield_now();
                }
            }
            ControlFlow::Continue(())
        };
        let before = load.acknowledged();
        let copy = directory.path().join("copy.db");
        store.maintain().unwrap().backup(&copy, &mut { wait_for_the_log }).unwrap();
        assert_holds(&SqliteStore::open(&copy).unwrap(), before + 16_000);
        let longest = load.longest_log.load(Ordering::SeqCst);
        assert!(longest < 32 * u64::from(options().checkpoint_bytes), "the log had {longest} bytes");
    });
}

#[test]
fn a_copy_that_is_given_up_leaves_nothing_and_the_next_one_removes_what_a_crash_left() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    store.append_one(&Event::new("t", "1").unwrap()).unwrap();
    let copies = directory.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let copy = copies.join("copy.db");
    for give_up_at in [0, 1, 2] {
        let mut told = Vec::new();
        let error = store.maintain().unwrap().backup(&copy, &mut |progress| {
            told.push(progress);
            if told.len() > give_up_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match error {
            Err(StoreError::Unavailable { reason, .. }) => assert!(reason.contains("given up"), "{reason}"),
            // There was nothing more to tell.
            done => {
                assert!(done.is_ok() && told.last() == Some(&BackupProgress::Checking), "{done:?}: {told:?}");
            }
        }
        if !copy.exists() {
            assert_eq!(names(&copies), [""; 0]);
        }
        let _ = fs::remove_file(&copy);
    }
    // As a process that was killed leaves it.
    let dead = copies.join(format!(".copy.db.{}.copy", ulid::Ulid::generate()));
    let living = copies.join(format!(".copy.db.{}.copy", ulid::Ulid::generate()));
    let others = copies.join(".other.db.01ARZ3NDEKTSV4RRFFQ69G5FAV.copy");
    for draft in [&dead, &living, &others] {
        fs::write(draft, "half").unwrap();
        fs::write(format!("{}-wal", draft.display()), "half").unwrap();
    }
    let held = fs::File::open(&living).unwrap();
    held.try_lock().unwrap();
    store.backup(&copy).unwrap();
    assert!(!dead.exists() && living.exists() && others.exists(), "{:?}", names(&copies));
    assert_eq!(names(&copies).len(), 5, "{:?}", names(&copies));
}

#[test]
fn one_copy_is_made_at_a_time() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    store.append_one(&Event::new("t", "1").unwrap()).unwrap();
    let mut second = None;
    let first = directory.path().join("first.db");
    let done = store.maintain().unwrap().backup(&first, &mut |_| {
        second.get_or_insert_with(|| store.backup(&directory.path().join("second.db")));
        ControlFlow::Continue(())
    });
    done.unwrap();
    let refused = second.unwrap().unwrap_err().to_string();
    assert!(refused.contains("a copy of the store is being made"), "{refused}");
    store.backup(&directory.path().join("second.db")).unwrap();
}

#[test]
fn a_restored_store_goes_on_under_an_id_of_its_own() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = SqliteStore::open(path("events.db")).unwrap();
    let append = |store: &SqliteStore, id: &str| store.append_one(&Event::new("t", id).unwrap()).unwrap();
    append(&store, "1");
    let cursor = store.read(&Query::topic(topic())).unwrap().next;
    store.backup(&path("copy.db")).unwrap();
    append(&store, "2");
    let late = store.read(&Query::topic(topic())).unwrap().next;
    drop(store);
    let ids = ["new/deep/a.db", "b.db"].map(|name| restore(&path("copy.db"), &path(name)).unwrap());
    assert_ne!(ids[0], ids[1], "each goes its own way");
    for (name, id) in [("new/deep/a.db", ids[0]), ("b.db", ids[1])] {
        let store = SqliteStore::open(path(name)).unwrap();
        assert_eq!(store.info().id, id);
        assert_eq!(store.info().ancestors.len(), 2);
        append(&store, "3");
        append(&store, "4");
        let page = store.read(&Query { after: Some(cursor.clone()), ..Query::topic(topic()) }).unwrap();
        assert!(page.events.iter().map(|event| event.seq).eq([2, 3]));
        assert!(store.read(&Query { after: Some(late.clone()), ..Query::topic(topic()) }).is_err());
        assert!(store.verify().unwrap().faults.is_empty());
    }
    let error = restore(&path("copy.db"), &path("b.db")).unwrap_err().to_string();
    assert!(error.contains("b.db exists: name a new file"), "{error}");
    let _open = SqliteStore::open(path("b.db")).unwrap();
    let error = restore(&path("b.db"), &path("c.db")).unwrap_err().to_string();
    assert!(error.contains("is open in another process"), "{error}");
    assert!(!names(directory.path()).iter().any(|name| name.ends_with(".copy")));
}

#[test]
fn a_copied_file_is_adopted_and_cursors_from_after_the_copy_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = SqliteStore::open(path("events.db")).unwrap();
    store.append_one(&Event::new("t", "1").unwrap()).unwrap();
    let id = store.info().id;
    drop(store);
    fs::copy(path("events.db"), path("copy.db")).unwrap();
    let adopted = SqliteStore::adopt(path("copy.db"), &SqliteOptions::default()).unwrap();
    let store = SqliteStore::open(path("copy.db")).unwrap();
    assert_eq!(store.info().id, adopted);
    let ancestors = &store.info().ancestors;
    assert_eq!((ancestors[0].id, ancestors[0].until_offset), (id, 1));
    let error = SqliteStore::adopt(path("copy.db"), &SqliteOptions::default()).unwrap_err().to_string();
    assert!(error.contains("is open in another process"), "{error}");
    assert!(SqliteStore::adopt(path("none.db"), &SqliteOptions::default()).is_err());
}

/// `cp` of the files of a store in use: in either order, and without the log. Some of these copies look whole and lack a
/// part, so that none is taken.
/// Nothing was written meanwhile, and whoever has copied it says so.
#[test]
fn a_store_that_was_purged_is_compacted_and_is_the_same_store() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    let payload = format!("[\"{}\"]", "x".repeat(2_000));
    let event = |n: u64| Event::new("t", n.to_string()).unwrap().with_payload(&payload).unwrap();
    let events: Vec<_> = (1..=1_000).map(event).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    let cursor = store.read(&Query { limit: 950, ..Query::topic(topic()) }).unwrap().next;
    store.purge(&topic(), 900).unwrap();
    let id = store.info().id;
    let error = SqliteStore::compact(&path, &SqliteOptions::default()).unwrap_err().to_string();
    assert!(error.contains("is open in another process"), "{error}");
    drop(store);
    let (before, after) = SqliteStore::compact(&path, &SqliteOptions::default()).unwrap();
    assert!(before > 2_000_000 && after < before / 3, "{before} {after}");
    assert_eq!(fs::metadata(&path).unwrap().len(), after);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.info().id, id);
    for (n, outcome) in [(1, Outcome::Duplicate), (950, Outcome::Duplicate), (1_001, Outcome::Stored)] {
        assert_eq!(store.append_one(&event(n)).unwrap().outcome, outcome, "{n}");
    }
    let page = store.read(&Query { after: Some(cursor), ..Query::topic(topic()) }).unwrap();
    assert!(page.events.iter().map(|event| event.seq).eq(951..=1_001));
    assert!(store.verify().unwrap().faults.is_empty());
    assert!(!names(directory.path()).iter().any(|name| name.ends_with(".copy")));
}

/// As `cp monday.db data/events.db` after a crash leaves it.
/// What is restored is judged, and not the file that is made of it: that one may get the numbers of the old files.
#[test]
fn a_copy_is_given_up_also_while_it_is_checked() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let payload = format!("[\"{}\"]", "x".repeat(300));
    for batch in 0..20 {
        let event = |n: u64| Event::new("t", format!("{batch}-{n}")).unwrap().with_payload(&payload).unwrap();
        let events: Vec<_> = (0..1_000).map(event).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    }
    let copy = directory.path().join("copy.db");
    let given_up = store.maintain().unwrap().backup(&copy, &mut |progress| match progress {
        BackupProgress::Checking => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(given_up.unwrap_err().to_string().contains("given up"));
    assert!(!copy.exists());
    assert!(
        !names(directory.path()).iter().any(|name| name.contains(".copy")),
        "{:?}",
        names(directory.path())
    );
    store.backup(&copy).unwrap();
}
