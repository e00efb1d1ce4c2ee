//! The disk fails without the power failing: syncs, full disks, writes and reads cut short.

use std::path::Path;

use aggregator_core::store::IndexOptions;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, EventRef, Import, Partition, Receipt, RecordWrite, SqliteOptions,
    SqliteStore, StoreError, Timestamp, Topic,
};
use sqlite_power_loss::{Fault, FileKind, Random};

use crate::lab::Lab;
use crate::ledger::Ledger;
use crate::workload::{IMPORTED, Row, Step, Workload};

/// Checkpoints after nearly every commit.
pub(crate) const CHECKPOINT_BYTES: u32 = 32 << 10;

pub(crate) fn batches(seed: u64) -> Vec<Vec<Event>> {
    let steps = Workload::new(seed).steps;
    let batches = steps.into_iter().filter_map(|step| match step {
        Step::Append(append) => Some(append.events),
        _ => None,
    });
    batches.collect()
}

pub(crate) fn append(store: &SqliteStore, batch: &[Event]) -> Result<Vec<Receipt>, StoreError> {
    store.append_all(&batch.iter().map(Event::view).collect::<Vec<EventRef<'_>>>())
}

fn write_record(store: &SqliteStore, name: &str) -> Result<(), StoreError> {
    store.records().unwrap().write(&[RecordWrite::create("lease", name, "1")]).map(drop)
}

/// Appends until one fails; which one, and how.
pub(crate) fn append_until_failure(
    store: &SqliteStore,
    batches: &[Vec<Event>],
    ledger: &mut Ledger,
) -> Option<(usize, StoreError)> {
    append_while(store, batches, ledger, |_| {})
}

/// As [`append_until_failure`], with a look at each append that was acknowledged.
fn append_while(
    store: &SqliteStore,
    batches: &[Vec<Event>],
    ledger: &mut Ledger,
    acknowledged: impl Fn(usize),
) -> Option<(usize, StoreError)> {
    for (at, batch) in batches.iter().enumerate() {
        match append(store, batch) {
            Ok(receipts) => {
                acknowledged(at);
                ledger.note(batch, &receipts).unwrap();
            }
            Err(error) => {
                ledger.doubt(batch);
                return Some((at, error));
            }
        }
    }
    None
}

pub(crate) fn reopen_and_check(lab: &Lab, path: &Path, ledger: &Ledger, when: &str) {
    let store = lab.open(path, CHECKPOINT_BYTES).unwrap_or_else(|error| panic!("{when}: {error}"));
    ledger.check(&store).unwrap_or_else(|violation| panic!("{when}: {violation}"));
}

/// Fails one sync after the other, at commits and at checkpoints; says how many failed an append.
fn fail_each_sync(lab: &Lab, on: FileKind, then: impl Fn(&Path, &Ledger, &str)) -> u64 {
    let batches = batches(7);
    let mut poisoned = 0;
    for nth in 1.. {
        let when = format!("sync {nth} of the {on:?} fails");
        let (_directory, path) = lab.empty_store();
        let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
        let mut ledger = Ledger::default();
        lab.disk.fail_nth(nth, on, Fault::SyncFails);
        let failure = append_while(&store, &batches, &mut ledger, |at| {
            assert!(lab.disk.has_faults(), "{when}, and append {at}, which it was for, is acknowledged");
        });
        if let Some((at, error)) = failure {
            assert!(matches!(error, StoreError::Poisoned { .. }), "{when}: {error:?}");
            poisoned += 1;
            let before = lab.disk.operations().mutating();
            for batch in &batches[at..] {
                let error = append(&store, batch).unwrap_err();
                assert!(matches!(error, StoreError::Poisoned { .. }), "{when}, and then: {error:?}");
            }
            let purged = store.purge(&Topic::new("stock").unwrap(), 1).map(drop);
            let imported = store.import(Partition(0), Import::rows(&[])).map(drop);
            let written = write_record(&store, "another");
            for error in [purged.unwrap_err(), imported.unwrap_err(), written.unwrap_err()] {
                assert!(matches!(error, StoreError::Poisoned { .. }), "{when}, and then: {error:?}");
            }
            assert_eq!(lab.disk.operations().mutating(), before, "{when}, and it writes on");
        }
        // As `abort` would, and not with a last checkpoint.
        lab.disk.kill_at(1, nth);
        drop(store);
        let came = !lab.disk.clear_faults();
        lab.disk.restore_power();
        then(&path, &ledger, &when);
        if !came {
            break;
        }
    }
    poisoned
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_opened_anew() {
    let lab = Lab::new("failed-syncs");
    for on in [FileKind::Log, FileKind::Database] {
        let poisoned = fail_each_sync(&lab, on, |path, ledger, when| {
            reopen_and_check(&lab, path, ledger, when);
            lab.disk.cut(1);
            lab.disk.restore_power();
            reopen_and_check(&lab, path, ledger, &format!("{when}, then the power is cut"));
        });
        assert!(poisoned > 5, "{poisoned} syncs of the {on:?} failed an append");
    }
}

/// The log is the only one that may have all of what was acknowledged: nobody copies it once more and deletes it.
#[test]
fn a_store_that_is_closed_after_a_failed_sync_leaves_its_files_as_they_are() {
    let lab = Lab::new("closed-after-failed-syncs");
    let batches = batches(7);
    for on in [FileKind::Log, FileKind::Database] {
        for nth in 2..8 {
            let when = format!("closed after sync {nth} of the {on:?} failed");
            let (_directory, path) = lab.empty_store();
            let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
            let mut ledger = Ledger::default();
            lab.disk.fail_nth(nth, on, Fault::SyncFails);
            let failure = append_until_failure(&store, &batches, &mut ledger);
            assert!(failure.is_some(), "{when}");
            let before = lab.disk.operations().mutating();
            drop(store);
            assert_eq!(lab.disk.operations().mutating(), before, "{when}");
            reopen_and_check(&lab, &path, &ledger, &when);
        }
    }
}

/// Whoever asks `store` for it: a sync that fails meanwhile fails it. `open` makes a store to ask on a fresh file.
fn assert_no_failed_sync_is_kept_quiet(
    lab: &Lab,
    what: &str,
    open: impl Fn(&Path) -> SqliteStore,
    ask: impl Fn(&SqliteStore) -> Result<(), StoreError>,
) {
    for on in [FileKind::Log, FileKind::Database] {
        let mut failed = 0;
        for nth in 1.. {
            let (_directory, path) = lab.empty_store();
            let store = open(&path);
            lab.disk.fail_nth(nth, on, Fault::SyncFails);
            let done = ask(&store);
            if lab.disk.clear_faults() {
                done.unwrap_or_else(|error| panic!("{what}: {error}"));
                break;
            }
            let error = done.expect_err(&format!("{what} was done, and sync {nth} of the {on:?} failed"));
            assert!(matches!(error, StoreError::Poisoned { .. }), "{what}: {error:?}");
            failed += 1;
        }
        assert!(failed > 0, "{what} syncs no {on:?}");
    }
}

#[test]
fn no_import_purge_merge_record_or_forgetting_is_done_whose_sync_failed() {
    let lab = Lab::new("failed-syncs-of-others");
    let open = |path: &Path| lab.open(path, 1 << 10).unwrap();
    let rows: Vec<_> = (1..=20).map(|seq| Row::new(seq, &mut Random::new(seq)).checked()).collect();
    assert_no_failed_sync_is_kept_quiet(&lab, "an import", open, |store| {
        store.import(Partition(0), Import::rows(&rows)).map(drop)
    });
    let filled = |path: &Path| {
        let store = open(path);
        store.import(Partition(0), Import::rows(&rows)).unwrap();
        store
    };
    assert_no_failed_sync_is_kept_quiet(&lab, "a purge", filled, |store| {
        store.purge(&Topic::new(IMPORTED).unwrap(), 15).map(drop)
    });

    let purged = |path: &Path| {
        let store = filled(path);
        store.purge(&Topic::new(IMPORTED).unwrap(), 15).unwrap();
        store
    };
    assert_no_failed_sync_is_kept_quiet(&lab, "a forgetting", purged, |store| {
        store
            .forget_identities(&Topic::new(IMPORTED).unwrap(), Timestamp::from_micros(i64::MAX), 10)
            .map(drop)
    });

    assert_no_failed_sync_is_kept_quiet(&lab, "a record", open, |store| write_record(store, "a"));

    // More runs than this layout wants: the next append merges some of them first, in transactions of their own.
    let crowded = |path: &Path| {
        let fan_out = |fan_out| {
            let options = lab.options(1 << 10);
            let index = IndexOptions { fan_out, ..options.index };
            SqliteStore::open_with(path, SqliteOptions { index, ..options }).unwrap()
        };
        let store = fan_out(16);
        for n in 0..5 * 15 {
            append(&store, &[Event::new("t", n.to_string()).unwrap()]).unwrap();
        }
        drop(store);
        fan_out(2)
    };
    assert_no_failed_sync_is_kept_quiet(&lab, "an append behind merges", crowded, |store| {
        append(store, &[Event::new("t", "the next").unwrap()]).map(drop)
    });
}

/// Here it may also be told too late, of the last copy, or of none.
#[test]
fn a_failed_sync_beside_appends_loses_nothing_that_was_acknowledged() {
    let lab = Lab::new("failed-syncs-out-of-step").out_of_step();
    let batches = batches(7);
    for on in [FileKind::Log, FileKind::Database] {
        let mut failed = 0;
        // Which syncs there are depends on how the threads come along: on a busy machine some rounds more are needed.
        for (done, nth) in (1..=60).cycle().take(600).enumerate() {
            if done >= 60 && failed > 5 {
                break;
            }
            let when = format!("sync {nth} of the {on:?} fails");
            let (_directory, path) = lab.empty_store();
            let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
            let mut ledger = Ledger::default();
            lab.disk.fail_nth(nth, on, Fault::SyncFails);
            if let Some((at, error)) = append_until_failure(&store, &batches, &mut ledger) {
                assert!(matches!(error, StoreError::Poisoned { .. }), "{when}: {error:?}");
                failed += 1;
                let error = append(&store, &batches[at]).unwrap_err();
                assert!(matches!(error, StoreError::Poisoned { .. }), "{when}, and then: {error:?}");
            }
            lab.disk.cut(nth);
            drop(store);
            lab.disk.clear_faults();
            lab.disk.restore_power();
            reopen_and_check(&lab, &path, &ledger, &when);
        }
        assert!(failed > 5, "{failed} syncs of the {on:?} failed an append");
    }
}

/// What a failed sync did not write can be read until the cache forgets it, so the next start finds a commit
/// in the log that is not on the disk.
#[test]
fn a_power_loss_while_a_failed_sync_is_recovered_from_loses_nothing() {
    let lab = Lab::new("failed-syncs-and-cuts");
    for on in [FileKind::Log, FileKind::Database] {
        for cut in (1..=30).step_by(if crate::cuts() > 1_000 { 1 } else { 7 }) {
            fail_each_sync(&lab, on, |path, ledger, when| {
                lab.disk.cut_at(cut, cut);
                let _ = lab.open(path, CHECKPOINT_BYTES);
                if !lab.disk.is_off() {
                    lab.disk.cut(cut);
                }
                lab.disk.restore_power();
                reopen_and_check(&lab, path, ledger, &format!("{when}, then the power at operation {cut}"));
            });
        }
    }
}

/// Each write in turn is cut short or fails, in commits and in checkpoints.
#[test]
fn a_write_that_fails_loses_nothing_whichever_it_is() {
    let lab = Lab::new("failed-writes");
    let batches = &batches(9)[..6];
    for (fault, on) in [
        (Fault::ShortWrite, FileKind::Log),
        (Fault::ShortWrite, FileKind::Database),
        (Fault::WriteFails, FileKind::Log),
        (Fault::WriteFails, FileKind::Database),
    ] {
        for nth in 1.. {
            let when = format!("{fault:?} at write {nth} of the {on:?}");
            let (_directory, path) = lab.empty_store();
            let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
            let mut ledger = Ledger::default();
            lab.disk.fail_nth(nth, on, fault);
            let failure = append_while(&store, batches, &mut ledger, |at| {
                let may_go_on = fault == Fault::ShortWrite && on == FileKind::Database;
                assert!(may_go_on || lab.disk.has_faults(), "{when}, and append {at} is acknowledged");
            });
            if let Some((at, error)) = failure {
                // A disk may have room again, but one that fails is not written to any more.
                let full = matches!(error, StoreError::NoSpace { .. }) && fault == Fault::ShortWrite;
                let failed = matches!(error, StoreError::Poisoned { .. }) && fault == Fault::WriteFails;
                assert!(full || failed, "{when}: {error:?}");
                if full {
                    let rest = append_until_failure(&store, &batches[at..], &mut ledger);
                    assert!(rest.is_none(), "{when}: {rest:?}");
                    ledger.check(&store).unwrap_or_else(|violation| panic!("{when}: {violation}"));
                }
            }
            lab.disk.cut(nth);
            drop(store);
            let came = !lab.disk.clear_faults();
            lab.disk.restore_power();
            reopen_and_check(&lab, &path, &ledger, &when);
            if !came {
                break;
            }
        }
    }
}

/// Each read in turn fails.
#[test]
fn a_read_that_fails_is_an_error_and_never_an_answer() {
    let lab = Lab::new("failed-reads");
    let batches = &batches(10)[..6];
    for on in [FileKind::Database, FileKind::Log] {
        for nth in 1.. {
            let when = format!("read {nth} of the {on:?} fails");
            let (_directory, path) = lab.empty_store();
            let mut ledger = Ledger::default();
            let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
            assert!(append_until_failure(&store, batches, &mut ledger).is_none());
            drop(store);
            lab.disk.fail_nth(nth, on, Fault::ReadFails);
            // Everything is a duplicate, or nobody knows; it is never new.
            if let Ok(store) = lab.open(&path, CHECKPOINT_BYTES) {
                let _ = append_until_failure(&store, batches, &mut ledger);
            }
            let came = !lab.disk.clear_faults();
            reopen_and_check(&lab, &path, &ledger, &when);
            if !came {
                break;
            }
        }
    }
}
