//! Every backend, empty and filled: appending batches of 500 in which a fifth of the events are repeats, appending only
//! repeats, looking identities up, and reading a page.

use std::fmt;
use std::sync::Arc;

use aggregator_bench::{append, events};
use aggregator_core::{
    DedupStore, Event, EventId, Identity, MemoryStore, Partitions, Query, SqliteStore, Topic, TopicSelector,
};
use divan::Bencher;
use divan::counter::ItemsCount;
use tempfile::TempDir;

const EVENTS: usize = 20_000;
const BATCH: usize = 500;
const PAGE: usize = 1_000;

fn main() {
    divan::main();
}

#[derive(Debug, Clone, Copy)]
enum Backend {
    Memory { partitions: u16 },
    Sqlite,
}

/// A backend, and how many events it has before the bench.
#[derive(Debug, Clone, Copy)]
struct Case {
    backend: Backend,
    filled: usize,
}

const EMPTY: usize = 0;
const FULL: usize = 200_000;

const BACKENDS: [Backend; 3] =
    [Backend::Memory { partitions: 1 }, Backend::Memory { partitions: 4 }, Backend::Sqlite];

impl Case {
    fn all(filled: &[usize]) -> Vec<Self> {
        let with = |&filled: &usize| BACKENDS.map(|backend| Self { backend, filled });
        filled.iter().flat_map(with).collect()
    }

    fn open(self) -> Opened {
        let directory = TempDir::new().expect("there is a temporary directory");
        let store: Arc<dyn DedupStore> = match self.backend {
            Backend::Memory { partitions } => {
                let partitions = Partitions::new(partitions).expect("a store may have so many partitions");
                Arc::new(MemoryStore::new(partitions))
            }
            Backend::Sqlite => {
                let path = directory.path().join("events.db");
                Arc::new(SqliteStore::open(path).expect("a store can be made there"))
            }
        };
        let first = events(self.filled);
        append(&*store, &first, 5_000);
        Opened { store, first, _directory: directory }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, filled } = self;
        match backend {
            Backend::Memory { partitions } => write!(f, "memory:{partitions}, {filled} before"),
            Backend::Sqlite => write!(f, "sqlite, {filled} before"),
        }
    }
}

/// A store, the events it was filled with, and its directory, which is deleted with it.
struct Opened {
    store: Arc<dyn DedupStore>,
    first: Vec<Event>,
    _directory: TempDir,
}

/// A store is empty for one sample only, so each sample of an empty store has its own.
#[divan::bench(args = Case::all(&[EMPTY, FULL]), sample_count = 10, sample_size = 1)]
fn appending(bencher: Bencher<'_, '_>, case: Case) {
    let bencher = bencher.counter(ItemsCount::new(EVENTS * 5 / 4));
    if case.filled == EMPTY {
        bencher.with_inputs(|| (case.open(), events(EVENTS))).bench_local_values(|(opened, events)| {
            append(&*opened.store, &events, BATCH);
            opened
        });
        return;
    }
    let opened = case.open();
    bencher
        .with_inputs(|| events(EVENTS))
        .bench_local_values(|events| append(&*opened.store, &events, BATCH));
}

#[divan::bench(args = Case::all(&[FULL]), sample_count = 10, sample_size = 1)]
fn appending_repeats(bencher: Bencher<'_, '_>, case: Case) {
    let opened = case.open();
    let repeats = &opened.first[..EVENTS];
    bencher.counter(ItemsCount::new(EVENTS * 5 / 4)).bench_local(|| append(&*opened.store, repeats, BATCH));
}

/// Half of the ids are stored.
#[divan::bench(args = Case::all(&[FULL]))]
fn looking_up(bencher: Bencher<'_, '_>, case: Case) {
    let opened = case.open();
    let others = events(BATCH / 2);
    let ids: Vec<Identity> = opened.first[..BATCH / 2].iter().chain(&others).map(identity).collect();
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| opened.store.lookup(&ids).expect("a healthy store looks up"));
}

#[divan::bench(args = Case::all(&[FULL]))]
fn reading(bencher: Bencher<'_, '_>, case: Case) {
    let opened = case.open();
    let query = Query { limit: PAGE, ..Query::of(TopicSelector::All) };
    bencher
        .counter(ItemsCount::new(PAGE))
        .bench_local(|| opened.store.read(&query).expect("a healthy store reads"));
}

fn identity(event: &Event) -> Identity {
    let event = event.view();
    let topic = Topic::new(event.topic()).expect("an event's topic is good");
    let event_id = EventId::new(event.event_id()).expect("an event's id is good");
    Identity { topic, event_id, source: None }
}
