//! Which store is meant, and how it is opened with the options that are for it.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
#[cfg(feature = "postgres")]
use std::time::Duration;

use aggregator_core::store::VerifyReport;
use aggregator_core::{DedupStore, MemoryStore, Partitions, SqliteOptions, SqliteStore, StoreError};
#[cfg(feature = "postgres")]
use aggregator_postgres::{PostgresOptions, PostgresStore, PostgresUrl};
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

use super::Config;

/// The times that a PostgreSQL store can be told.
#[cfg(feature = "postgres")]
const SHORTEST: Duration = Duration::from_millis(1);
#[cfg(feature = "postgres")]
const LONGEST: Duration = Duration::from_secs(86_400);

/// Which store, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// `sqlite:PATH`
    Sqlite(PathBuf),
    /// `postgres://…`, or `postgresql://…`; shown without its password
    #[cfg(feature = "postgres")]
    Postgres(PostgresUrl),
    /// `memory:`, or `memory:N` with that many partitions
    Memory(Partitions),
}

impl FromStr for StoreLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            if path.is_empty() {
                return Err("names no file: say sqlite:PATH".into());
            }
            return Ok(Self::Sqlite(path.into()));
        }
        if let Some(partitions) = text.strip_prefix("memory:") {
            if partitions.is_empty() {
                return Ok(Self::Memory(Partitions::ONE));
            }
            let partitions = partitions.parse().ok().and_then(Partitions::new);
            return partitions.map(Self::Memory).ok_or_else(|| "takes 1 to 1024 partitions: memory:4".into());
        }
        #[cfg(feature = "postgres")]
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return text.parse().map(Self::Postgres);
        }
        Err("is not a store: say sqlite:PATH, postgres://… or memory:".into())
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => url.fmt(f),
            Self::Memory(Partitions::ONE) => f.write_str("memory:"),
            Self::Memory(partitions) => write!(f, "memory:{}", partitions.count()),
        }
    }
}

/// Reads a [`StoreLocation`], and does not repeat what it cannot read: there may be a password in it.
#[derive(Clone)]
pub(super) struct StoreParser;

impl TypedValueParser for StoreParser {
    type Value = StoreLocation;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<StoreLocation, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "is not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|reason| {
            clap::Error::raw(ErrorKind::ValueValidation, format!("what --store names {reason}\n"))
                .with_cmd(command)
        })
    }
}

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
            StoreLocation::Sqlite(path) if !path.exists() => {
                Err(StoreError::invalid("store", "does not exist: name the file of a store"))
            }
            StoreLocation::Memory(_) => {
                Err(StoreError::invalid("store", "would be a new one: name one that holds something"))
            }
            StoreLocation::Sqlite(_) => self.open_store(),
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
            StoreLocation::Sqlite(path) => SqliteStore::verify_file(path, &self.sqlite_options()),
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
            StoreLocation::Sqlite(path) => SqliteStore::rebuild_index(path, self.sqlite_options()).map(drop),
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
        SqliteOptions { max_topics: self.max_topics, readers: self.readers, ..SqliteOptions::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_shown() {
        for text in ["sqlite:data/aggregator.db", "sqlite:/x:y.db", "memory:", "memory:4"] {
            assert_eq!(text.parse::<StoreLocation>().unwrap().to_string(), text);
        }
        for text in ["", "data.db", "sqlite:", "memory:0", "memory:1025", "memory:x", "postgres://"] {
            assert!(text.parse::<StoreLocation>().is_err(), "{text:?}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_password_is_shown_nowhere() {
        use clap::Parser as _;

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
