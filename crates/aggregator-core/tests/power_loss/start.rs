//! What a start finds: a creation that was cut short, a torn first page, a file that ends early.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use aggregator_core::{DedupStore, DedupStoreExt, Event, Outcome, SqliteStore, StoreError};
use tempfile::TempDir;

use crate::lab::Lab;
use crate::workload::identity;

fn event() -> Event {
    Event::new("t", "1").unwrap()
}

#[test]
fn a_creation_cut_at_any_operation_is_made_good_by_the_next_start() {
    let lab = Lab::new("creation");
    for cut in 1.. {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        lab.disk.settle();
        lab.disk.cut_at(cut, cut);
        let created = lab.open(&path, 1 << 20);
        let came = lab.disk.is_off();
        assert!(came || created.is_ok(), "cut {cut}: {:?}", created.err());
        drop(created);
        lab.disk.restore_power();
        let store = lab.open(&path, 1 << 20).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        assert_eq!(store.append_one(&event()).unwrap().seq, Some(1), "cut {cut}");
        assert!(store.verify().unwrap().faults.is_empty(), "cut {cut}");
        if !came {
            break;
        }
    }
}

/// Each file gets a record of which part of the store it is, one after the other.
#[test]
fn a_creation_of_two_files_cut_at_any_operation_is_made_good_by_the_next_start() {
    let lab = Lab::new("creation-of-shards").of_shards(2);
    for cut in 1.. {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        lab.disk.settle();
        lab.disk.cut_at(cut, cut);
        let created = lab.open_whole(&path, 1 << 20);
        let came = lab.disk.is_off();
        assert!(came || created.is_ok(), "cut {cut}: {:?}", created.err());
        drop(created);
        lab.disk.restore_power();
        let store = lab.open_whole(&path, 1 << 20).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        let id = store.info().id;
        for topic in ["t0", "t1", "t2", "t3"] {
            assert_eq!(store.append_one(&Event::new(topic, "1").unwrap()).unwrap().seq, Some(1), "cut {cut}");
        }
        assert!(store.verify().unwrap().faults.is_empty(), "cut {cut}");
        drop(store);
        assert_eq!(lab.open_whole(&path, 1 << 20).unwrap().info().id, id, "cut {cut}");
        if !came {
            break;
        }
    }
}

/// Found by the experiment: the log has the page, and the start refused the file all the same.
#[test]
fn a_first_page_torn_by_a_checkpoint_is_read_from_the_log() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    store.append_one(&event()).unwrap();
    // The first page holds the file's length: what makes it grow writes the page.
    let large = Event::new("t", "2").unwrap().with_payload(&format!("\"{}\"", "x".repeat(100_000))).unwrap();
    store.append_one(&large).unwrap();
    // As a power loss leaves it: the log full, the file's first sector neither old nor new.
    let crashed = directory.path().join("crashed.db");
    fs::rename(directory.path().join("events.db-wal"), directory.path().join("crashed.db-wal")).unwrap();
    fs::rename(&path, &crashed).unwrap();
    drop(store);
    OpenOptions::new().write(true).open(&crashed).unwrap().write_all_at(&[0xA5; 512], 0).unwrap();

    let recovered = SqliteStore::open(&crashed).unwrap();
    assert_eq!(recovered.append_one(&event()).unwrap().outcome, Outcome::Duplicate);
    assert!(recovered.verify().unwrap().faults.is_empty());
}

#[test]
fn a_file_that_ends_early_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    drop(SqliteStore::open(&path).unwrap());
    let whole = fs::read(&path).unwrap();
    for pages in 1..whole.len() / 8192 {
        fs::write(&path, &whole[..pages * 8192]).unwrap();
        let refused = SqliteStore::open(&path).err();
        assert!(matches!(refused, Some(StoreError::Corrupt { .. })), "{pages} pages: {refused:?}");
    }
}

/// A process that dies between a commit's write and its sync leaves an event that can be read and lost.
#[test]
fn what_a_start_tells_its_readers_survives_a_power_loss_right_after() {
    let lab = Lab::new("told-after-a-kill");
    let ids = [identity(&event())];
    let mut told = 0;
    for kill in 1.. {
        let (_directory, path) = lab.empty_store();
        let store = lab.open(&path, 1 << 20).unwrap();
        lab.disk.kill_at(kill, kill);
        let acknowledged = store.append_one(&event()).is_ok();
        let came = lab.disk.is_off();
        lab.disk.kill_at(1, kill);
        drop(store);
        lab.disk.restore_power();

        let store = lab.open(&path, 1 << 20).unwrap();
        let seen = store.lookup(&ids).unwrap();
        assert!(seen[0].is_some() || !acknowledged, "kill at {kill}");
        told += u64::from(!acknowledged && seen[0].is_some());
        lab.disk.cut(kill);
        drop(store);
        lab.disk.restore_power();
        let store = lab.open(&path, 1 << 20).unwrap();
        assert_eq!(store.lookup(&ids).unwrap(), seen, "kill at {kill}");
        if !came {
            break;
        }
    }
    assert!(told > 0, "no kill came between a write and its sync");
}
