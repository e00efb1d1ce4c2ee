//! Copies of stores in which something was forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::transfer::{alone, import, rows};
use super::super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_sound, cases, event, identity, seqs,
    with_payload,
};
use super::{MapSeen as _, clocked, forget, forget_all, neighbour, numbered, settable_clock, topic};
use crate::store::{Imported, RowLimit};
use crate::{DedupStore, DedupStoreExt, Kept, MemoryStore, Partitions, StoreError, StoredRow, Timestamp};

pub(in super::super) const CASES: &[Case] = cases![
    identities_that_were_imported_alone_are_forgotten_too,
    an_identity_behind_an_event_that_is_kept_stays,
    the_mark_of_identities_alone_holds_up_no_event,
    a_mark_stays_behind_identities_that_were_there_before_it,
    a_copy_goes_on_behind_what_was_forgotten,
    a_copy_is_not_put_over_events_that_were_forgotten_in_the_other_store,
    an_older_copy_brings_back_nothing_that_was_forgotten,
    the_mark_of_what_was_forgotten_has_no_identity,
];

fn copy(from: &dyn DedupStore, to: &dyn DedupStore) -> Result<Imported, StoreError> {
    import(to, &rows(from))
}

fn identities_that_were_imported_alone_are_forgotten_too(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    import(&*store, &[alone("t", "a"), alone("t", "b")]).unwrap();
    append(&*store, &numbered("t", 3));
    // They have times of their own.
    assert_eq!(forget(&*store, "t", 1_000, u64::MAX), 0);
    assert_eq!(forget(&*store, "t", 1_001, 1), 1);
    assert_sound(&*store);
    assert_eq!(store.lookup(&[identity("t", "a"), identity("t", "b")]).unwrap().map_seen(), [false, true]);
    let other = backend.open(CaseOptions::default());
    for added in [4, 0] {
        assert_eq!(
            copy(&*store, &*other).unwrap().added,
            added,
            "no event is forgotten, so there is no mark of one"
        );
        assert_sound(&*other);
    }
    assert_eq!(forget_all(&*store, "t"), 1);
    store.purge(&topic("t"), 2).unwrap();
    assert_eq!(forget_all(&*store, "t"), 2);
    assert_eq!(append_one(&*store, &event("t", "b")).seq, Some(4));
    assert_sound(&*store);
}

/// Otherwise the mark of what was forgotten would stand behind that event, and a copy would begin with a seq above 1.
fn an_identity_behind_an_event_that_is_kept_stays(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered("t", 2));
    import(&*store, &[alone("t", "a")]).unwrap();
    append_one(&*store, &event(&neighbour(&*store), "last"));
    store.purge(&topic("t"), 1).unwrap();
    assert_eq!(forget_all(&*store, "t"), 1);
    assert_eq!(store.lookup(&[identity("t", "a")]).unwrap().map_seen(), [true]);
    let other = backend.open(CaseOptions::default());
    assert_eq!(copy(&*store, &*other).unwrap().added, 4);
    assert_sound(&*other);
    store.purge(&topic("t"), 2).unwrap();
    assert_eq!(forget_all(&*store, "t"), 2);
    assert_eq!(store.lookup(&[identity("t", "a")]).unwrap().map_seen(), [false]);
    assert_sound(&*store);
}

/// An identity alone has a time that may come from anywhere, and so has its mark.
fn the_mark_of_identities_alone_holds_up_no_event(backend: &dyn Backend) {
    let (options, now) = settable_clock();
    let store = backend.open(options);
    let far = Timestamp::from_micros(1_000_000);
    import(&*store, &[StoredRow { processed_at: far, ..alone("t", "a") }]).unwrap();
    for n in 1..=9 {
        now.store(n, Ordering::SeqCst);
        append_one(&*store, &event(if n == 1 { "t" } else { "u" }, &n.to_string()));
        append_one(&*store, &event("v", &n.to_string()));
    }
    assert_eq!(forget_all(&*store, "t"), 1);
    assert_eq!(copy(&*store, &MemoryStore::new(Partitions::ONE)).unwrap().added, 18);
}

fn a_mark_stays_behind_identities_that_were_there_before_it(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    import(&*store, &[alone("t", "a")]).unwrap();
    copy(&*forgotten(backend), &*store).unwrap();
    let other = backend.open(CaseOptions::default());
    assert_eq!(copy(&*store, &*other).unwrap().added, rows(&*store).len() as u64);
    assert_sound(&*other);
    assert_eq!(forget(&*store, "t", i64::MAX, 1), 1);
    assert_eq!(store.lookup(&[identity("t", "a"), identity("t", "5")]).unwrap().map_seen(), [false, true]);
    assert_sound(&*store);
    let partition = store.partitions().of("t");
    let all = store.rows(partition, 0, RowLimit::default()).unwrap();
    let (offset, mark) = all.iter().find(|(_, row)| row.topic == "t").unwrap();
    assert_eq!((*offset, &mark.kept), (2, &Kept::Forgotten { seq: 4 }));
    assert_eq!(forget_all(&*store, "t"), 2);
    assert_sound(&*store);
}

/// Of ten events, four were forgotten and two more purged.
fn forgotten(backend: &dyn Backend) -> Arc<dyn DedupStore> {
    let (store, _) = clocked(backend, 10);
    store.purge(&topic("t"), 6).unwrap();
    assert_eq!(forget(&*store, "t", 5, u64::MAX), 4);
    store
}

fn a_copy_goes_on_behind_what_was_forgotten(backend: &dyn Backend) {
    let store = forgotten(backend);
    let all = rows(&*store);
    let marks: Vec<_> = all.iter().filter(|row| row.is_forgotten()).collect();
    let [StoredRow { kept: Kept::Forgotten { seq: 4 }, processed_at, .. }] = marks[..] else {
        panic!("there is one mark: {marks:?}")
    };
    assert_eq!(processed_at.as_micros(), 4);
    let other = backend.open(CaseOptions::default());
    for added in [all.len() as u64, 0] {
        assert_eq!(copy(&*store, &*other).unwrap().added, added);
        assert_eq!(rows(&*other), all);
        let topics = all_topics(&*other);
        assert_eq!(topics.iter().map(|info| info.purged_seq).collect::<Vec<_>>(), [6, 0]);
        assert_sound(&*other);
    }
    let receipts = append(&*other, &numbered("t", 10));
    assert_eq!(seqs(&receipts), [11, 12, 13, 14, 5, 6, 7, 8, 9, 10]);
    // It goes on there.
    assert_eq!(forget_all(&*other, "t"), 2);
    assert_eq!(append_one(&*other, &with_payload("t", "5", "5")).seq, Some(15));
    assert_sound(&*other);
    let third = backend.open(CaseOptions::default());
    for _ in 0..2 {
        copy(&*other, &*third).unwrap();
        assert_eq!(rows(&*third).len(), rows(&*other).len());
        assert_sound(&*third);
    }
}

fn a_copy_is_not_put_over_events_that_were_forgotten_in_the_other_store(backend: &dyn Backend) {
    let store = forgotten(backend);
    let other = backend.open(CaseOptions::default());
    append_one(&*other, &event("t", "own"));
    let before = rows(&*other);
    let refused = copy(&*store, &*other).unwrap_err();
    assert!(refused.to_string().contains("has forgotten"), "{refused}");
    assert_eq!(rows(&*other), before);
    assert_sound(&*other);
}

fn an_older_copy_brings_back_nothing_that_was_forgotten(backend: &dyn Backend) {
    let (older, _) = clocked(backend, 10);
    older.purge(&topic("t"), 2).unwrap();
    let store = backend.open(CaseOptions::default());
    copy(&*older, &*store).unwrap();
    store.purge(&topic("t"), 6).unwrap();
    assert_eq!(forget(&*store, "t", 6, u64::MAX), 5);
    append_one(&*store, &with_payload("t", "3", "3"));
    let before = rows(&*store);
    assert_eq!(copy(&*older, &*store).unwrap().added, 0);
    assert_eq!(rows(&*store), before);
    assert_sound(&*store);
}

fn the_mark_of_what_was_forgotten_has_no_identity(backend: &dyn Backend) {
    let mark = |kept| StoredRow { event_id: String::new(), kept, ..alone("t", "") };
    let mark = mark(Kept::Forgotten { seq: 3 });
    for wrong in [
        StoredRow { event_id: "1".into(), ..mark.clone() },
        StoredRow { source: Some("s".into()), ..mark.clone() },
        StoredRow { released: true, ..mark.clone() },
    ] {
        assert_eq!(wrong.check().unwrap_err()[0].field, "event_id");
    }
    let store = backend.open(CaseOptions::default());
    // Its time is that of an event, and times do not go back behind it.
    let far = Timestamp::from_micros(i64::MAX / 2);
    assert_eq!(import(&*store, &[StoredRow { processed_at: far, ..mark }]).unwrap().added, 1);
    assert_sound(&*store);
    let receipt = append_one(&*store, &event("t", "1"));
    assert_eq!((receipt.seq, receipt.processed_at), (Some(4), far));
    assert_sound(&*store);
}
