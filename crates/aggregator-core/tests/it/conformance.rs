//! Every backend runs the one suite.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aggregator_core::store::conformance::{Backend, Options, run_all};
use aggregator_core::{DedupStore, MemoryStore, Partitions, SqliteOptions, SqliteStore, StoreId};
use tempfile::TempDir;

struct Memory(u16);

impl Backend for Memory {
    fn open(&self, options: Options) -> Arc<dyn DedupStore> {
        let store = MemoryStore::new(Partitions::new(self.0).unwrap());
        Arc::new(store.with_clock(options.clock).with_max_topics(options.max_topics))
    }

    fn reopen(&self, _store: Arc<dyn DedupStore>, _options: Options) -> Option<Arc<dyn DedupStore>> {
        None
    }
}

struct Sqlite {
    directory: TempDir,
    paths: Mutex<HashMap<StoreId, PathBuf>>,
}

impl Sqlite {
    fn open_at(&self, path: PathBuf, options: Options) -> Arc<dyn DedupStore> {
        let options = SqliteOptions {
            clock: options.clock,
            max_topics: options.max_topics,
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open_with(&path, options).unwrap();
        self.paths.lock().unwrap().insert(store.info().id, path);
        Arc::new(store)
    }
}

impl Backend for Sqlite {
    fn open(&self, options: Options) -> Arc<dyn DedupStore> {
        let number = self.paths.lock().unwrap().len();
        self.open_at(self.directory.path().join(format!("{number}.db")), options)
    }

    fn reopen(&self, store: Arc<dyn DedupStore>, options: Options) -> Option<Arc<dyn DedupStore>> {
        let path = self.paths.lock().unwrap()[&store.info().id].clone();
        assert_eq!(Arc::strong_count(&store), 1, "the case kept a handle");
        drop(store);
        Some(self.open_at(path, options))
    }
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
fn sqlite_keeps_the_contract() {
    run_all(&Sqlite { directory: TempDir::new().unwrap(), paths: Mutex::default() });
}
