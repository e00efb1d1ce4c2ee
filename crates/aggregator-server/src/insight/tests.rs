//! Counting, keeping and taking over.

use aggregator_core::store::{Record, RecordOutcome, RecordWrite, Records};
use aggregator_core::{DedupStore as _, Event, MemoryStore, Outcome, Receipt, StoreError, Timestamp};

use super::Observed;
use super::records::{Keeper, Kept};
use super::series::{Sample, Step};

const SECOND: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000 * SECOND + second * SECOND)
}

fn observed() -> Observed {
    Observed::new(10, at(0))
}

/// The event of this number from a source, as it came out.
fn deliver(observed: &mut Observed, number: u64, outcome: Outcome) {
    let event = Event::new("t", number.to_string()).unwrap().with_sequence(number);
    let receipt = Receipt::new(outcome, Some(number), at(0));
    observed.observe([event.view()].into_iter(), &[receipt], at(200));
    let sample = Sample { stored: u64::from(outcome == Outcome::Stored), ..Sample::default() };
    observed.series.happened(at(200).as_micros() / SECOND, &sample);
}

fn deliver_all(observed: &mut Observed) {
    (1..=5).for_each(|number| deliver(observed, number, Outcome::Stored));
    deliver(observed, 2, Outcome::Duplicate);
    deliver(observed, 9, Outcome::Stored);
    deliver(observed, 3, Outcome::Conflict);
}

/// Stored, duplicates, conflicts, missing, the newest repeats, and what a minute of the series has stored.
fn figures(observed: &Observed) -> (u64, u64, u64, u64, usize, u64) {
    let snapshot = observed.snapshot();
    let [stream] = snapshot.streams.as_slice() else { panic!("one stream: {:?}", snapshot.streams) };
    let counts = &stream.counts;
    let minute = snapshot.series.buckets(Step::Minute).values().map(|sample| sample.stored).sum();
    let missing = stream.sequence.as_ref().unwrap().missing();
    (counts.stored, counts.duplicates, counts.conflicts, missing, snapshot.latest.len(), minute)
}

fn begin(records: &dyn Records, shared: bool) -> (Keeper, Observed) {
    let mut observed = observed();
    let (keeper, taken_over) = Keeper::begin(records, shared, 10).unwrap();
    if let Some(taken_over) = taken_over {
        observed.add(&taken_over, false);
    }
    (keeper, observed)
}

fn keep(keeper: &mut Keeper, records: &dyn Records, observed: &Observed, shared: bool, ended: bool) -> Kept {
    keeper.keep(records, shared, observed.snapshot(), ended).unwrap()
}

#[test]
fn repeats_are_counted_by_how_late_they_came() {
    let mut observed = observed();
    deliver_all(&mut observed);
    assert_eq!(figures(&observed), (6, 1, 1, 3, 2, 6));
    let json = serde_json::to_value(observed.snapshot().streams[0].counts.lateness.let_through()).unwrap();
    assert_eq!((&json[0]["window_seconds"], &json[0]["repeats"]), (&120.into(), &2.into()));
    assert_eq!((&json[1]["window_seconds"], &json[1]["repeats"]), (&300.into(), &0.into()));
}

#[test]
fn a_restart_goes_on_counting() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let (mut first, mut observed) = begin(records, false);
    deliver_all(&mut observed);
    assert_eq!(keep(&mut first, records, &observed, false, true), Kept::Yes);

    let (mut second, mut observed) = begin(records, false);
    assert_eq!(figures(&observed), (6, 1, 1, 3, 2, 6));
    assert_eq!(observed.snapshot().most_repeated.len(), 2);
    deliver(&mut observed, 6, Outcome::Stored);
    deliver(&mut observed, 11, Outcome::Stored);
    assert_eq!(keep(&mut second, records, &observed, false, true), Kept::Yes);

    let (third, observed) = begin(records, false);
    assert_eq!(figures(&observed), (8, 1, 1, 3, 2, 8));
    // What was taken over is there once.
    let left = records.list("insight", "", None, 1_000).unwrap();
    assert!(left.iter().all(|record| record.name.starts_with(third.node())), "{left:?}");
}

/// Records whose writes fail.
struct Unwritable<'r>(&'r dyn Records);

impl Records for Unwritable<'_> {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Record>, StoreError> {
        self.0.get(kind, name)
    }
    fn list(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.0.list(kind, prefix, after, limit)
    }
    fn write(&self, _: &[RecordWrite]) -> Result<RecordOutcome, StoreError> {
        Err(StoreError::unavailable("as planned"))
    }
    fn now(&self) -> Result<Timestamp, StoreError> {
        self.0.now()
    }
}

#[test]
fn what_cannot_be_taken_over_is_there_for_the_next_start_and_counted_once() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let (mut first, mut observed) = begin(records, false);
    deliver_all(&mut observed);
    assert_eq!(keep(&mut first, records, &observed, false, true), Kept::Yes);
    assert!(Keeper::begin(&Unwritable(records), false, 10).is_err());
    let (_, again) = begin(records, false);
    assert_eq!(figures(&again), figures(&observed));
}

#[test]
fn what_a_crash_did_not_keep_is_not_missing() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let (mut first, mut observed) = begin(records, false);
    [1, 2, 4].into_iter().for_each(|number| deliver(&mut observed, number, Outcome::Stored));
    assert_eq!(keep(&mut first, records, &observed, false, false), Kept::Yes);
    // Then come 5, 6 and 7, and it is killed.
    let (_, mut observed) = begin(records, false);
    [8, 10].into_iter().for_each(|number| deliver(&mut observed, number, Outcome::Stored));
    assert_eq!(figures(&observed).3, 2, "3 and 9");
}

#[test]
fn what_has_not_changed_is_not_written() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let (mut keeper, mut observed) = begin(records, false);
    deliver_all(&mut observed);
    let versions = |records: &dyn Records| {
        let all = records.list("insight", "", None, 1_000).unwrap();
        all.into_iter().map(|record| (record.name, record.version)).collect::<Vec<_>>()
    };
    assert_eq!(keep(&mut keeper, records, &observed, false, false), Kept::Yes);
    let before = versions(records);
    assert_eq!(keep(&mut keeper, records, &observed, false, false), Kept::Yes);
    assert_eq!(versions(records), before);
    deliver(&mut observed, 12, Outcome::Stored);
    assert_eq!(keep(&mut keeper, records, &observed, false, false), Kept::Yes);
    let changed = versions(records).iter().zip(&before).filter(|(now, before)| now != before).count();
    assert_eq!(changed, 3, "the stream, its minute and its hour");
    // A day later the minute is forgotten.
    observed.series.forget(at(200).as_micros() / SECOND + 90_000);
    assert_eq!(keep(&mut keeper, records, &observed, false, false), Kept::Yes);
    assert_eq!(versions(records).len(), before.len() - 1);
}

#[test]
fn nodes_that_live_are_added_up_and_not_taken_over() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let (mut one, mut observed) = begin(records, true);
    [1, 3, 4].into_iter().for_each(|number| deliver(&mut observed, number, Outcome::Stored));
    assert_eq!(keep(&mut one, records, &observed, true, false), Kept::Yes);

    let (mut other, mut of_other) = begin(records, true);
    assert!(of_other.snapshot().is_empty());
    [2, 6].into_iter().for_each(|number| deliver(&mut of_other, number, Outcome::Stored));
    assert_eq!(keep(&mut other, records, &of_other, true, false), Kept::Yes);
    let others = Keeper::others(other.node(), records).unwrap();
    assert_eq!(others.len(), 1);
    of_other.add(&others[0], false);
    assert_eq!(figures(&of_other), (5, 0, 0, 1, 0, 5), "5 is missing at both");

    // It ends, and another one goes on where it was.
    assert_eq!(keep(&mut one, records, &observed, true, true), Kept::Yes);
    let (_, taken_over) = begin(records, true);
    assert_eq!(figures(&taken_over), (3, 0, 0, 1, 0, 3));
}

#[test]
fn a_node_that_was_taken_for_dead_counts_nothing_twice() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let (mut one, mut observed) = begin(records, false);
    deliver_all(&mut observed);
    assert_eq!(keep(&mut one, records, &observed, false, false), Kept::Yes);
    let (_other, taken_over) = begin(records, false);
    assert_eq!(figures(&taken_over), figures(&observed));
    deliver(&mut observed, 20, Outcome::Stored);
    assert_eq!(keep(&mut one, records, &observed, false, false), Kept::TakenOver);
}

#[test]
fn the_longest_names_fit_into_the_records() {
    let store = MemoryStore::default();
    let records = store.records().unwrap();
    let capacity = super::MAX_STREAMS.into();
    let mut observed = Observed::new(capacity, at(0));
    let receipt = Receipt::new(Outcome::Conflict, Some(1), at(0));
    for n in 0..1_251 {
        let (topic, id, source) = (format!("{n:0>255}"), "\"".repeat(256), format!("{n:\"<1024}"));
        let event = Event::new(topic, id).unwrap().with_source(source).unwrap();
        observed.observe([event.view()].into_iter(), &[receipt], at(n));
    }
    for minute in 0..31 * 24 * 60 {
        let sample = Sample { stored: u64::MAX >> 20, ..Sample::default() };
        observed.series.happened(minute * 60, &sample);
    }
    let (mut keeper, _) = begin(records, false);
    assert_eq!(keep(&mut keeper, records, &observed, false, false), Kept::Yes);
    let (_, taken_over) = Keeper::begin(records, false, capacity).unwrap();
    let (before, after) = (observed.snapshot(), taken_over.unwrap());
    assert_eq!(after.streams.len(), before.streams.len());
    assert_eq!(after.series.buckets(Step::Minute), before.series.buckets(Step::Minute));
    assert!(!after.latest.is_empty() && after.latest.len() <= before.latest.len());
}
