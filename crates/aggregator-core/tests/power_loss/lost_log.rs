//! The main file says that a log belongs to it: a power loss never makes it say so wrongly, and without the log nothing
//! that was acknowledged is missing in silence.

use std::fs;
use std::path::{Path, PathBuf};

use aggregator_core::{DedupStore, DedupStoreExt, Event, Outcome, SqliteStore, StoreError};

use crate::lab::Lab;
use crate::ledger::Ledger;
use crate::workload::{Workload, identity};

/// A checkpoint beside the second append.
const CHECKPOINT_BYTES: u32 = 32 << 10;

fn event(id: u32) -> Event {
    Event::new("t", id.to_string()).unwrap().with_payload(&format!("{:?}", "x".repeat(9_000))).unwrap()
}

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Lives of a store, each with a few appends and an orderly end; which events were acknowledged before the outage.
fn live(lab: &Lab, path: &Path) -> Vec<u32> {
    let mut acknowledged = Vec::new();
    for life in 0..3 {
        let Ok(store) = lab.open(path, CHECKPOINT_BYTES) else { break };
        for id in life * 10..life * 10 + 4 {
            if store.append_one(&event(id)).is_ok() {
                acknowledged.push(id);
            }
        }
    }
    acknowledged
}

fn check(store: &SqliteStore, acknowledged: &[u32], when: &str) {
    let ids: Vec<_> = acknowledged.iter().map(|&id| identity(&event(id))).collect();
    let seen = store.lookup(&ids).unwrap();
    assert!(seen.iter().all(Option::is_some), "{when}: of {acknowledged:?} there are {seen:?}");
}

#[test]
fn no_outage_while_a_file_is_marked_or_closed_keeps_it_from_being_opened() {
    let lab = Lab::new("mark");
    let seeds = if crate::cuts() > 1_000 { 40 } else { 2 };
    for cut in 1.. {
        let mut came = false;
        for seed in 0..seeds {
            let kill = (cut + seed) % 2 == 0;
            let when = format!("{} at operation {cut}, seed {seed}", if kill { "kill" } else { "cut" });
            let (_directory, path) = lab.empty_store();
            if kill {
                lab.disk.kill_at(cut, seed);
            } else {
                lab.disk.cut_at(cut, seed);
            }
            let acknowledged = live(&lab, &path);
            came |= lab.disk.is_off();
            // A life that only reads, and another outage before anything is appended.
            lab.disk.restore_power();
            lab.disk.cut_at(1 + cut % 7, seed);
            drop(lab.open(&path, CHECKPOINT_BYTES));
            if !lab.disk.is_off() {
                lab.disk.cut(seed);
            }
            lab.disk.restore_power();
            let store = lab.open(&path, CHECKPOINT_BYTES).unwrap_or_else(|error| panic!("{when}: {error}"));
            check(&store, &acknowledged, &when);
            let expected = if acknowledged.contains(&0) { Some(Outcome::Duplicate) } else { None };
            let outcome = store.append_one(&event(0)).unwrap().outcome;
            assert!(expected.is_none_or(|expected| expected == outcome), "{when}: {outcome:?}");
        }
        if !came {
            break;
        }
    }
}

/// Whatever is opened without its log has all that was acknowledged.
#[test]
fn a_store_whose_log_is_taken_away_after_a_power_loss_has_everything_or_is_refused() {
    let lab = Lab::new("log-taken-away");
    let cuts = (crate::cuts() / 3).max(40);
    let (mut refused, mut opened) = (0, 0);
    for at in 0..cuts {
        let workload = Workload::new(100 + at % 4);
        let (_directory, path) = lab.empty_store();
        let mut ledger = Ledger::default();
        // Spread over all of a workload; a cut that comes too late comes at its end.
        lab.disk.cut_at(1 + at * 400 / cuts, at);
        lab.live_until_outage(&path, &workload, &mut ledger);
        if !lab.disk.is_off() {
            lab.disk.cut(at);
        }
        lab.disk.restore_power();

        // The file itself is put back, and not a copy.
        let kept = wal(&path).with_extension("kept");
        let has_log = fs::rename(wal(&path), &kept).is_ok();
        if at % 2 == 1 {
            fs::write(wal(&path), "").unwrap();
        }
        let when = format!("seed {}, cut {at}", workload.seed);
        match lab.open(&path, workload.checkpoint_bytes) {
            Ok(store) => {
                ledger.check(&store).unwrap_or_else(|violation| panic!("{when}: {violation}"));
                opened += 1;
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Corrupt { .. }), "{when}: {error}");
                refused += 1;
                // With its log it is whole, for nothing was touched.
                assert!(has_log, "a power loss alone is no reason to refuse");
                fs::rename(&kept, wal(&path)).unwrap();
                lab.disk.settle();
                let store = lab.open(&path, workload.checkpoint_bytes);
                let store = store.unwrap_or_else(|error| panic!("{when}, with its log: {error}"));
                ledger.check(&store).unwrap_or_else(|violation| panic!("{when}, with its log: {violation}"));
            }
        }
        lab.disk.settle();
    }
    assert!(refused > cuts / 2 && opened > 0, "{refused} refused, {opened} opened");
}

#[test]
fn a_store_that_was_closed_starts_on_a_full_disk_and_takes_events_once_there_is_room() {
    let lab = Lab::new("full-at-start");
    let (_directory, path) = lab.empty_store();
    let acknowledged = live(&lab, &path);
    lab.disk.set_full(true);
    let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
    check(&store, &acknowledged, "on a full disk");
    for _ in 0..2 {
        let error = store.append_one(&event(99)).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        // No space passes, and the disk below the lab's has some.
        let health = store.check_health();
        assert!(matches!(health, Ok(()) | Err(StoreError::NoSpace { .. })), "{health:?}");
    }
    lab.disk.set_full(false);
    assert_eq!(store.append_one(&event(99)).unwrap().outcome, Outcome::Stored);
    lab.disk.cut(1);
    drop(store);
    lab.disk.restore_power();
    let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
    check(&store, &[acknowledged, vec![99]].concat(), "after all");
}
