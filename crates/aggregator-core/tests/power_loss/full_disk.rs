//! The disk is full: for a while, at a start, for shared memory alone, for copies of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aggregator_core::{DedupStore, DedupStoreExt, Event, SqliteOptions, SqliteStore, StoreError};
use sqlite_power_loss::{Fault, FileKind};

use crate::faults::{CHECKPOINT_BYTES, append, append_until_failure, batches, reopen_and_check};
use crate::lab::Lab;
use crate::ledger::Ledger;
use crate::workload::in_a_batch;

#[test]
fn a_full_disk_loses_nothing_and_appends_go_on_when_there_is_room_again() {
    let lab = Lab::new("full-disk");
    let (_directory, path) = lab.empty_store();
    let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
    let mut ledger = Ledger::default();
    for batch in batches(8) {
        lab.disk.set_full(true);
        let error = append(&store, &batch).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }) && error.is_retryable(), "{error:?}");
        ledger.check(&store).unwrap();
        lab.disk.set_full(false);
        ledger.note(&batch, &append(&store, &batch).unwrap()).unwrap();
        ledger.check(&store).unwrap();
    }
    drop(store);

    // Nor does a start on a full disk lose what has to be copied out of the log.
    let store = lab.open(&path, 64 << 20).unwrap();
    // More than the file has free pages for.
    let payload = format!("\"{}\"", "x".repeat(400_000));
    let more = [Event::new("stock", "one more").unwrap().with_payload(&payload).unwrap()];
    ledger.note(&more, &append(&store, &more).unwrap()).unwrap();
    lab.disk.kill_at(1, 1);
    drop(store);
    lab.disk.restore_power();
    for cut in [false, true] {
        lab.disk.set_full(true);
        let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
        ledger.check(&store).unwrap();
        let another = [Event::new("stock", format!("with cut {cut}")).unwrap()];
        let error = append(&store, &another).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
        ledger.doubt(&another);
        lab.disk.set_full(false);
        if cut {
            lab.disk.cut(1);
        } else {
            ledger.note(&another, &append(&store, &another).unwrap()).unwrap();
            lab.disk.kill_at(1, 1);
        }
        drop(store);
        lab.disk.restore_power();
    }
    reopen_and_check(&lab, &path, &ledger, "after all");
}

/// The number of a topic whose creation failed goes to the next one that is created. Whoever looks ahead in between must
/// not have heard of it: two topics under one number would be one.
#[test]
fn a_topic_that_a_full_disk_kept_from_being_made_is_not_known_to_who_looks_ahead() {
    let lab = Lab::new("failed-creation");
    let (_directory, path) = lab.empty_store();
    let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
    let of = |topics: &[&str]| -> Vec<Event> {
        let of_topic = |topic| (0..20).map(move |n| Event::new(topic, n.to_string()).unwrap());
        topics.iter().flat_map(|&topic| of_topic(topic)).collect()
    };
    let looked_at = |events: &[Event]| {
        let mut batch = in_a_batch(events);
        store.prepare(&mut batch);
        batch
    };
    let (first, second, both) = (of(&["first"]), of(&["second"]), of(&["first", "second"]));
    let before = looked_at(&first);
    lab.disk.set_full(true);
    let error = append(&store, &first).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    lab.disk.set_full(false);
    let between = looked_at(&first);

    let mut ledger = Ledger::default();
    ledger.note(&second, &append(&store, &second).unwrap()).unwrap();
    let after = looked_at(&both);
    for (events, batch) in [(&first, between), (&both, after), (&first, before)] {
        let receipts = store.append_all(&batch.iter().collect::<Vec<_>>()).unwrap();
        ledger.note(events, &receipts).unwrap();
    }
    ledger.note(&both, &append(&store, &both).unwrap()).unwrap();
    ledger.check(&store).unwrap();
}

/// What was copied, and what was not, is lost or kept by a power loss as it comes.
#[test]
fn a_power_loss_after_a_start_on_a_full_disk_loses_nothing() {
    let lab = Lab::new("full-disk-and-cuts");
    let batches = batches(11);
    for cut in 1..=60 {
        let when = format!("a cut at operation {cut}");
        let (_directory, path) = lab.empty_store();
        let mut ledger = Ledger::default();
        let store = lab.open(&path, 64 << 20).unwrap();
        assert!(append_until_failure(&store, &batches[..4], &mut ledger).is_none());
        lab.disk.kill_at(1, cut);
        drop(store);
        lab.disk.restore_power();
        lab.disk.cut_at(cut, cut);
        lab.disk.set_full(true);
        let opened = lab.open(&path, CHECKPOINT_BYTES);
        lab.disk.set_full(false);
        if let Ok(store) = opened {
            let end = append_until_failure(&store, &batches[4..], &mut ledger);
            assert!(end.is_none() || lab.disk.is_off(), "{when}: {end:?}");
        }
        if !lab.disk.is_off() {
            lab.disk.cut(cut);
        }
        lab.disk.restore_power();
        reopen_and_check(&lab, &path, &ledger, &when);
    }
}

/// The log is longer than what the shared memory that is there can tell of.
#[test]
fn shared_memory_that_cannot_grow_is_no_space_and_appends_go_on_when_it_can() {
    let lab = Lab::new("full-shared-memory");
    let (_directory, path) = lab.empty_store();
    let store = lab.open(&path, u32::MAX).unwrap();
    let mut ledger = Ledger::default();
    let payload = format!("\"{}\"", "x".repeat(1 << 20));
    let event = |n: u32| [Event::new("stock", n.to_string()).unwrap().with_payload(&payload).unwrap()];
    lab.disk.set_shared_memory_full(true);
    let failed = (0..100).find_map(|n| match append(&store, &event(n)) {
        Ok(receipts) => {
            ledger.note(&event(n), &receipts).unwrap();
            None
        }
        Err(error) => Some((n, error)),
    });
    let (n, error) = failed.expect("100 MiB are more than the shared memory knows of");
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    ledger.doubt(&event(n));
    ledger.check(&store).unwrap();
    let error = append(&store, &event(n)).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    lab.disk.set_shared_memory_full(false);
    ledger.note(&event(n), &append(&store, &event(n)).unwrap()).unwrap();
    ledger.check(&store).unwrap();
    lab.disk.cut(1);
    drop(store);
    lab.disk.restore_power();
    reopen_and_check(&lab, &path, &ledger, "after a cut");
}

/// Without it not even a reader gets to the file.
#[test]
fn a_start_without_room_for_shared_memory_serves_and_takes_events_when_there_is_room() {
    let lab = Lab::new("no-shared-memory");
    let (_directory, path) = lab.empty_store();
    let mut ledger = Ledger::default();
    // Small ones, as appends are beside the index that is in memory: what a start has to read of them fits there.
    let batches = batches(12).concat();
    for (n, batch) in batches.chunks(2).enumerate() {
        lab.disk.set_full(true);
        let store = lab.open(&path, CHECKPOINT_BYTES).unwrap();
        let error = append(&store, batch).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
        ledger.check(&store).unwrap();
        lab.disk.set_full(false);
        ledger.note(batch, &append(&store, batch).unwrap()).unwrap();
        ledger.check(&store).unwrap();
        if n % 2 == 0 {
            lab.disk.cut(n as u64);
        }
        drop(store);
        lab.disk.restore_power();
    }
    reopen_and_check(&lab, &path, &ledger, "in the end");
}

#[test]
fn a_log_that_cannot_be_copied_is_told_of_once() {
    let lab = Lab::new("no-copies");
    let (_directory, path) = lab.empty_store();
    let warnings = Arc::<Mutex<Vec<String>>>::default();
    let hear = Arc::clone(&warnings);
    let options = SqliteOptions {
        on_warning: Arc::new(move |warning| hear.lock().unwrap().push(warning.to_owned())),
        ..lab.options(CHECKPOINT_BYTES)
    };
    let store = SqliteStore::open_with(&path, options).unwrap();
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let mut n = 0;
    let mut append_some = || {
        for _ in 0..10 {
            n += 1;
            let event = Event::new("stock", n.to_string()).unwrap().with_payload(&payload).unwrap();
            append(&store, &[event]).unwrap();
        }
    };
    // The first one marks the file, and so writes to it.
    append_some();
    assert_eq!(warnings.lock().unwrap().len(), 0, "{warnings:?}");
    // Every write to the file, and none to the log.
    (1..=1_000).for_each(|nth| lab.disk.fail_nth(nth, FileKind::Database, Fault::ShortWrite));
    append_some();
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
    assert!(warnings.lock().unwrap()[0].contains("cannot be copied into the file"), "{warnings:?}");
    lab.disk.clear_faults();
    append_some();
    assert_eq!(warnings.lock().unwrap().len(), 1, "{warnings:?}");
    (1..=1_000).for_each(|nth| lab.disk.fail_nth(nth, FileKind::Database, Fault::ShortWrite));
    append_some();
    assert_eq!(warnings.lock().unwrap().len(), 2, "{warnings:?}");
    lab.disk.clear_faults();
}

/// Runs are merged before an append where there are too many of them, and that checks the log, too.
#[test]
fn appends_go_on_beside_crowded_runs_while_the_log_cannot_be_copied() {
    let lab = Lab::new("no-copies-and-crowded");
    let (_directory, path) = lab.empty_store();
    let is_told = Arc::<AtomicBool>::default();
    let tell = Arc::clone(&is_told);
    let options = SqliteOptions {
        on_warning: Arc::new(move |_| tell.store(true, Ordering::Relaxed)),
        ..lab.options(32 << 10)
    };
    let store = SqliteStore::open_with(&path, options).unwrap();
    let mut ledger = Ledger::default();
    let mut n = 0;
    let mut append_some = || {
        n += 1;
        let events: Vec<_> = (0..40).map(|m| Event::new("stock", format!("{n}-{m}")).unwrap()).collect();
        ledger.note(&events, &append(&store, &events).unwrap()).unwrap();
    };
    // The first one marks the file, and so writes to it.
    append_some();
    (1..=1_000).for_each(|nth| lab.disk.fail_nth(nth, FileKind::Database, Fault::ShortWrite));
    for _ in 0..40 {
        append_some();
    }
    assert!(is_told.load(Ordering::Relaxed), "everything was copied");
    lab.disk.clear_faults();
    append_some();
    ledger.check(&store).unwrap();
}
