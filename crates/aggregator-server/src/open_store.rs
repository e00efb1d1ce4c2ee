//! Opens the store that a [`Config`] names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "postgres")]
use std::time::Duration;

#[cfg(feature = "postgres")]
use aggregator_core::Partitions;
use aggregator_core::store::OnProgress;
use aggregator_core::store::sharded::{Membership, NamedStore, name_shard, refuse_lone_shard};
use aggregator_core::{DedupStore, MemoryStore, Sharded, SqliteOptions, SqliteStore, StoreError};
#[cfg(feature = "postgres")]
use aggregator_postgres::{PostgresOptions, PostgresStore, PostgresUrl};

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
            refuse_lone_shard(&store)?;
            Ok(Arc::new(store))
        }
        StoreLocation::SqliteShards { .. } => {
            let open = |path: &Path| {
                let options =
                    SqliteOptions { on_progress: Arc::clone(&on_progress), ..sqlite_options(config) };
                let store = SqliteStore::open_with(path, options)?;
                warn(store.warnings());
                Ok(store)
            };
            open_files(&config.store.files(), open)
        }
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(url) => {
            let store = PostgresStore::open_with(url, serving_options(config))?;
            warn(store.warnings());
            refuse_lone_shard(&store)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "postgres")]
        StoreLocation::PostgresShards(urls) => open_databases(urls, &serving_options(config), warn),
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
        StoreLocation::SqliteShards { .. } => {
            config.store.files().iter().try_for_each(|path| check_exists(path))?;
            open(config)
        }
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(url) => {
            let store = PostgresStore::open_with(url, reading_options(config))?;
            refuse_lone_shard(&store)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "postgres")]
        StoreLocation::PostgresShards(urls) => open_databases(urls, &reading_options(config), &|_| {}),
    }
}

/// One store of several files. A file that is missing is made only if the store never had it: otherwise it is lost, and its
/// events with it.
fn open_files(
    paths: &[PathBuf],
    open: impl Fn(&Path) -> Result<SqliteStore, StoreError>,
) -> Result<Arc<dyn DedupStore>, StoreError> {
    let mut shards: Vec<NamedStore> = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let name = path.display().to_string();
        if let Some(first) = shards.first().filter(|_| !path.exists()) {
            check_may_be_made(&*first.store, index, paths)?;
        }
        let store = open(path).map_err(|error| name_shard(error, index, &name))?;
        shards.push(NamedStore::new(name, Arc::new(store)));
    }
    Ok(Arc::new(Sharded::open(shards)?))
}

fn check_may_be_made(first: &dyn DedupStore, index: usize, paths: &[PathBuf]) -> Result<(), StoreError> {
    let Some(known) = Membership::of(first)? else { return Ok(()) };
    if usize::from(known.shards) != paths.len() {
        let reason = format!(
            "was made with {} shards, and has to be named with as many: ?shards={}",
            known.shards, known.shards
        );
        return Err(StoreError::invalid("store", reason));
    }
    if known.is_complete {
        let reason = format!(
            "has lost its shard {index}: {} does not exist. Put the file there, from a backup if it is lost",
            paths[index].display()
        );
        return Err(StoreError::invalid("store", reason));
    }
    Ok(())
}

/// One store of several databases.
#[cfg(feature = "postgres")]
fn open_databases(
    urls: &[PostgresUrl],
    options: &PostgresOptions,
    warn: &dyn Fn(&[String]),
) -> Result<Arc<dyn DedupStore>, StoreError> {
    let mut shards = Vec::new();
    for (index, url) in urls.iter().enumerate() {
        let name = url.to_string();
        let store = PostgresStore::open_with(url, options.clone());
        let store = store.map_err(|error| name_shard(error, index, &name))?;
        let warnings = store.warnings().iter().map(|warning| format!("shard {index} ({name}): {warning}"));
        warn(&warnings.collect::<Vec<_>>());
        shards.push(NamedStore::new(name, Arc::new(store)));
    }
    Ok(Arc::new(Sharded::open(shards)?))
}

#[cfg(feature = "postgres")]
fn serving_options(config: &Config) -> PostgresOptions {
    // Only for serving: an export reads for as long as it takes.
    let read_timeout = config.read_timeout.clamp(SHORTEST, LONGEST);
    PostgresOptions { read_timeout, ..postgres_options(config) }
}

/// Nodes may append meanwhile. A read-only store creates nothing.
#[cfg(feature = "postgres")]
fn reading_options(config: &Config) -> PostgresOptions {
    PostgresOptions { read_only: true, ..postgres_options(config) }
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
