//! Commits are announced: in order, to all that listen at the time, whatever a callback does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{
    Backend, Case, CaseOptions, PATIENCE, append, append_one, assert_sound, await_that, cases, event, query,
    read_all,
};
use crate::Outcome::Stored;
use crate::{CommitListener, DedupStore, DedupStoreExt, Order, Partition, Query};

pub(super) const CASES: &[Case] = cases![
    commits_are_announced,
    racing_commits_are_announced_in_the_order_of_their_offsets,
    a_callback_that_runs_holds_up_no_other_append,
    inside_a_callback_the_store_can_be_read_appended_to_and_listened_to,
    nothing_is_announced_to_a_listener_that_was_dropped,
    a_listener_that_is_dropped_while_others_append_hears_of_no_later_commit,
    a_callback_that_panics_harms_nobody,
];

/// What a listener was told, in its order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(Partition, u64)>>>);

impl Told {
    fn listen(&self, store: &dyn DedupStore) -> CommitListener {
        let told = self.clone();
        store.on_commit(Box::new(move |partition, offset| told.note(partition, offset))).unwrap()
    }

    fn note(&self, partition: Partition, offset: u64) {
        self.0.lock().unwrap().push((partition, offset));
    }

    fn all(&self) -> Vec<(Partition, u64)> {
        self.0.lock().unwrap().clone()
    }

    /// Waits, because another thread than the one that appended may call the listener.
    fn await_all(&self, expected: &[(Partition, u64)]) {
        await_that(&format!("{expected:?}"), || self.all().len() >= expected.len());
        assert_eq!(self.all(), expected);
    }

    fn await_offsets(&self, expected: &[u64]) {
        await_that(&format!("{expected:?}"), || self.all().len() >= expected.len());
        assert_eq!(self.offsets(), expected);
    }

    fn offsets(&self) -> Vec<u64> {
        self.all().into_iter().map(|(_, offset)| offset).collect()
    }
}

fn commits_are_announced(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let told = Told::default();
    let _listener = told.listen(&*store);
    append(&*store, &[event("t", "1"), event("t", "2")]);
    append_one(&*store, &event("t", "1"));
    append_one(&*store, &event("t", "3"));
    let partition = store.partitions().of("t");
    told.await_all(&[(partition, 2), (partition, 3)]);
}

fn racing_commits_are_announced_in_the_order_of_their_offsets(backend: &dyn Backend) {
    const APPENDERS: u64 = 4;
    const APPENDS: u64 = 60;
    let store = backend.open(CaseOptions::default());
    let told = Told::default();
    let _listener = {
        let told = told.clone();
        store
            .on_commit(Box::new(move |partition, offset| {
                // Long enough for others to commit meanwhile.
                thread::sleep(Duration::from_micros(200));
                told.note(partition, offset);
            }))
            .unwrap()
    };
    thread::scope(|scope| {
        for appender in 0..APPENDERS {
            let store = &store;
            scope.spawn(move || {
                for n in 0..APPENDS {
                    append_one(
                        &**store,
                        &event(if n % 2 == 0 { "a" } else { "b" }, &format!("{appender}-{n}")),
                    );
                }
            });
        }
    });
    let mut ends = BTreeMap::<_, u64>::new();
    for topic in ["a", "b"] {
        *ends.entry(store.partitions().of(topic)).or_default() += APPENDERS * APPENDS / 2;
    }
    // Another thread may still be telling of the last one.
    await_that("the last commits are told of", || told.all().into_iter().collect::<BTreeMap<_, _>>() == ends);
    for partition in ends.into_keys() {
        let of_it: Vec<_> = told.all().into_iter().filter(|told| told.0 == partition).collect();
        assert!(of_it.is_sorted_by(|before, after| before.1 < after.1), "an offset went back: {of_it:?}");
    }
}

fn a_callback_that_runs_holds_up_no_other_append(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let (entered, is_inside) = channel();
    let (let_go, gate) = channel::<()>();
    let (told, gate) = (Told::default(), Mutex::new(Some(gate)));
    let _listener = {
        let told = told.clone();
        store
            .on_commit(Box::new(move |partition, offset| {
                if let Some(gate) = gate.lock().unwrap().take() {
                    entered.send(()).unwrap();
                    gate.recv_timeout(PATIENCE).unwrap();
                }
                told.note(partition, offset);
            }))
            .unwrap()
    };
    let first = {
        let store = Arc::clone(&store);
        thread::spawn(move || append_one(&*store, &event("t", "1")))
    };
    is_inside.recv_timeout(PATIENCE).unwrap();
    let second = append_one(&*store, &event("t", "2"));
    assert_eq!((second.outcome, second.seq), (Stored, Some(2)));
    assert_eq!(told.offsets(), [0; 0], "the first callback is still running");
    let_go.send(()).unwrap();
    first.join().unwrap();
    told.await_offsets(&[1, 2]);
}

fn inside_a_callback_the_store_can_be_read_appended_to_and_listened_to(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let (outer, inner) = (Told::default(), Told::default());
    let listeners = Arc::new(Mutex::new(Vec::new()));
    let callback = {
        let (weak, outer, inner) = (Arc::downgrade(&store), outer.clone(), inner.clone());
        let listeners = Arc::clone(&listeners);
        move |partition, offset| {
            outer.note(partition, offset);
            let store = weak.upgrade().unwrap();
            assert_eq!(read_all(&*store, query("t")).len() as u64, offset, "what is announced can be read");
            if offset == 1 {
                let listener = inner.listen(&*store);
                listeners.lock().unwrap().push(listener);
                append_one(&*store, &event("t", "2"));
            } else {
                let own = listeners.lock().unwrap().remove(0);
                drop(own);
            }
        }
    };
    let listener = store.on_commit(Box::new(callback)).unwrap();
    listeners.lock().unwrap().push(listener);
    let appended = {
        let (store, (done, appended)) = (Arc::clone(&store), channel());
        thread::spawn(move || {
            append_one(&*store, &event("t", "1"));
            done.send(()).unwrap();
        });
        appended
    };
    appended.recv_timeout(PATIENCE).expect("a callback deadlocked");
    outer.await_offsets(&[1, 2]);
    inner.await_offsets(&[2]);
    append_one(&*store, &event("t", "3"));
    inner.await_offsets(&[2, 3]);
    outer.await_offsets(&[1, 2]);
}

fn nothing_is_announced_to_a_listener_that_was_dropped(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let (stays, goes) = (Told::default(), Told::default());
    let going = goes.listen(&*store);
    let _staying = stays.listen(&*store);
    append_one(&*store, &event("t", "1"));
    goes.await_offsets(&[1]);
    drop(going);
    append_one(&*store, &event("t", "2"));
    stays.await_offsets(&[1, 2]);
    goes.await_offsets(&[1]);
    let _again = goes.listen(&*store);
    append_one(&*store, &event("t", "3"));
    stays.await_offsets(&[1, 2, 3]);
    goes.await_offsets(&[1, 3]);
}

fn a_listener_that_is_dropped_while_others_append_hears_of_no_later_commit(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    let newest = || {
        let query = Query { order: Order::Descending, limit: 1, ..query("t") };
        store.read(&query).unwrap().events.first().map_or(0, |event| event.offset)
    };
    let heard: Vec<(Told, u64)> = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let id = next.fetch_add(1, Ordering::SeqCst);
                    append_one(&*store, &event("t", &id.to_string()));
                }
            });
        }
        let come_and_go = || {
            let told = Told::default();
            let listener = told.listen(&*store);
            let until = Instant::now() + PATIENCE;
            while told.all().is_empty() && Instant::now() < until {
                thread::yield_now();
            }
            drop(listener);
            (told, newest())
        };
        let heard = (0..10).map(|_| come_and_go()).collect();
        stop.store(true, Ordering::SeqCst);
        heard
    });
    for (told, newest) in heard {
        let offsets = told.offsets();
        assert!(
            !offsets.is_empty() && offsets.iter().all(|&offset| offset <= newest),
            "{newest}: {offsets:?}"
        );
    }
}

fn a_callback_that_panics_harms_nobody(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let (calls, told) = (Arc::new(AtomicU64::new(0)), Told::default());
    let _panics = {
        let calls = Arc::clone(&calls);
        store
            .on_commit(Box::new(move |_, _| {
                calls.fetch_add(1, Ordering::SeqCst);
                panic!("as planned");
            }))
            .unwrap()
    };
    let _listener = told.listen(&*store);
    for (id, seq) in [("1", 1), ("2", 2)] {
        let receipt = append_one(&*store, &event("t", id));
        assert_eq!((receipt.outcome, receipt.seq), (Stored, Some(seq)));
    }
    told.await_offsets(&[1, 2]);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_sound(&*store);
}
