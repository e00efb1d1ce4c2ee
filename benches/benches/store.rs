//! Appending to an empty store and to a filled one: batches of 500, a fifth of the deliveries repeats.

use std::sync::Arc;

use aggregator_bench::{append, events};
use aggregator_core::{DedupStore, MemoryStore, SqliteStore};
use divan::Bencher;
use divan::counter::ItemsCount;
use tempfile::TempDir;

const EVENTS: usize = 20_000;
const BATCH: usize = 500;

fn main() {
    divan::main();
}

/// How many events are in the store before.
const FILLED: [usize; 2] = [0, 200_000];

#[divan::bench(args = FILLED, sample_count = 10)]
fn memory(bencher: Bencher<'_, '_>, filled: usize) {
    bench(bencher, filled, || (None, Arc::new(MemoryStore::default())));
}

#[divan::bench(args = FILLED, sample_count = 10)]
fn sqlite(bencher: Bencher<'_, '_>, filled: usize) {
    bench(bencher, filled, || {
        let directory = TempDir::new().expect("there is a temporary directory");
        let store = SqliteStore::open(directory.path().join("events.db")).expect("a store can be made there");
        (Some(directory), Arc::new(store))
    });
}

fn bench(bencher: Bencher<'_, '_>, filled: usize, open: impl Fn() -> (Option<TempDir>, Arc<dyn DedupStore>)) {
    let (_directory, store) = open();
    append(&*store, &events(filled), 5_000);
    bencher
        .counter(ItemsCount::new(EVENTS * 5 / 4))
        .with_inputs(|| events(EVENTS))
        .bench_local_values(|events| append(&*store, &events, BATCH));
}
