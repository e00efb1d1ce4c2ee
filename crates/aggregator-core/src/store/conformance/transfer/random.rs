//! Random histories move, and are the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::collection;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{
    Backend, Case, CaseOptions, alone, assert_same, cases, copy, import, import_as, memory, purge_if_able,
    rows,
};
use crate::store::conformance::model::{self, operation};
use crate::{DedupStore, DedupStoreExt, Event, Times, Timestamp, Topic};

pub(in super::super) const CASES: &[Case] = cases![random_histories_move_whole];

const MAX_OPERATIONS: usize = 25;

fn random_histories_move_whole(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let able = Able { releases: store.amend().is_some(), forgets: store.forget().is_some() };
    let histories = collection::vec(operation::any(), 1..=MAX_OPERATIONS);
    // Where the history is made, where it is cut off while it moves, and in how large steps it does.
    let moves = (prop::sample::select(vec![1_u16, 4]), prop::sample::Index::arbitrary(), 1..=9_usize);
    let outcome = TestRunner::new(model::config(backend.model_runs() / 4)).run(
        &(histories, moves),
        |(history, moves)| {
            let (partitions, cut, step) = moves;
            let now = Arc::new(AtomicI64::new(0));
            let clock = Arc::clone(&now);
            let origin = memory(partitions)
                .with_clock(Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst))));
            for operation in &history {
                apply(&origin, &now, able, operation);
            }
            let (there, back) = (backend.open(CaseOptions::default()), memory(4));
            let all = rows(&origin);
            import(&*there, &all[..cut.index(all.len() + 1)]).unwrap();
            copy(&origin, &*there, step);
            copy(&*there, &back, step);
            assert_same(&origin, &*there);
            assert_same(&origin, &back);
            Ok(())
        },
    );
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// What the store can do that the rows move to. One that releases or forgets nothing does not take such rows.
#[derive(Clone, Copy)]
struct Able {
    releases: bool,
    forgets: bool,
}

fn apply(store: &dyn DedupStore, now: &AtomicI64, able: Able, operation: &operation::Operation) {
    match operation {
        operation::Operation::Append(drafts) => {
            let events: Vec<_> = drafts.iter().map(operation::Draft::event).collect();
            let views: Vec<_> = events.iter().map(Event::view).collect();
            store.append_all(&views).unwrap();
        }
        operation::Operation::Clock(micros) => now.store(*micros, Ordering::SeqCst),
        operation::Operation::Purge { topic, through_seq } => {
            purge_if_able(store, topic, *through_seq);
        }
        operation::Operation::Erase(names) => {
            store.erase(&names.iter().map(operation::Name::identity).collect::<Vec<_>>()).unwrap();
        }
        operation::Operation::Release(_) if !able.releases => {}
        operation::Operation::Release(names) => {
            store.release(&names.iter().map(operation::Name::identity).collect::<Vec<_>>()).unwrap();
        }
        operation::Operation::Forget { .. } if !able.forgets => {}
        operation::Operation::Forget { topic, before, most } => {
            // Identities that come alone have later times than events, and are to be forgotten as well.
            let before = if *most == 1 { i64::MAX } else { *before };
            let topic = Topic::new(*topic).unwrap();
            store.forget_identities(&topic, Timestamp::from_micros(before), *most).unwrap();
        }
        operation::Operation::Lookup(names) => {
            // Identities that come alone, some of which are known already.
            let alone: Vec<_> = names.iter().map(|name| alone(name.topic, name.event_id)).collect();
            import_as(store, &alone, Times::Keep).unwrap();
        }
        _ => {}
    }
}
