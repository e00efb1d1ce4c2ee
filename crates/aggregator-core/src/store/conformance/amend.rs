//! Erasing payloads and releasing identities.

use super::transfer::{alone, import, rows};
use super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_every_read_gives, assert_sound, cases,
    event, identity, ids, outcomes, purge_if_able, query, read_all, seqs, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::event::ERASED_PAYLOAD;
use crate::store::{Erased, Imported, MAX_IDS_PER_AMEND};
use crate::{
    DedupStore, DedupStoreExt, Event, EventId, Identity, Query, Scope, Source, StoreError, StoredEvent, Topic,
};

pub(super) const CASES: &[Case] = cases![
    an_erased_event_keeps_its_place_and_nothing_else,
    no_repeat_of_an_erased_event_is_a_conflict,
    erasing_twice_or_nothing_is_fine,
    a_released_identity_comes_again_as_a_new_event,
    releasing_twice_or_nothing_is_fine,
    a_released_event_stays_in_the_stream_and_can_be_erased,
    an_identity_is_released_again_and_again,
    a_source_is_part_of_what_is_erased_and_released,
    more_identities_than_a_call_takes_are_refused,
    what_was_amended_stays_so_when_the_store_is_opened_again,
];

pub(super) const TRANSFER_CASES: &[Case] = cases![
    an_identity_that_was_imported_alone_has_nothing_to_erase_and_is_released,
    an_identity_that_was_released_can_be_imported_alone_again,
    a_copy_has_what_was_erased_and_released,
    an_older_copy_brings_back_nothing_that_was_amended,
    a_release_comes_with_a_later_copy,
    a_release_that_is_imported_is_one_of_events_that_were_appended_here,
    a_later_copy_of_what_was_erased_is_refused,
];

pub(super) const PURGE_CASES: &[Case] = cases![a_purged_event_is_erased_and_an_erased_one_purged];

fn payloads(store: &dyn DedupStore, topics: &str) -> Vec<String> {
    read_all(store, query(topics)).into_iter().map(|event| event.payload).collect()
}

fn erase(store: &dyn DedupStore, ids: &[Identity]) -> Vec<Vec<u64>> {
    let erased = store.erase(ids).expect("a healthy store erases");
    erased.into_iter().map(|Erased { seqs }| seqs).collect()
}

/// The seq of what was released, if anything was.
fn release(store: &dyn DedupStore, ids: &[Identity]) -> Vec<Option<Option<u64>>> {
    let released = store.release(ids).expect("a healthy store releases");
    released.into_iter().map(|seen| seen.map(|seen| seen.seq)).collect()
}

fn copy(from: &dyn DedupStore, to: &dyn DedupStore) -> Result<Imported, StoreError> {
    import(to, &rows(from))
}

fn an_erased_event_keeps_its_place_and_nothing_else(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let secret = "x".repeat(20_000);
    append(
        &*store,
        &[
            with_payload("a.t", "1", "[1]"),
            with_payload("a.t", "2", &format!("{secret:?}")),
            with_payload("a.t", "3", "[3]"),
        ],
    );
    let before = read_all(&*store, query("a.t"));
    assert_eq!(erase(&*store, &[identity("a.t", "2")]), [[2]]);
    let after = read_all(&*store, query("a.t"));
    assert_eq!(ids(&after), ["1", "2", "3"]);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    let expected = StoredEvent { payload: ERASED_PAYLOAD.into(), ..before[1].clone() };
    assert_every_read_gives(&*store, &expected);
    let seen = store.lookup(&[identity("a.t", "2")]).unwrap()[0].unwrap();
    assert_eq!((seen.seq, seen.processed_at), (Some(2), before[1].processed_at));
    assert_sound(&*store);
}

fn no_repeat_of_an_erased_event_is_a_conflict(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let first = append_one(&*store, &with_payload("t", "1", "[1]"));
    erase(&*store, &[identity("t", "1")]);
    for payload in ["[1]", "[2]", ERASED_PAYLOAD] {
        let again = append_one(&*store, &with_payload("t", "1", payload));
        assert_eq!(
            (again.outcome, again.seq, again.processed_at),
            (Duplicate, first.seq, first.processed_at)
        );
    }
    assert_eq!(payloads(&*store, "t"), [ERASED_PAYLOAD]);
    assert_eq!(append_one(&*store, &with_payload("t", "2", "[1]")).outcome, Stored, "others go on");
    assert_eq!(append_one(&*store, &with_payload("t", "2", "[2]")).outcome, Conflict);
    assert_eq!(all_topics(&*store)[0].conflicts, 1);
}

fn erasing_twice_or_nothing_is_fine(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(erase(&*store, &[]), Vec::<Vec<u64>>::new());
    assert_eq!(erase(&*store, &[identity("t", "1")]), [Vec::<u64>::new()], "no such topic");
    append(&*store, &[event("t", "1"), event("t", "2")]);
    let ids = [identity("t", "2"), identity("t", "none"), identity("t", "2")];
    for _ in 0..2 {
        assert_eq!(erase(&*store, &ids), [vec![2], vec![], vec![2]]);
    }
    assert_sound(&*store);
}

fn a_purged_event_is_erased_and_an_erased_one_purged(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let events: Vec<_> = (1..=4).map(|n| with_payload("t", &n.to_string(), &n.to_string())).collect();
    append(&*store, &events);
    erase(&*store, &[identity("t", "2")]);
    store.purge(&Topic::new("t").unwrap(), 3).unwrap();
    assert_eq!(erase(&*store, &[identity("t", "1"), identity("t", "2")]), [[1], [2]]);
    // All but these two still tell a conflict.
    let changed: Vec<_> = (1..=4).map(|n| with_payload("t", &n.to_string(), "[]")).collect();
    let told = outcomes(&append(&*store, &changed));
    assert_eq!(told, [Duplicate, Duplicate, Conflict, Conflict]);
    assert_sound(&*store);
}

fn a_released_identity_comes_again_as_a_new_event(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[with_payload("t", "1", "[1]"), with_payload("t", "2", "[2]")]);
    assert_eq!(release(&*store, &[identity("t", "1")]), [Some(Some(1))]);
    assert_eq!(store.lookup(&[identity("t", "1")]).unwrap(), [None]);
    assert_eq!(read_all(&*store, query("t")).len(), 2, "the event stays");
    let again = [with_payload("t", "1", "[9]"), with_payload("t", "2", "[2]"), with_payload("t", "1", "[9]")];
    let receipts = append(&*store, &again);
    assert_eq!(outcomes(&receipts), [Stored, Duplicate, Duplicate]);
    assert_eq!(seqs(&receipts), [3, 2, 3]);
    assert_eq!(append_one(&*store, &with_payload("t", "1", "[1]")).outcome, Conflict);
    assert_eq!(store.lookup(&[identity("t", "1")]).unwrap()[0].unwrap().seq, Some(3));
    assert_eq!(payloads(&*store, "t"), ["[1]", "[2]", "[9]"]);
    assert_eq!(all_topics(&*store)[0].last_seq, 3);
    assert_sound(&*store);
}

fn releasing_twice_or_nothing_is_fine(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(release(&*store, &[]), []);
    assert_eq!(release(&*store, &[identity("t", "1")]), [None], "no such topic");
    append(&*store, &[event("t", "1")]);
    let ids = [identity("t", "1"), identity("t", "1"), identity("t", "none")];
    assert_eq!(release(&*store, &ids), [Some(Some(1)), None, None]);
    assert_eq!(release(&*store, &ids), [None, None, None]);
    assert_sound(&*store);
}

fn a_released_event_stays_in_the_stream_and_can_be_erased(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[with_payload("a.t", "1", "[1]"), with_payload("a.t", "2", "[2]")]);
    release(&*store, &[identity("a.t", "1")]);
    append(&*store, &[with_payload("a.t", "1", "[3]")]);
    for event in read_all(&*store, query("a.t")) {
        let by_id = Query { event_id: Some(EventId::new(&*event.event_id).unwrap()), ..query("a.t") };
        assert!(read_all(&*store, by_id).contains(&event), "{event:?}");
    }
    assert_eq!(erase(&*store, &[identity("a.t", "1")]), [[1, 3]], "both of them");
    assert_eq!(payloads(&*store, "a.t"), [ERASED_PAYLOAD, "[2]", ERASED_PAYLOAD]);
    release(&*store, &[identity("a.t", "1")]);
    assert_eq!(erase(&*store, &[identity("a.t", "1")]), [[1, 3]], "released ones, too");
    assert_sound(&*store);
}

fn an_identity_is_released_again_and_again(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for seq in 1..=5 {
        let receipt = append_one(&*store, &event("t", "1"));
        assert_eq!((receipt.outcome, receipt.seq), (Stored, Some(seq)));
        assert_eq!(append_one(&*store, &event("t", "1")).outcome, Duplicate);
        assert_eq!(release(&*store, &[identity("t", "1")]), [Some(Some(seq))]);
    }
    assert_eq!(store.stats().unwrap().stored, 5);
    assert_sound(&*store);
}

fn a_source_is_part_of_what_is_erased_and_released(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let from = |source: &str| {
        let event = with_payload("s", "1", &format!("{source:?}")).with_source(source).unwrap();
        event.with_scope(Scope::Source)
    };
    append(&*store, &[from("a"), from("b")]);
    let of = |source: &str| Identity { source: Some(Source::new(source).unwrap()), ..identity("s", "1") };
    assert_eq!(erase(&*store, &[of("a"), identity("s", "1")]), [vec![1], vec![]], "no source is another one");
    assert_eq!(payloads(&*store, "s"), [ERASED_PAYLOAD, "\"b\""]);
    assert_eq!(release(&*store, &[of("b"), identity("s", "1")]), [Some(Some(2)), None]);
    assert_eq!(outcomes(&append(&*store, &[from("a"), from("b")])), [Duplicate, Stored]);
    assert_sound(&*store);
}

fn more_identities_than_a_call_takes_are_refused(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[event("t", "0")]);
    let many: Vec<_> = (0..=MAX_IDS_PER_AMEND).map(|n| identity("t", &n.to_string())).collect();
    assert!(matches!(store.erase(&many), Err(StoreError::Invalid(_))));
    assert!(matches!(store.release(&many), Err(StoreError::Invalid(_))));
    assert_eq!(append_one(&*store, &event("t", "0")).outcome, Duplicate);
    assert_eq!(release(&*store, &many[1..]), vec![None; MAX_IDS_PER_AMEND]);
}

fn what_was_amended_stays_so_when_the_store_is_opened_again(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[with_payload("t", "1", "[1]"), with_payload("t", "2", "[2]")]);
    erase(&*store, &[identity("t", "1")]);
    release(&*store, &[identity("t", "2")]);
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    let again = append(&*store, &[with_payload("t", "1", "[9]"), with_payload("t", "2", "[9]")]);
    assert_eq!(outcomes(&again), [Duplicate, Stored]);
    assert_eq!(payloads(&*store, "t"), [ERASED_PAYLOAD, "[2]", "[9]"]);
    assert_sound(&*store);
}

fn an_identity_that_was_imported_alone_has_nothing_to_erase_and_is_released(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    import(&*store, &[alone("t", "1")]).unwrap();
    assert_eq!(erase(&*store, &[identity("t", "1")]), [Vec::<u64>::new()]);
    assert_eq!(append_one(&*store, &event("t", "1")).outcome, Duplicate);
    assert_eq!(release(&*store, &[identity("t", "1")]), [Some(None)]);
    assert_eq!(append_one(&*store, &event("t", "1")).seq, Some(1));
    assert_sound(&*store);
    let again = backend.open(CaseOptions::default());
    for _ in 0..2 {
        copy(&*store, &*again).unwrap();
        assert_eq!(append_one(&*again, &event("t", "1")).seq, Some(1));
        assert_sound(&*again);
    }
}

fn an_identity_that_was_released_can_be_imported_alone_again(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    import(&*store, &[alone("t", "1")]).unwrap();
    release(&*store, &[identity("t", "1")]);
    for added in [1, 0] {
        assert_eq!(import(&*store, &[alone("t", "1")]).unwrap().added, added);
    }
    assert_eq!(append_one(&*store, &event("t", "1")).outcome, Duplicate);
    let other = backend.open(CaseOptions::default());
    for added in [2, 0] {
        assert_eq!(copy(&*store, &*other).unwrap().added, added);
    }
    assert_eq!(append_one(&*other, &event("t", "1")).outcome, Duplicate);
    assert_sound(&*store);
    assert_sound(&*other);
}

/// A store with an erased event, one that was released, and one that came again.
fn amended(backend: &dyn Backend) -> std::sync::Arc<dyn DedupStore> {
    let store = backend.open(CaseOptions::default());
    append(&*store, &unchanged());
    erase(&*store, &[identity("t", "1")]);
    release(&*store, &[identity("t", "2")]);
    append(&*store, &[with_payload("t", "2", "[9]")]);
    store
}

fn unchanged() -> Vec<Event> {
    (1..=3).map(|n| with_payload("t", &n.to_string(), &format!("[{n}]"))).collect()
}

fn a_copy_has_what_was_erased_and_released(backend: &dyn Backend) {
    let store = amended(backend);
    let other = backend.open(CaseOptions::default());
    for _ in 0..2 {
        copy(&*store, &*other).unwrap();
        assert_eq!(payloads(&*other, "t"), [ERASED_PAYLOAD, "[2]", "[3]", "[9]"]);
        assert_sound(&*other);
    }
    let again = [with_payload("t", "1", "[7]"), with_payload("t", "2", "[9]"), with_payload("t", "2", "[2]")];
    let receipts = append(&*other, &again);
    assert_eq!(outcomes(&receipts), [Duplicate, Duplicate, Conflict]);
    assert_eq!(seqs(&receipts), [1, 4, 4]);
}

fn an_older_copy_brings_back_nothing_that_was_amended(backend: &dyn Backend) {
    let older = backend.open(CaseOptions::default());
    append(&*older, &unchanged());
    let store = backend.open(CaseOptions::default());
    copy(&*older, &*store).unwrap();
    erase(&*store, &[identity("t", "1")]);
    release(&*store, &[identity("t", "2")]);
    append(&*store, &[with_payload("t", "2", "[9]")]);
    copy(&*older, &*store).unwrap();
    assert_eq!(payloads(&*store, "t"), [ERASED_PAYLOAD, "[2]", "[3]", "[9]"]);
    assert_eq!(append_one(&*store, &with_payload("t", "2", "[9]")).seq, Some(4));
    // Stubs neither.
    purge_if_able(&*older, "t", 3);
    copy(&*older, &*store).unwrap();
    assert_eq!(payloads(&*store, "t"), [ERASED_PAYLOAD, "[2]", "[3]", "[9]"]);
    assert_sound(&*store);
}

fn a_release_comes_with_a_later_copy(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &unchanged());
    let other = backend.open(CaseOptions::default());
    copy(&*store, &*other).unwrap();
    let third = backend.open(CaseOptions::default());
    copy(&*store, &*third).unwrap();
    release(&*store, &[identity("t", "2")]);
    copy(&*store, &*other).unwrap();
    assert_eq!(other.lookup(&[identity("t", "2")]).unwrap(), [None]);
    append(&*store, &[with_payload("t", "2", "[9]")]);
    copy(&*store, &*other).unwrap();
    // Both in one import.
    copy(&*store, &*third).unwrap();
    assert_eq!(append_one(&*third, &with_payload("t", "2", "[9]")).seq, Some(4));
    assert_sound(&*third);
    assert_eq!(append_one(&*other, &with_payload("t", "2", "[9]")).seq, Some(4));
    assert_sound(&*other);
}

fn a_release_that_is_imported_is_one_of_events_that_were_appended_here(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &unchanged());
    let released = rows(&*store).into_iter().map(|row| crate::StoredRow { released: true, ..row });
    import(&*store, &released.collect::<Vec<_>>()).unwrap();
    assert_eq!(outcomes(&append(&*store, &unchanged())), [Stored; 3]);
    assert_sound(&*store);
}

/// Otherwise the other store would keep what was erased, and nobody would know.
fn a_later_copy_of_what_was_erased_is_refused(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &unchanged());
    let other = backend.open(CaseOptions::default());
    copy(&*store, &*other).unwrap();
    erase(&*store, &[identity("t", "1")]);
    let refused = copy(&*store, &*other).unwrap_err();
    assert!(refused.to_string().contains("erase it here"), "{refused}");
    erase(&*other, &[identity("t", "1")]);
    copy(&*store, &*other).unwrap();
    assert_sound(&*other);
}
