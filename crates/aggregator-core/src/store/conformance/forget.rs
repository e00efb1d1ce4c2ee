//! Forgetting: after purged payloads, identities go as well, oldest first.

mod transfer;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::clock::settable_clock;
use super::{
    Backend, Case, CaseOptions, append, append_one, assert_sound, cases, event, identity, ids, outcomes,
    query, read_all, seqs, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::event::ERASED_PAYLOAD;
use crate::store::Erased;
use crate::{DedupStore, DedupStoreExt, Event, Query, Scope, StoreError, Timestamp, Topic, TopicQuery};

pub(super) use transfer::CASES as TRANSFER_CASES;

pub(super) const CASES: &[Case] = cases![
    a_forgotten_identity_comes_again_as_a_new_event,
    only_what_is_old_and_purged_is_forgotten,
    at_most_so_many_are_forgotten,
    the_newest_row_is_not_forgotten,
    what_is_left_is_as_it_was,
    a_forgotten_source_is_not_another_one,
    cursors_at_forgotten_rows_are_taken,
    many_identities_are_forgotten_and_come_again,
    what_was_forgotten_stays_so_when_the_store_is_opened_again,
];

pub(super) const AMEND_CASES: &[Case] = cases![what_was_erased_and_released_is_forgotten_too];

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// Events 1 to `last` of the topic.
fn numbered(topic: &str, last: u64) -> Vec<Event> {
    (1..=last).map(|n| with_payload(topic, &n.to_string(), &n.to_string())).collect()
}

/// Forgets all that is older than this, and compares with what was foretold.
fn forget(store: &dyn DedupStore, name: &str, before: i64, most: u64) -> u64 {
    let before = Timestamp::from_micros(before);
    let foretold = store.forget().unwrap().forgettable_identities(&topic(name), before, most).unwrap();
    let forgotten = store.forget_identities(&topic(name), before, most).unwrap();
    assert_eq!(forgotten, foretold);
    forgotten
}

fn forget_all(store: &dyn DedupStore, name: &str) -> u64 {
    forget(store, name, i64::MAX, u64::MAX)
}

/// A topic of the same partition as `t`.
fn neighbour(store: &dyn DedupStore) -> String {
    let of_t = |name: &String| store.partitions().of(name) == store.partitions().of("t");
    (0..).map(|n| format!("u{n}")).find(of_t).unwrap()
}

/// A store whose clock says the number of the event: 1 to `last` of `t`, each in a commit of its own. Then one of another
/// topic, so that the partition's newest row is none of `t`.
fn clocked(backend: &dyn Backend, last: i64) -> (Arc<dyn DedupStore>, Arc<AtomicI64>) {
    let (options, now) = settable_clock();
    let store = backend.open(options);
    for n in 1..=last {
        now.store(n, Ordering::SeqCst);
        append_one(&*store, &with_payload("t", &n.to_string(), &n.to_string()));
    }
    append_one(&*store, &event(&neighbour(&*store), "last"));
    (store, now)
}

fn a_forgotten_identity_comes_again_as_a_new_event(backend: &dyn Backend) {
    let (store, _) = clocked(backend, 10);
    store.purge(&topic("t"), 4).unwrap();
    assert_eq!(forget_all(&*store, "t"), 4);
    assert_eq!(forget_all(&*store, "t"), 0);
    assert_eq!(store.lookup(&[identity("t", "4"), identity("t", "5")]).unwrap().map_seen(), [false, true]);
    let receipts = append(&*store, &numbered("t", 10));
    assert_eq!(outcomes(&receipts), [[Stored; 4].as_slice(), &[Duplicate; 6]].concat());
    assert_eq!(seqs(&receipts), [11, 12, 13, 14, 5, 6, 7, 8, 9, 10]);
    assert_eq!(outcomes(&append(&*store, &numbered("t", 10))), [Duplicate; 10]);
    assert_eq!(append_one(&*store, &with_payload("t", "1", "[]")).outcome, Conflict);
    assert_eq!(ids(&read_all(&*store, query("t"))), ["5", "6", "7", "8", "9", "10", "1", "2", "3", "4"]);
    assert_sound(&*store);
    // And it is forgotten again.
    store.purge(&topic("t"), 12).unwrap();
    append_one(&*store, &event("t", "last"));
    assert_eq!(forget_all(&*store, "t"), 8);
    let receipts = append(&*store, &numbered("t", 10));
    assert_eq!(seqs(&receipts), [16, 17, 13, 14, 18, 19, 20, 21, 22, 23]);
    assert_sound(&*store);
}

/// Whether each identity was seen.
trait MapSeen {
    fn map_seen(self) -> Vec<bool>;
}

impl MapSeen for Vec<Option<crate::Seen>> {
    fn map_seen(self) -> Vec<bool> {
        self.iter().map(Option::is_some).collect()
    }
}

fn only_what_is_old_and_purged_is_forgotten(backend: &dyn Backend) {
    let (store, _) = clocked(backend, 10);
    assert_eq!(forget_all(&*store, "nobody"), 0);
    assert_eq!(forget_all(&*store, "t"), 0, "nothing is purged");
    store.purge(&topic("t"), 6).unwrap();
    assert_eq!(forget(&*store, "t", 1, u64::MAX), 0);
    assert_eq!(forget(&*store, "t", 4, u64::MAX), 3);
    assert_eq!(forget(&*store, "t", 4, u64::MAX), 0);
    let seen = (1..=10).map(|n| identity("t", &n.to_string())).collect::<Vec<_>>();
    let seen = store.lookup(&seen).unwrap().map_seen();
    assert_eq!(seen.iter().filter(|seen| !**seen).count(), 3);
    assert_eq!(forget_all(&*store, "t"), 3);
    assert_eq!(forget_all(&*store, &neighbour(&*store)), 0);
    assert_sound(&*store);
}

fn at_most_so_many_are_forgotten(backend: &dyn Backend) {
    let (store, _) = clocked(backend, 10);
    store.purge(&topic("t"), 9).unwrap();
    assert_eq!(forget(&*store, "t", i64::MAX, 0), 0);
    for (most, forgotten) in [(1, 1), (3, 3), (10, 5), (10, 0)] {
        assert_eq!(forget(&*store, "t", i64::MAX, most), forgotten);
        assert_sound(&*store);
    }
}

/// New cursors stand at it.
fn the_newest_row_is_not_forgotten(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("t", 3));
    store.purge(&topic("t"), 3).unwrap();
    assert_eq!(forget_all(&*store, "t"), 2);
    let end = store.read(&query("t")).unwrap().next;
    assert_eq!(outcomes(&append(&*store, &numbered("t", 3))), [Stored, Stored, Duplicate]);
    assert_eq!(ids(&read_all(&*store, Query { after: Some(end), ..query("t") })), ["1", "2"]);
    assert_eq!(forget_all(&*store, "t"), 1);
    assert_sound(&*store);
}

fn what_is_left_is_as_it_was(backend: &dyn Backend) {
    let (store, _) = clocked(backend, 10);
    store.purge(&topic("t"), 5).unwrap();
    let all = TopicQuery { times: true, ..TopicQuery::default() };
    let before = (store.topics(&all).unwrap(), store.stats().unwrap().stored, read_all(&*store, query("*")));
    forget_all(&*store, "t");
    let after = (store.topics(&all).unwrap(), store.stats().unwrap().stored, read_all(&*store, query("*")));
    assert_eq!(before, after);
    // A topic of which nothing is left still knows where it was.
    store.purge(&topic("t"), 10).unwrap();
    let before = (store.topics(&all).unwrap(), store.stats().unwrap());
    assert_eq!(forget_all(&*store, "t"), 5);
    let after = (store.topics(&all).unwrap(), store.stats().unwrap());
    assert_eq!((&before.0, before.1.stored), (&after.0, after.1.stored));
    assert_eq!(before.1.newest_processed_at, after.1.newest_processed_at);
    assert_eq!(append_one(&*store, &event("t", "10")).seq, Some(11));
    assert_sound(&*store);
}

fn a_forgotten_source_is_not_another_one(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let of = |source| event("t", "1").with_source(source).unwrap().with_scope(Scope::Source);
    append(&*store, &[of("a"), of("b")]);
    append_one(&*store, &of("c"));
    store.purge(&topic("t"), 1).unwrap();
    assert_eq!(forget_all(&*store, "t"), 1);
    let receipts = append(&*store, &[of("a"), of("b"), of("c")]);
    assert_eq!(seqs(&receipts), [4, 2, 3]);
    assert_sound(&*store);
}

fn cursors_at_forgotten_rows_are_taken(backend: &dyn Backend) {
    let (store, _) = clocked(backend, 10);
    let at = |limit| {
        let next = store.read(&Query { limit, ..query("t") }).unwrap().next;
        next.to_string().parse().unwrap()
    };
    let (inside, end) = (at(3), at(5));
    store.purge(&topic("t"), 5).unwrap();
    forget_all(&*store, "t");
    let left = |after| Query { after: Some(after), ..query("t") };
    assert_eq!(
        ids(&read_all(&*store, left(end))),
        ["6", "7", "8", "9", "10"],
        "all it had not read is there"
    );
    let Err(StoreError::Expired { oldest }) = store.read(&left(inside)) else {
        panic!("events were skipped without a word")
    };
    assert_eq!(ids(&read_all(&*store, left(oldest))), ["6", "7", "8", "9", "10"]);
    // A reader may stand at a row of a topic that it does not read.
    append_one(&*store, &event("t", "11"));
    let other = neighbour(&*store);
    let both = format!("{other},{other}x");
    for topics in [&other, &both] {
        let end = store.read(&query(topics)).unwrap();
        assert!(end.caught_up);
        append_one(&*store, &event(&other, topics));
        store.purge(&topic("t"), u64::MAX).unwrap();
        forget_all(&*store, "t");
        let rest =
            read_all(&*store, Query { after: Some(end.next.to_string().parse().unwrap()), ..query(topics) });
        assert_eq!(ids(&rest), [topics]);
        append_one(&*store, &event("t", topics));
    }
}

fn many_identities_are_forgotten_and_come_again(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let of = |name: &str| (0..2_500).map(|n| event(name, &n.to_string())).collect::<Vec<_>>();
    let (t, u) = (of("t"), of("u"));
    for (t, u) in t.chunks(100).zip(u.chunks(100)) {
        append(&*store, &[t, u].concat());
    }
    store.purge(&topic("t"), 2_400).unwrap();
    assert_eq!(forget_all(&*store, "t"), 2_400);
    assert_sound(&*store);
    let again = append(&*store, &t);
    assert_eq!(again.iter().filter(|receipt| receipt.outcome == Stored).count(), 2_400);
    assert!(append(&*store, &[t, u].concat()).iter().all(|receipt| receipt.outcome == Duplicate));
    assert_sound(&*store);
}

fn what_was_forgotten_stays_so_when_the_store_is_opened_again(backend: &dyn Backend) {
    let (store, now) = clocked(backend, 10);
    store.purge(&topic("t"), 7).unwrap();
    assert_eq!(forget(&*store, "t", 6, u64::MAX), 5);
    let clock: crate::time::Clock = Arc::new(move || Timestamp::from_micros(now.load(Ordering::SeqCst)));
    let options = CaseOptions { clock, ..CaseOptions::default() };
    let Some(store) = backend.reopen(store, options.clone()) else { return };
    assert_sound(&*store);
    assert_eq!(forget_all(&*store, "t"), 2);
    let Some(store) = backend.reopen(store, options) else { return };
    let receipts = append(&*store, &numbered("t", 10));
    assert_eq!(seqs(&receipts), [11, 12, 13, 14, 15, 16, 17, 8, 9, 10]);
    assert_sound(&*store);
}

fn what_was_erased_and_released_is_forgotten_too(backend: &dyn Backend) {
    let (store, _) = clocked(backend, 10);
    store.release(&[identity("t", "1")]).unwrap();
    store.erase(&[identity("t", "2")]).unwrap();
    append_one(&*store, &with_payload("t", "1", "1"));
    store.purge(&topic("t"), 3).unwrap();
    assert_eq!(forget_all(&*store, "t"), 3);
    assert_eq!(append_one(&*store, &with_payload("t", "1", "1")).seq, Some(11), "its later event is there");
    assert_eq!(append_one(&*store, &with_payload("t", "2", "2")).seq, Some(12));
    let one = [identity("t", "1"), identity("t", "3")];
    assert_eq!(store.erase(&one).unwrap(), [Erased::new(vec![11]), Erased::default()]);
    assert_eq!(store.release(&one).unwrap().map_seen(), [true, false]);
    assert_eq!(read_all(&*store, query("t"))[7].payload, ERASED_PAYLOAD);
    assert_sound(&*store);
}
