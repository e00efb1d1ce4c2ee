//! A store in one file, or in several.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aggregator_core::store::sharded::NamedStore;
use aggregator_core::{DedupStore, Sharded, SqliteStore, StoreError};

/// The files of the store at this path.
pub(crate) fn files(path: &Path, shards: u16) -> Vec<PathBuf> {
    match shards {
        1 => vec![path.to_owned()],
        shards => (0..shards).map(|shard| path.with_file_name(format!("shard-{shard}.db"))).collect(),
    }
}

/// Opens each of them.
pub(crate) fn open(
    path: &Path,
    shards: u16,
    open: impl Fn(&Path) -> Result<SqliteStore, StoreError>,
) -> Result<Arc<dyn DedupStore>, StoreError> {
    if shards == 1 {
        return Ok(Arc::new(open(path)?));
    }
    let mut stores = Vec::new();
    for file in files(path, shards) {
        stores.push(NamedStore::new(file.display().to_string(), Arc::new(open(&file)?)));
    }
    Ok(Arc::new(Sharded::open(stores)?))
}
