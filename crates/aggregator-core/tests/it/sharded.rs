//! One store of several shards: which ones it takes, and what a failure of one of them means for the others.

mod cursors;
mod failures;
mod membership;

use std::sync::Arc;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::store::sharded::NamedStore;
use aggregator_core::{DedupStore, Event, MemoryStore, Partition, Partitions, Sharded, StoreError};

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

fn event(topic: &str, id: u64) -> Event {
    Event::new(topic, id.to_string()).unwrap()
}

/// As the whole numbers them.
fn partitions_of(shard: u16) -> [Partition; 2] {
    [Partition(shard * 2), Partition(shard * 2 + 1)]
}
