//! `check`: reads all of a store that nobody has open, and checks it against itself.

use std::io;
use std::path::Path;

use aggregator_core::store::VerifyReport;
use aggregator_core::{DedupStoreExt, SqliteOptions, SqliteStore, StoreError};

use crate::config::{Config, StoreLocation};
use crate::open_store;
use crate::output;

/// What to do beside checking.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct CheckOptions {
    /// Make the dedup index anew from the events first, whatever is left of it
    #[arg(long)]
    pub rebuild_index: bool,
    /// Let a SQLite store that has lost its write-ahead log count as closed, if the file alone is sound; events that
    /// were acknowledged may be missing in it
    #[arg(long)]
    pub accept_lost_log: bool,
    /// Let a SQLite store that was not closed and was copied count as closed, if it is sound; if something wrote while the
    /// file and its write-ahead log were copied, events that were acknowledged may be missing in it
    #[arg(long)]
    pub accept_copied_files: bool,
}

/// Why a check did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Only a file can have lost its log, or be a copy.
    #[error("{option} is for sqlite: stores, and --store names {store}")]
    HasNoLog {
        /// What was asked for.
        option: &'static str,
        /// Of which store.
        store: StoreLocation,
    },
    /// The store cannot be read.
    #[error("--store {store}")]
    Store {
        /// Which one.
        store: StoreLocation,
        /// Its error.
        source: StoreError,
    },
    /// The report cannot be written.
    #[error("standard output")]
    Output(#[source] io::Error),
    /// The report lists faults.
    #[error("{store} is not sound: {faults} faults")]
    NotSound {
        /// Which store.
        store: StoreLocation,
        /// How many.
        faults: usize,
    },
}

/// Prints the faults of the store, one per line. Makes its dedup index anew before, if the options ask for it.
///
/// # Errors
/// See [`CheckError`].
pub fn check(config: &Config, options: &CheckOptions) -> Result<(), CheckError> {
    let location = &config.store;
    for (option, given) in [
        ("--accept-lost-log", options.accept_lost_log),
        ("--accept-copied-files", options.accept_copied_files),
    ] {
        if given && location.files().is_empty() {
            return Err(CheckError::HasNoLog { option, store: location.clone() });
        }
    }
    let failed = |source| CheckError::Store { store: location.clone(), source };
    if options.rebuild_index {
        rebuild_index(config, options).map_err(failed)?;
    }
    let report = verify(config, options).map_err(failed)?;
    let mut text: String = report.faults.iter().map(|fault| format!("{fault}\n")).collect();
    if report.faults.is_empty() {
        let VerifyReport { events, stubs, .. } = report;
        text = format!("{location} is sound: {events} events, {stubs} stubs\n");
    }
    output::print(&text).map_err(CheckError::Output)?;
    match report.faults.len() {
        0 => Ok(()),
        faults => Err(CheckError::NotSound { store: location.clone(), faults }),
    }
}

/// What is wrong with the store is no error: the report says it.
fn verify(config: &Config, options: &CheckOptions) -> Result<VerifyReport, StoreError> {
    match &config.store {
        StoreLocation::Sqlite(path) => {
            SqliteStore::verify_file(path, &sqlite_options(path, config, options)?)
        }
        StoreLocation::SqliteShards { .. } => verify_shards(config, options),
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(_) | StoreLocation::PostgresShards(_) => {
            open_store::open_existing(config)?.verify()
        }
        StoreLocation::Memory(_) => open_store::open(config)?.verify(),
    }
}

/// Each file by itself: one that is too damaged to be opened keeps nobody from checking the others.
fn verify_shards(config: &Config, options: &CheckOptions) -> Result<VerifyReport, StoreError> {
    let mut total = VerifyReport::default();
    for path in config.store.files() {
        let report = SqliteStore::verify_file(&path, &sqlite_options(&path, config, options)?)?;
        total.events += report.events;
        total.stubs += report.stubs;
        total.faults.extend(report.faults.into_iter().map(|fault| format!("{}: {fault}", path.display())));
    }
    Ok(total)
}

fn rebuild_index(config: &Config, options: &CheckOptions) -> Result<(), StoreError> {
    match &config.store {
        StoreLocation::Sqlite(_) | StoreLocation::SqliteShards { .. } => {
            config.store.files().iter().try_for_each(|path| {
                SqliteStore::rebuild_index(path, sqlite_options(path, config, options)?).map(drop)
            })
        }
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(_) | StoreLocation::PostgresShards(_) => {
            Err(StoreError::Unsupported { kind: "postgres", operation: "rebuild an index: use REINDEX" })
        }
        StoreLocation::Memory(_) => {
            Err(StoreError::Unsupported { kind: "memory", operation: "rebuild an index: it has none" })
        }
    }
}

/// For the store at this path, which has to exist.
fn sqlite_options(path: &Path, config: &Config, options: &CheckOptions) -> Result<SqliteOptions, StoreError> {
    open_store::check_exists(path)?;
    Ok(SqliteOptions {
        accept_lost_log: options.accept_lost_log,
        accept_copied_files: options.accept_copied_files,
        ..open_store::sqlite_options(config)
    })
}
