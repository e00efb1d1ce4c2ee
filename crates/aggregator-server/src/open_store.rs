//! Opens the store that a [`Config`] names.

use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "postgres")]
use std::time::Duration;

#[cfg(feature = "postgres")]
use aggregator_core::Partitions;
use aggregator_core::store::OnProgress;
use aggregator_core::{DedupStore, MemoryStore, SqliteOptions, SqliteStore, StoreError};
#[cfg(feature = "postgres")]
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::config::{Config, StoreLocation};

/// The shortest and the longest time that a PostgreSQL store can be told.
#[cfg(feature = "postgres")]
const SHORTEST: Duration = Duration::from_millis(1);
#[cfg(feature = "postgres")]
const LONGEST: Duration = Duration::from_secs(86_400);

/// Connections that no request uses: keys are read through one, also while all readers are busy, and retention reads
/// through one.
fn housekeeping(config: &Config) -> u32 {
    1 + u32::from(!config.retain.is_empty())
}

/// Opens the store, and creates it if there is none.
///
/// # Errors
/// Those of the store.
pub fn open(config: &Config) -> Result<Arc<dyn DedupStore>, StoreError> {
    open_with(config, Arc::new(|_| {}), &|_| {})
}

/// As [`open`], for serving: tells `on_progress` how far it has come, if the store is a file, and logs the warnings of the
/// store.
pub(crate) fn open_to_serve(
    config: &Config,
    on_progress: OnProgress,
) -> Result<Arc<dyn DedupStore>, StoreError> {
    open_with(config, on_progress, &|warnings| {
        warnings.iter().for_each(|warning| tracing::warn!(warning, "the store"));
    })
}

fn open_with(
    config: &Config,
    on_progress: OnProgress,
    warn: &dyn Fn(&[String]),
) -> Result<Arc<dyn DedupStore>, StoreError> {
    match &config.store {
        StoreLocation::Sqlite(path) => {
            let options = SqliteOptions { on_progress, ..sqlite_options(config) };
            let store = SqliteStore::open_with(path, options)?;
            warn(store.warnings());
            Ok(Arc::new(store))
        }
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(url) => {
            // Only for serving: an export reads for as long as it takes.
            let read_timeout = config.read_timeout.clamp(SHORTEST, LONGEST);
            let options = PostgresOptions { read_timeout, ..postgres_options(config) };
            let store = PostgresStore::open_with(url, options)?;
            warn(store.warnings());
            Ok(Arc::new(store))
        }
        StoreLocation::Memory(partitions) => {
            Ok(Arc::new(MemoryStore::new(*partitions).with_max_topics(config.max_topics)))
        }
    }
}

/// Opens the store, and creates none.
///
/// # Errors
/// As [`open`], and if there is no store.
pub fn open_existing(config: &Config) -> Result<Arc<dyn DedupStore>, StoreError> {
    match &config.store {
        StoreLocation::Memory(_) => {
            Err(StoreError::invalid("store", "is always empty at the start: name a store that has data"))
        }
        StoreLocation::Sqlite(path) => {
            check_exists(path)?;
            open(config)
        }
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(url) => {
            // Nodes may append meanwhile. A read-only store creates nothing.
            let options = PostgresOptions { read_only: true, ..postgres_options(config) };
            Ok(Arc::new(PostgresStore::open_with(url, options)?))
        }
    }
}

/// A connection per worker and per reader.
#[cfg(feature = "postgres")]
fn postgres_options(config: &Config) -> PostgresOptions {
    PostgresOptions {
        partitions: config.partitions.and_then(Partitions::new),
        max_topics: config.max_topics,
        append_connections: config.workers.get().min(1024),
        read_connections: config.readers.saturating_add(housekeeping(config)) as usize,
        // The store gives up before the publisher is told that the commit took too long.
        deadline: (config.commit_timeout * 2 / 3).max(SHORTEST),
        require_sync_standby: config.require_sync_standby,
        ..PostgresOptions::default()
    }
}

pub(crate) fn sqlite_options(config: &Config) -> SqliteOptions {
    SqliteOptions {
        max_topics: config.max_topics,
        readers: config.readers.saturating_add(housekeeping(config)),
        allow_unsafe_file_system: config.allow_unsafe_filesystem,
        keep_room_for_purges: !config.retain.is_empty() && !config.retain_dry_run,
        on_warning: Arc::new(|warning| tracing::warn!(warning, "the store")),
        ..SqliteOptions::default()
    }
}

/// Refuses to create a store where one has to be. The error shows the whole path, because the directory may be the wrong
/// one.
pub(crate) fn check_exists(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Err(StoreError::invalid("store", format!("{} does not exist: name the file of a store", whole.display())))
}
