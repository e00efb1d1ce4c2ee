//! Many threads over the same records: each version has one winner.

use std::sync::{Arc, Barrier};
use std::thread;

use super::super::{Backend, Case, CaseOptions, assert_sound, cases};
use super::{KIND, all, create, get, records, write_one, written};
use crate::store::records::{Record, RecordOutcome, RecordWrite, StaleRecord};
use crate::{DedupStore, Event};

pub(in crate::store::conformance) const CASES: &[Case] = cases![
    of_writers_that_expect_the_same_version_exactly_one_wins,
    a_counter_that_many_threads_raise_ends_at_the_exact_sum,
    writers_of_different_records_do_not_disturb_each_other,
    a_write_of_two_records_is_never_read_by_halves,
];

const THREADS: usize = 8;

/// Does the same on many threads, each of which knows its number, and gathers what they return.
fn on_threads<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}

fn value_of(record: &Record) -> u64 {
    String::from_utf8_lossy(&record.value).parse().expect("a number was written")
}

fn of_writers_that_expect_the_same_version_exactly_one_wins(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let barrier = Barrier::new(THREADS);
    for round in 0..20 {
        let was = get(&*store, "a");
        let outcomes = on_threads(|number| {
            let value = format!("{round}{number}");
            let write = match &was {
                Some(record) => RecordWrite::update(record, &*value),
                None => create("a", &value),
            };
            barrier.wait();
            records(&*store).write(&[write]).unwrap()
        });
        let is = get(&*store, "a").expect("somebody has won");
        let mut winners = 0;
        for (number, outcome) in outcomes.into_iter().enumerate() {
            if outcome == RecordOutcome::Written(vec![is.version]) {
                winners += 1;
                assert_eq!(is.value, format!("{round}{number}").into_bytes(), "it is the winner's value");
            } else {
                let version = Some(is.version);
                assert_eq!(outcome, RecordOutcome::Stale(vec![StaleRecord { index: 0, version }]));
            }
        }
        assert_eq!(winners, 1);
        if round % 5 == 4 {
            write_one(&*store, RecordWrite::delete(&is));
        }
    }
    assert_sound(&*store);
}

fn a_counter_that_many_threads_raise_ends_at_the_exact_sum(backend: &dyn Backend) {
    const TIMES: u64 = 25;
    let store = backend.open(CaseOptions::default());
    write_one(&*store, create("counter", "0"));
    on_threads(|_| {
        for _ in 0..TIMES {
            loop {
                let record = get(&*store, "counter").unwrap();
                let raised = RecordWrite::update(&record, (value_of(&record) + 1).to_string());
                match records(&*store).write(&[raised]).unwrap() {
                    RecordOutcome::Written(versions) => {
                        assert!(versions[0] > record.version);
                        // A read after a write sees it or a later one.
                        assert!(get(&*store, "counter").unwrap().version >= versions[0]);
                        break;
                    }
                    RecordOutcome::Stale(stale) => {
                        assert!(stale[0].version > Some(record.version), "{stale:?} after {record:?}");
                    }
                }
            }
        }
    });
    assert_eq!(value_of(&get(&*store, "counter").unwrap()), TIMES * THREADS as u64);
    assert_sound(&*store);
}

/// Half of the threads write what is theirs, a quarter are always refused, and a quarter append events.
fn writers_of_different_records_do_not_disturb_each_other(backend: &dyn Backend) {
    const TIMES: usize = 20;
    let store = backend.open(CaseOptions::default());
    let taken = write_one(&*store, create("taken", "1"));
    let event = |number: usize, n: usize| Event::new("t", format!("{number}-{n}")).unwrap();
    let last = on_threads(|number| {
        let mut mine: Option<Record> = None;
        for n in 0..TIMES {
            match number % 4 {
                0 => {
                    // With one of its own that nothing stands in the way of: that is not written either.
                    let own = create(&format!("never-{number}"), "1");
                    let outcome = records(&*store).write(&[own, create("taken", "2")]).unwrap();
                    let version = Some(taken);
                    assert_eq!(outcome, RecordOutcome::Stale(vec![StaleRecord { index: 1, version }]));
                }
                1 => {
                    use crate::DedupStoreExt as _;
                    store.append_one(&event(number, n)).unwrap();
                }
                _ => {
                    let name = format!("mine-{number}");
                    let value = format!("{number} {n}");
                    let write = match &mine {
                        Some(record) => RecordWrite::update(record, &*value),
                        None => create(&name, &value),
                    };
                    let version = write_one(&*store, write);
                    let read = get(&*store, &name);
                    mine = Some(Record::new(KIND, name, version, value));
                    assert_eq!(read, mine);
                }
            }
        }
        mine
    });
    let mut expected: Vec<Record> = last.into_iter().flatten().collect();
    expected.push(Record::new(KIND, "taken", taken, "1"));
    assert_eq!(all(&*store, KIND), expected);
    assert_sound(&*store);
}

fn a_write_of_two_records_is_never_read_by_halves(backend: &dyn Backend) {
    let store: Arc<dyn DedupStore> = backend.open(CaseOptions::default());
    written(&*store, &[create("a", "0"), create("b", "0")]);
    on_threads(|number| {
        for _ in 0..20 {
            let listed = records(&*store).list(KIND, "", None, 10).unwrap();
            let [a, b] = &listed[..] else { panic!("two were written: {listed:?}") };
            assert_eq!(a.value, b.value);
            if number % 2 == 0 {
                let next = (value_of(a) + 1).to_string();
                let writes = [RecordWrite::update(a, &*next), RecordWrite::update(b, &*next)];
                // If another thread has won, it has won both records.
                if let RecordOutcome::Stale(stale) = records(&*store).write(&writes).unwrap() {
                    assert_eq!(stale.len(), 2);
                }
            }
        }
    });
    assert_sound(&*store);
}
