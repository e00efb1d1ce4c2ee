//! Appends to several partitions in one commit.

use std::sync::{Arc, Mutex};

use super::{Backend, Case, CaseOptions, append_one, assert_sound, await_that, cases, event};
use crate::Outcome::{Duplicate, Stored};
use crate::{AttemptId, DedupStoreExt, Event, EventRef, StoreError};

pub(super) const CASES: &[Case] = cases![an_append_across_partitions_is_one_commit];

fn an_append_across_partitions_is_one_commit(backend: &dyn Backend) {
    let store = backend.open(CaseOptions { max_topics: 20, ..CaseOptions::default() });
    let topic = |n: usize| format!("topic-{}", n % 20);
    let batch: Vec<_> = (0..60).map(|n| event(&topic(n), &(n / 40).to_string())).collect();
    let views: Vec<_> = batch.iter().map(Event::view).collect();
    let across = |views: &[EventRef<'_>]| store.append_across(AttemptId::new(), views);
    let hears = store.watch().is_some();
    let announced = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&announced);
    let _listener =
        store.on_commit(Box::new(move |partition, offset| heard.lock().unwrap().push((partition, offset))));
    assert_eq!(across(&[]).unwrap(), []);
    let receipts = across(&views).unwrap();
    // 20 topics get their 0, repeat it, and get their 1.
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.outcome, receipt.seq)).collect();
    let expected = [(Stored, Some(1)), (Duplicate, Some(1)), (Stored, Some(2))];
    assert_eq!(told, (0..60).map(|n| expected[n / 20]).collect::<Vec<_>>());
    assert!(receipts.iter().all(|receipt| receipt.processed_at == receipts[0].processed_at));
    let mut ends: Vec<_> = store.partitions().iter().map(|partition| (partition, 0)).collect();
    (0..20).for_each(|n| ends[usize::from(store.partitions().of(&topic(n)).0)].1 += 2);
    ends.retain(|&(_, events)| hears && events > 0);
    await_that("each partition is announced", || announced.lock().unwrap().len() >= ends.len());
    announced.lock().unwrap().sort_unstable();
    assert_eq!(*announced.lock().unwrap(), ends, "each partition with its last offset");

    // One event too many fails all of them.
    let batch = [event(&topic(0), "2"), event("one-too-many", "1"), event(&topic(1), "2")];
    let views: Vec<_> = batch.iter().map(Event::view).collect();
    let error = across(&views).unwrap_err();
    let StoreError::Invalid(faults) = &error else { panic!("{error}") };
    assert_eq!(faults.iter().map(|fault| fault.index).collect::<Vec<_>>(), [Some(1)]);
    assert_eq!(append_one(&*store, &batch[0]).seq, Some(3), "nothing of it was stored");
    assert_eq!(store.stats().unwrap().stored, 41);
    assert_sound(&*store);
}
