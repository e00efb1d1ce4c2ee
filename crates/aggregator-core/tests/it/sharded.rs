//! One store of several shards: which ones it takes, and what a failure of one of them means for the others.

mod cursors;
mod failures;
mod membership;
mod parts;
mod removals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::store::sharded::NamedStore;
use aggregator_core::{
    DedupStore, DedupStoreExt as _, Event, MemoryStore, Outcome, Partition, Partitions, Query, Sharded,
    StoreError, Topic,
};

/// An empty store in memory.
fn memory() -> Arc<dyn DedupStore> {
    Arc::new(MemoryStore::new(Partitions::new(2).unwrap()).with_a_commit_per_partition())
}

fn open(shards: &[Arc<dyn DedupStore>]) -> Result<Sharded, StoreError> {
    let name = |(index, store): (usize, &Arc<dyn DedupStore>)| {
        NamedStore::new(format!("place {index}"), Arc::clone(store))
    };
    Sharded::open(shards.iter().enumerate().map(name).collect())
}

/// Shards that fail when they are told to, and the whole.
fn faulty(shards: usize) -> (Vec<Arc<FaultyStore>>, Sharded) {
    let faulty: Vec<_> = (0..shards).map(|_| Arc::new(FaultyStore::new(memory()))).collect();
    let stores: Vec<_> = faulty.iter().map(|store| Arc::clone(store) as Arc<dyn DedupStore>).collect();
    let whole = open(&stores).unwrap();
    (faulty, whole)
}

/// A topic of a shard with two partitions.
fn topic_of(store: &Sharded, shard: u16) -> String {
    let is_there = |topic: &String| store.partitions().of(topic).0 / 2 == shard;
    (0..).map(|n| format!("t{n}")).find(is_there).unwrap()
}

/// A topic of each partition of a shard with two.
fn topics_of(store: &Sharded, shard: u16) -> [String; 2] {
    let is_in = |topic: &String, partition| store.partitions().of(topic) == partition;
    partitions_of(shard).map(|p| (0..).map(|n| format!("t{n}")).find(|topic| is_in(topic, p)).unwrap())
}

fn event(topic: &str, id: u64) -> Event {
    Event::new(topic, id.to_string()).unwrap()
}

/// As the whole numbers them.
fn partitions_of(shard: u16) -> [Partition; 2] {
    [Partition(shard * 2), Partition(shard * 2 + 1)]
}

/// Why the event is not taken now.
fn fails(store: &Sharded, topic: &str, id: u64) -> String {
    match store.append_one(&event(topic, id)) {
        Err(error @ StoreError::Unavailable { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn stored(store: &Sharded, topic: &str, id: u64) {
    assert_eq!(store.append_one(&event(topic, id)).unwrap().outcome, Outcome::Stored);
}

/// Tries until the shard is asked again.
fn await_stored(store: &Sharded, topic: &str, id: u64) {
    await_that("it is stored", || store.append_one(&event(topic, id)).is_ok());
}

fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn count(store: &Sharded, topic: &str) -> usize {
    store.read(&Query::topic(Topic::new(topic).unwrap())).unwrap().events.len()
}
