//! Appending: once, in order, with a fate for every item.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{
    Backend, Case, CaseOptions, all_topics, append, append_one, assert_every_read_gives, assert_sound, cases,
    event, identity, ids, outcomes, query, read_all, seqs, topics_of_one_shard, totals, with_payload,
};
use crate::Outcome::{Conflict, Duplicate, Stored};
use crate::event::ERASED_PAYLOAD;
use crate::{
    AttemptId, DedupStoreExt, Event, EventId, Partition, Query, Scope, StoreError, StoreStats, StoredEvent,
    Timestamp,
};

pub(super) const CASES: &[Case] = cases![
    an_event_is_stored_once,
    an_empty_batch_is_fine,
    repeats_inside_a_batch_are_found,
    a_batch_of_repeats_only_is_fine,
    repeats_and_new_events_mix,
    a_duplicate_is_told_where_the_first_one_is,
    identities_are_compared_byte_by_byte,
    a_topic_is_part_of_the_identity,
    another_payload_is_a_conflict_and_the_first_one_stays,
    white_space_is_no_conflict_but_spelling_is,
    conflicts_inside_a_batch_are_found,
    the_payload_of_an_erased_event_equals_every_repeat_whoever_sent_it,
    the_source_counts_only_in_its_scope,
    the_scope_is_fixed_by_the_first_event,
    seqs_are_dense_and_in_order,
    topics_interleaved_in_a_batch_keep_their_orders,
    one_topic_too_many_fails_the_batch_whole,
    a_topic_of_another_partition_is_refused,
    processed_at_never_goes_back,
    one_append_has_one_processed_at,
    racing_publishers_store_each_event_once,
    counters_say_what_happened,
    every_part_of_an_event_comes_back,
];

fn an_event_is_stored_once(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let one = event("orders", "1");
    let first = append_one(&*store, &one);
    assert_eq!((first.outcome, first.seq), (Stored, Some(1)));
    for _ in 0..3 {
        assert_eq!(append_one(&*store, &one).outcome, Duplicate);
    }
    assert_eq!(read_all(&*store, query("orders")).len(), 1);
    assert_sound(&*store);
}

fn an_empty_batch_is_fine(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(store.append(Partition(0), AttemptId::new(), &[]).unwrap(), []);
    assert_eq!(store.stats().unwrap().stored, 0);
    assert_sound(&*store);
}

fn repeats_inside_a_batch_are_found(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let receipts = append(
        &*store,
        &[event("t", "a"), event("t", "b"), event("t", "a"), event("t", "a"), event("t", "c")],
    );
    assert_eq!(outcomes(&receipts), [Stored, Stored, Duplicate, Duplicate, Stored]);
    assert_eq!(seqs(&receipts), [1, 2, 1, 1, 3]);
    assert_eq!(ids(&read_all(&*store, query("t"))), ["a", "b", "c"]);
    assert_sound(&*store);
}

fn a_batch_of_repeats_only_is_fine(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let batch = [event("t", "a"), event("t", "b")];
    append(&*store, &batch);
    assert_eq!(outcomes(&append(&*store, &batch)), [Duplicate, Duplicate]);
    assert_eq!(append_one(&*store, &event("t", "c")).seq, Some(3));
    assert_sound(&*store);
}

fn repeats_and_new_events_mix(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &[event("t", "b"), event("t", "d")]);
    let mixed: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| event("t", id)).into();
    let receipts = append(&*store, &mixed);
    assert_eq!(outcomes(&receipts), [Stored, Duplicate, Stored, Duplicate, Stored]);
    assert_eq!(seqs(&receipts), [3, 1, 4, 2, 5]);
    assert_eq!(ids(&read_all(&*store, query("t"))), ["b", "d", "a", "c", "e"]);
    assert_sound(&*store);
}

fn a_duplicate_is_told_where_the_first_one_is(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &event("t", "before"));
    let first = append_one(&*store, &event("t", "1"));
    append_one(&*store, &event("t", "after"));
    let again = append_one(&*store, &event("t", "1"));
    assert_eq!((again.outcome, again.seq), (Duplicate, Some(2)));
    assert_eq!(again.processed_at, first.processed_at);
    let seen = store.lookup(&[identity("t", "1"), identity("t", "2"), identity("u", "1")]).unwrap();
    let found = seen[0].unwrap();
    assert_eq!((found.seq, found.processed_at, found.purged), (Some(2), first.processed_at, false));
    assert_eq!((seen[1], seen[2]), (None, None));
}

fn identities_are_compared_byte_by_byte(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    // Case, padding, number spelling, both Unicode forms of ä, look-alikes, quoting.
    let different = [
        "a",
        "A",
        " a",
        "a ",
        "1",
        "01",
        "1.0",
        "\u{e4}",
        "a\u{308}",
        "\u{430}",
        "'",
        "''",
        "%",
        "_",
        "a/b",
        "a?b",
        "a#b",
        "\u{200b}a",
        "😀",
    ];
    let batch: Vec<_> = different.iter().map(|id| event("t", id)).collect();
    assert!(append(&*store, &batch).iter().all(|receipt| receipt.outcome == Stored));
    assert!(append(&*store, &batch).iter().all(|receipt| receipt.outcome == Duplicate));
    assert_eq!(ids(&read_all(&*store, query("t"))), different);
    assert_eq!(append_one(&*store, &event("T", "a")).outcome, Stored);
    assert_eq!(append_one(&*store, &event("t", &"x".repeat(256))).outcome, Stored);
    assert_eq!(append_one(&*store, &event("t", &format!("{}y", "x".repeat(255)))).outcome, Stored);
    assert_sound(&*store);
}

fn a_topic_is_part_of_the_identity(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    // The parts must not run together: ("ab", "c") is not ("a", "bc").
    let pairs = [("ab", "c"), ("a", "bc"), ("a.b", "c"), ("a", "c")];
    let batch: Vec<_> = pairs.iter().map(|(topic, id)| event(topic, id)).collect();
    assert_eq!(outcomes(&append(&*store, &batch)), [Stored; 4]);
    assert_eq!(outcomes(&append(&*store, &batch)), [Duplicate; 4]);
}

fn another_payload_is_a_conflict_and_the_first_one_stays(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let first = append_one(&*store, &with_payload("t", "1", r#"{"total":1}"#));
    let other = append_one(&*store, &with_payload("t", "1", r#"{"total":2}"#));
    assert_eq!((other.outcome, other.seq, other.processed_at), (Conflict, first.seq, first.processed_at));
    let again = append_one(&*store, &with_payload("t", "1", r#"{"total":1}"#));
    assert_eq!(again.outcome, Duplicate);
    assert_eq!(read_all(&*store, query("t"))[0].payload, r#"{"total":1}"#);
    let stats = store.stats().unwrap();
    assert_eq!((stats.stored, stats.duplicates, stats.conflicts), (1, 2, 1));
    assert_sound(&*store);
}

fn white_space_is_no_conflict_but_spelling_is(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &with_payload("t", "1", r#"{"a":1,"b":[1.0,"x y"]}"#));
    let again = |payload| append_one(&*store, &with_payload("t", "1", payload)).outcome;
    assert_eq!(again("{ \"a\": 1,\n\t\"b\" : [ 1.0, \"x y\" ] }"), Duplicate);
    assert_eq!(again(r#"{"b":[1.0,"x y"],"a":1}"#), Conflict, "key order counts");
    assert_eq!(again(r#"{"a":1,"b":[1.00,"x y"]}"#), Conflict, "number spelling counts");
    assert_eq!(again(r#"{"a":1,"b":[1.0,"xy"]}"#), Conflict, "white space in strings counts");
}

fn conflicts_inside_a_batch_are_found(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let batch = [with_payload("t", "1", "1"), with_payload("t", "1", "2"), with_payload("t", "1", "1")];
    assert_eq!(outcomes(&append(&*store, &batch)), [Stored, Conflict, Duplicate]);
    assert_eq!(read_all(&*store, query("t"))[0].payload, "1");
}

fn the_payload_of_an_erased_event_equals_every_repeat_whoever_sent_it(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let all = [ERASED_PAYLOAD, "[1]", "[2]"].map(|payload| with_payload("t", "1", payload));
    assert_eq!(outcomes(&append(&*store, &all)), [Stored, Duplicate, Duplicate]);
    assert_eq!(outcomes(&append(&*store, &all)), [Duplicate; 3]);
    let reverse = ["[1]", ERASED_PAYLOAD].map(|payload| with_payload("t", "2", payload));
    assert_eq!(outcomes(&append(&*store, &reverse)), [Stored, Conflict]);
    assert_sound(&*store);
}

fn from(topic: &str, id: &str, source: &str, scope: Scope) -> Event {
    event(topic, id).with_source(source).unwrap().with_scope(scope)
}

fn the_source_counts_only_in_its_scope(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let narrow = [from("n", "1", "x", Scope::Topic), from("n", "1", "y", Scope::Topic)];
    assert_eq!(outcomes(&append(&*store, &narrow)), [Stored, Duplicate]);
    let wide = [
        from("w", "1", "x", Scope::Source),
        from("w", "1", "y", Scope::Source),
        from("w", "1", "x", Scope::Source),
    ];
    assert_eq!(outcomes(&append(&*store, &wide)), [Stored, Stored, Duplicate]);

    let ask = |topic: &str, source: Option<&str>| {
        let source = source.map(|source| crate::Source::new(source).unwrap());
        let id = crate::Identity { source, ..identity(topic, "1") };
        store.lookup(&[id]).unwrap()[0].and_then(|seen| seen.seq)
    };
    assert_eq!([ask("n", Some("z")), ask("n", None)], [Some(1), Some(1)]);
    assert_eq!([ask("w", Some("x")), ask("w", Some("y")), ask("w", Some("z"))], [Some(1), Some(2), None]);
    assert_eq!(ask("w", None), None, "no event came without a source");
    append_one(&*store, &event("w", "1").with_scope(Scope::Source));
    assert_eq!(ask("w", None), Some(3));

    // A query for the id alone gives the events of all sources.
    let id = Some(EventId::new("1").unwrap());
    let seqs = |source: Option<&str>| {
        let source = source.map(|source| crate::Source::new(source).unwrap());
        let found = read_all(&*store, Query { event_id: id.clone(), source, ..query("w") });
        found.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!([seqs(None), seqs(Some("y")), seqs(Some("z"))], [vec![1, 2, 3], vec![2], vec![]]);
    assert_sound(&*store);
}

fn the_scope_is_fixed_by_the_first_event(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &from("t", "1", "x", Scope::Topic));
    assert_eq!(append_one(&*store, &from("t", "1", "y", Scope::Source)).outcome, Duplicate);
    assert_eq!(all_topics(&*store)[0].scope, Scope::Topic);
}

fn seqs_are_dense_and_in_order(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for batch in 0..10 {
        let events: Vec<_> = (0..20).map(|n| event("t", &format!("{}", (batch * 15 + n) % 120))).collect();
        append(&*store, &events);
    }
    let events = read_all(&*store, query("t"));
    assert!(events.iter().map(|event| event.seq).eq(1..=120));
    assert!(events.iter().map(|event| event.event_id.clone()).eq((0..120).map(|n| n.to_string())));
    assert_sound(&*store);
}

fn topics_interleaved_in_a_batch_keep_their_orders(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let batch: Vec<_> = (0..60).map(|n| event(["c", "a", "b"][n % 3], &n.to_string())).collect();
    let receipts = append(&*store, &batch);
    let expected: Vec<_> = (0..60).map(|n| n / 3 + 1).collect();
    assert_eq!(seqs(&receipts), expected);
    for (topic, offset) in [("c", 0), ("a", 1), ("b", 2)] {
        let expected: Vec<_> = (0..20).map(|n| (n * 3 + offset).to_string()).collect();
        assert_eq!(ids(&read_all(&*store, query(topic))), expected);
    }
    assert_sound(&*store);
}

fn one_topic_too_many_fails_the_batch_whole(backend: &dyn Backend) {
    let store = backend.open(CaseOptions { max_topics: 2, ..CaseOptions::default() });
    // One topic, three times, so that all lie in one partition whatever their number.
    let of = |topic: &str, id: &str| event(topic, id);
    let topics: Vec<_> = topics_of_one_shard(&*store).take(3).collect();
    append(&*store, &[of(&topics[0], "1"), of(&topics[1], "1")]);
    let error = store.append_one(&of(&topics[2], "1")).unwrap_err();
    let StoreError::Invalid(faults) = &error else { panic!("{error}") };
    assert_eq!((faults[0].index, faults[0].error.field), (Some(0), "topic"));
    assert!(!error.is_retryable());

    let partition = store.partitions().of("t1");
    let same_partition = (0..).map(|n| format!("new-{n}")).find(|t| store.partitions().of(t) == partition);
    let batch = [of("t1", "2"), of(&same_partition.unwrap(), "1"), of("t1", "3")];
    let views: Vec<_> = batch.iter().map(Event::view).collect();
    let error = store.append(partition, AttemptId::new(), &views).unwrap_err();
    let StoreError::Invalid(faults) = &error else { panic!("{error}") };
    assert_eq!(faults.iter().map(|fault| fault.index).collect::<Vec<_>>(), [Some(1)]);
    assert_eq!(totals(&*store), stats(2, 0, 0, 2));
    assert_eq!(append_one(&*store, &of("t1", "2")).seq, Some(2), "known topics go on");
    assert_sound(&*store);
}

fn a_topic_of_another_partition_is_refused(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let one = event("t", "1");
    let count = store.partitions().count();
    let wrong = if count == 1 { 1 } else { (store.partitions().of("t").0 + 1) % count };
    let error = store.append(Partition(wrong), AttemptId::new(), &[one.view()]).unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert_eq!(store.stats().unwrap().stored, 0);
}

fn processed_at_never_goes_back(backend: &dyn Backend) {
    let now = Arc::new(AtomicI64::new(1_000));
    let clock = { Arc::clone(&now) };
    let store = backend.open(CaseOptions {
        clock: Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst))),
        ..CaseOptions::default()
    });
    let mut stored_at = Vec::new();
    for (id, micros) in [("1", 1_000), ("2", 500), ("3", -7), ("4", 1_001), ("5", 1_000)] {
        now.store(micros, Ordering::SeqCst);
        stored_at.push(append_one(&*store, &event("t", id)).processed_at.as_micros());
    }
    assert_eq!(stored_at, [1_000, 1_000, 1_000, 1_001, 1_001]);
}

fn one_append_has_one_processed_at(backend: &dyn Backend) {
    let ticks = AtomicI64::new(0);
    let store = backend.open(CaseOptions {
        clock: Arc::new(move || Timestamp::from_micros(ticks.fetch_add(1, Ordering::SeqCst))),
        ..CaseOptions::default()
    });
    let batch: Vec<_> = (0..10).map(|n| event("t", &n.to_string())).collect();
    let receipts = append(&*store, &batch);
    assert!(receipts.iter().all(|receipt| receipt.processed_at == receipts[0].processed_at));
}

fn racing_publishers_store_each_event_once(backend: &dyn Backend) {
    const PUBLISHERS: usize = 8;
    const EVENTS: usize = 200;
    let store = backend.open(CaseOptions::default());
    let stored = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (store, stored) = (&store, &stored);
            scope.spawn(move || {
                for batch in 0..EVENTS / 10 {
                    // Everybody sends everything, each starting somewhere else.
                    let at = |n: usize| (batch * 10 + n + publisher * 25) % EVENTS;
                    let events: Vec<_> =
                        (0..10).map(|n| event(["r", "s"][at(n) % 2], &at(n).to_string())).collect();
                    let new = append(&**store, &events).iter().filter(|r| r.outcome == Stored).count();
                    stored.fetch_add(new as u64, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(stored.load(Ordering::SeqCst), EVENTS as u64);
    for topic in ["r", "s"] {
        let events = read_all(&*store, query(topic));
        assert!(events.iter().map(|event| event.seq).eq(1..=EVENTS as u64 / 2));
    }
    let repeats = (PUBLISHERS - 1) * EVENTS;
    assert_eq!(store.stats().unwrap().duplicates, repeats as u64);
    assert_sound(&*store);
}

fn stats(stored: u64, duplicates: u64, conflicts: u64, topics: u64) -> StoreStats {
    StoreStats { stored, duplicates, conflicts, topics, ..StoreStats::default() }
}

fn counters_say_what_happened(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(totals(&*store), stats(0, 0, 0, 0));
    append(&*store, &[event("a", "1"), event("b", "1"), event("a", "1"), with_payload("a", "1", "7")]);
    append(&*store, &[event("b", "2"), event("b", "2")]);
    assert_eq!(totals(&*store), stats(3, 3, 1, 2));
    assert!(store.stats().unwrap().bytes > 0);
    let topics = all_topics(&*store);
    let told: Vec<_> =
        topics.iter().map(|t| (t.topic.as_str(), t.last_seq, t.duplicates, t.conflicts)).collect();
    assert_eq!(told, [("a", 1, 2, 1), ("b", 2, 1, 0)]);
    assert_eq!(topics[0].slot, crate::event::slot("a"));
    assert_sound(&*store);
}

fn every_part_of_an_event_comes_back(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let sent = event("orders.eu", "ä'\"\\ 1")
        .with_timestamp("2026-01-31T23:59:59.123456789+05:30")
        .unwrap()
        .with_source("søurce/1")
        .unwrap()
        .with_payload(r#"{"big":123456789012345678901234567890,"nul":"\u0000","half":"\ud83d","n":-0.0}"#)
        .unwrap()
        .with_sequence(i64::MAX.cast_unsigned());
    let receipt = append_one(&*store, &sent);
    append(&*store, &[event("orders.eu", "2"), event("orders.us", "1")]);
    let view = sent.view();
    let stored = StoredEvent {
        topic: view.topic().to_owned(),
        event_id: view.event_id().to_owned(),
        timestamp: view.timestamp().to_owned(),
        source: view.source().to_owned(),
        payload: view.payload().to_owned(),
        sequence: view.sequence(),
        // An event by itself has none: see `attributes`.
        content_type: None,
        attributes: None,
        seq: receipt.seq.unwrap(),
        processed_at: receipt.processed_at,
        partition: store.partitions().of("orders.eu"),
        offset: 1,
    };
    assert_every_read_gives(&*store, &stored);
}
