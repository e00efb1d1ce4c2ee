//! Every backend runs the one suite.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aggregator_core::store::conformance::{Backend, Capability, CaseOptions, run_all};
use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::store::sharded::NamedStore;
use aggregator_core::store::{IndexOptions, TestHooks};
use aggregator_core::{DedupStore, MemoryStore, Partitions, Sharded, SqliteOptions, SqliteStore, StoreId};
use tempfile::TempDir;

fn memory(partitions: u16, options: CaseOptions) -> MemoryStore {
    let store = MemoryStore::new(Partitions::new(partitions).unwrap());
    store.with_clock(options.clock).with_max_topics(options.max_topics)
}

struct Memory(u16);

impl Backend for Memory {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        Arc::new(memory(self.0, options))
    }

    fn reopen(&self, _store: Arc<dyn DedupStore>, _options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        None
    }
}

/// What fails on purpose is a store like others as long as no failure is planned; this one commits by partition.
struct Faulty;

impl Backend for Faulty {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        Arc::new(FaultyStore::new(Arc::new(memory(4, options).with_a_commit_per_partition())))
    }

    fn reopen(&self, _store: Arc<dyn DedupStore>, _options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        None
    }

    fn lacks(&self) -> &[Capability] {
        &[Capability::Across]
    }
}

struct Sqlite {
    directory: TempDir,
    paths: Mutex<HashMap<StoreId, PathBuf>>,
    index: IndexOptions,
    fingerprint_bits: u32,
    max_unfolded: u32,
}

impl Sqlite {
    fn new(index: IndexOptions, fingerprint_bits: u32) -> Self {
        let max_unfolded = SqliteOptions::default().max_unfolded;
        Self {
            directory: TempDir::new().unwrap(),
            paths: Mutex::default(),
            index,
            fingerprint_bits,
            max_unfolded,
        }
    }

    /// With so few spans in the journal that they are folded, and its rows deleted, all the time.
    fn folding(self, max_unfolded: u32) -> Self {
        Self { max_unfolded, ..self }
    }

    fn open_at(&self, path: PathBuf, options: CaseOptions) -> Arc<dyn DedupStore> {
        let options = SqliteOptions {
            clock: options.clock,
            max_topics: options.max_topics,
            index: self.index,
            max_unfolded: self.max_unfolded,
            test_hooks: TestHooks { fingerprint_bits: self.fingerprint_bits, ..TestHooks::default() }.into(),
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open_with(&path, options).unwrap();
        self.paths.lock().unwrap().insert(store.info().id, path);
        Arc::new(store)
    }
}

impl Backend for Sqlite {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        let number = self.paths.lock().unwrap().len();
        self.open_at(self.directory.path().join(format!("{number}.db")), options)
    }

    fn reopen(&self, store: Arc<dyn DedupStore>, options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        let path = self.paths.lock().unwrap()[&store.info().id].clone();
        assert_eq!(Arc::strong_count(&store), 1, "the case kept a handle");
        drop(store);
        Some(self.open_at(path, options))
    }

    fn lacks(&self) -> &[Capability] {
        &[Capability::Across]
    }
}

/// Shards in memory, with so many partitions each.
struct MemoryShards {
    shards: u16,
    partitions: u16,
}

impl Backend for MemoryShards {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        let shard = |index| {
            NamedStore::new(format!("memory {index}"), Arc::new(memory(self.partitions, options.clone())))
        };
        Arc::new(Sharded::open((0..self.shards).map(shard).collect()).unwrap())
    }

    fn reopen(&self, _store: Arc<dyn DedupStore>, _options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        None
    }

    fn lacks(&self) -> &[Capability] {
        &[Capability::Across]
    }
}

/// Files of one store.
struct SqliteShards {
    files: Sqlite,
    shards: u16,
    directories: Mutex<HashMap<StoreId, PathBuf>>,
}

impl SqliteShards {
    fn open_in(&self, directory: PathBuf, options: &CaseOptions) -> Arc<dyn DedupStore> {
        let shard = |index| {
            let path = directory.join(format!("shard-{index}.db"));
            NamedStore::new(path.display().to_string(), self.files.open_at(path, options.clone()))
        };
        let store = Sharded::open((0..self.shards).map(shard).collect()).unwrap();
        self.directories.lock().unwrap().insert(store.info().id, directory);
        Arc::new(store)
    }
}

impl Backend for SqliteShards {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        let number = self.directories.lock().unwrap().len();
        self.open_in(self.files.directory.path().join(number.to_string()), &options)
    }

    fn reopen(&self, store: Arc<dyn DedupStore>, options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        let directory = self.directories.lock().unwrap()[&store.info().id].clone();
        assert_eq!(Arc::strong_count(&store), 1, "the case kept a handle");
        drop(store);
        Some(self.open_in(directory, &options))
    }

    fn lacks(&self) -> &[Capability] {
        &[Capability::Across]
    }

    fn model_runs(&self) -> u32 {
        64
    }
}

#[test]
fn shards_in_memory_keep_the_contract() {
    run_all(&MemoryShards { shards: 2, partitions: 1 });
}

#[test]
fn shards_in_memory_with_several_partitions_keep_the_contract() {
    run_all(&MemoryShards { shards: 3, partitions: 2 });
}

#[test]
fn shards_in_sqlite_files_keep_the_contract() {
    let files = Sqlite::new(TINY, 48).folding(2);
    run_all(&SqliteShards { files, shards: 2, directories: Mutex::default() });
}

#[test]
fn memory_with_one_partition_keeps_the_contract() {
    run_all(&Memory(1));
}

#[test]
fn memory_with_four_partitions_keeps_the_contract() {
    run_all(&Memory(4));
}

#[test]
fn a_faulty_store_without_a_failure_keeps_the_contract() {
    run_all(&Faulty);
}

#[test]
fn sqlite_keeps_the_contract() {
    run_all(&Sqlite::new(IndexOptions::default(), 48));
}

/// So few identities to a run that every case flushes and merges.
const TINY: IndexOptions = IndexOptions { memtable: 4, section: 3, fan_out: 2 };

#[test]
fn sqlite_keeps_the_contract_while_its_index_is_flushed_and_merged_and_its_journal_folded_all_the_time() {
    run_all(&Sqlite::new(TINY, 48).folding(2));
}

#[test]
fn sqlite_keeps_the_contract_when_many_identities_share_a_fingerprint() {
    run_all(&Sqlite::new(IndexOptions { memtable: 20, section: 10, fan_out: 2 }, 6).folding(0));
}
