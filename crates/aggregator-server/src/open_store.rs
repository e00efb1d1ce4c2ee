//! Opening the store with the options that are for it.

use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "postgres")]
use std::time::Duration;

#[cfg(feature = "postgres")]
use aggregator_core::Partitions;
use aggregator_core::store::VerifyReport;
use aggregator_core::{DedupStore, MemoryStore, SqliteOptions, SqliteStore, StoreError};
#[cfg(feature = "postgres")]
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::config::{Command, Config, StoreLocation};

/// The times that a PostgreSQL store can be told.
#[cfg(feature = "postgres")]
const SHORTEST: Duration = Duration::from_millis(1);
#[cfg(feature = "postgres")]
const LONGEST: Duration = Duration::from_secs(86_400);

impl Config {
    /// Opens the store.
    ///
    /// # Errors
    /// Whatever the store has to say.
    pub fn open_store(&self) -> Result<Arc<dyn DedupStore>, StoreError> {
        match &self.store {
            StoreLocation::Sqlite(path) => Ok(Arc::new(SqliteStore::open_with(path, self.sqlite_options())?)),
            #[cfg(feature = "postgres")]
            StoreLocation::Postgres(url) => {
                // Only here: an export reads for as long as it takes, whatever the environment says.
                let read_timeout = (*self.read_timeout).clamp(SHORTEST, LONGEST);
                let options = PostgresOptions { read_timeout, ..self.postgres_options() };
                let store = PostgresStore::open_with(url, options)?;
                store.warnings().iter().for_each(|warning| tracing::warn!(warning, "the store"));
                Ok(Arc::new(store))
            }
            StoreLocation::Memory(partitions) => {
                Ok(Arc::new(MemoryStore::new(*partitions).with_max_topics(self.max_topics)))
            }
        }
    }

    /// Opens the store, unless there is none.
    ///
    /// # Errors
    /// As [`Self::open_store`], and when it would be a new one.
    pub fn open_existing_store(&self) -> Result<Arc<dyn DedupStore>, StoreError> {
        match &self.store {
            StoreLocation::Memory(_) => {
                Err(StoreError::invalid("store", "would be a new one: name one that holds something"))
            }
            StoreLocation::Sqlite(path) => {
                check_exists(path)?;
                self.open_store()
            }
            #[cfg(feature = "postgres")]
            StoreLocation::Postgres(url) => {
                // Beside nodes that append; and nothing is made where there is nothing.
                let options = PostgresOptions { read_only: true, ..self.postgres_options() };
                Ok(Arc::new(PostgresStore::open_with(url, options)?))
            }
        }
    }

    /// Reads all of the store, which nobody has open, and checks it against itself.
    ///
    /// # Errors
    /// As [`Self::open_store`]; what is found to be wrong is no error, it is in the report.
    pub fn verify_store(&self) -> Result<VerifyReport, StoreError> {
        match &self.store {
            StoreLocation::Sqlite(path) => {
                check_exists(path)?;
                SqliteStore::verify_file(path, &self.sqlite_options())
            }
            #[cfg(feature = "postgres")]
            StoreLocation::Postgres(_) => self.open_existing_store()?.verify(),
            StoreLocation::Memory(_) => self.open_store()?.verify(),
        }
    }

    /// Makes the store's dedup index anew.
    ///
    /// # Errors
    /// As [`Self::open_store`], and when the store has no index apart from its events.
    pub fn rebuild_index(&self) -> Result<(), StoreError> {
        match &self.store {
            StoreLocation::Sqlite(path) => {
                check_exists(path)?;
                SqliteStore::rebuild_index(path, self.sqlite_options()).map(drop)
            }
            #[cfg(feature = "postgres")]
            StoreLocation::Postgres(_) => {
                Err(StoreError::Unsupported { kind: "postgres", operation: "rebuild an index: use REINDEX" })
            }
            StoreLocation::Memory(_) => {
                Err(StoreError::Unsupported { kind: "memory", operation: "rebuild an index: it has none" })
            }
        }
    }

    /// A connection per worker and per reader.
    #[cfg(feature = "postgres")]
    fn postgres_options(&self) -> PostgresOptions {
        PostgresOptions {
            partitions: self.partitions.and_then(Partitions::new),
            max_topics: self.max_topics,
            append_connections: self.workers.get().min(1024),
            read_connections: self.readers as usize,
            // Before the publisher is told that it took too long.
            deadline: (*self.commit_timeout * 2 / 3).max(SHORTEST),
            require_sync_standby: self.require_sync_standby,
            ..PostgresOptions::default()
        }
    }

    fn sqlite_options(&self) -> SqliteOptions {
        SqliteOptions {
            max_topics: self.max_topics,
            readers: self.readers,
            accept_lost_log: matches!(self.command, Some(Command::Check { accept_lost_log: true, .. })),
            on_warning: Arc::new(|warning| tracing::warn!(warning, "the store")),
            ..SqliteOptions::default()
        }
    }
}

/// Refuses to make a store where one has to be. Shows the whole path: it may be the directory that is another one.
fn check_exists(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Err(StoreError::invalid("store", format!("{} does not exist: name the file of a store", whole.display())))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_password_is_shown_nowhere() {
        let store: StoreLocation = "postgres://me:s3cret@a,b:2/db?sslmode=require".parse().unwrap();
        assert_eq!(store.to_string(), "postgres://me@a:5432,b:2/db");
        let config = Config { store, ..Config::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
        let error =
            Config::try_parse_from(["aggregator-server", "--store", "postgres://me:s3cret@a/db?nonsense=1"]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("nonsense") && !error.contains("s3cret"), "{error}");
    }
}
