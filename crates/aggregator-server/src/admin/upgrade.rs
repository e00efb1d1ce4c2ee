//! `upgrade`: brings a store of an older format up to the format of this program.

use std::ops::ControlFlow;
use std::path::PathBuf;

use aggregator_core::{SqliteStore, StoreError};

use super::backup::Shown;
use super::progress::ProgressLine;
use crate::config::{Config, StoreLocation};
use crate::open_store;

/// What to do before.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct UpgradeOptions {
    /// Where the store is copied to first, as it is [default: its own name with .format-N behind it]
    #[arg(long, value_name = "FILE")]
    pub backup: Option<PathBuf>,
}

/// Why a store was not brought up.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Only a file has a format.
    #[error(
        "--store {0} is not a file, so there is nothing to upgrade: name the file of each shard with sqlite:PATH; a node adds \
         what a database of PostgreSQL lacks when it starts"
    )]
    NoFile(StoreLocation),
    /// The store cannot be copied, or not be changed.
    #[error("--store {store}")]
    Store {
        /// Which one.
        store: StoreLocation,
        /// Its error.
        source: StoreError,
    },
}

/// Copies the store and brings it up, if it has an older format.
///
/// # Errors
/// See [`UpgradeError`].
pub fn upgrade(config: &Config, options: &UpgradeOptions) -> Result<(), UpgradeError> {
    let StoreLocation::Sqlite(path) = &config.store else {
        return Err(UpgradeError::NoFile(config.store.clone()));
    };
    let mut progress = Shown { line: ProgressLine::new(), bytes: 0 };
    let upgraded = open_store::check_exists(path).and_then(|()| {
        SqliteStore::upgrade(
            path,
            options.backup.as_deref(),
            open_store::sqlite_options(config),
            &mut |told| {
                progress.show(&told.into());
                ControlFlow::Continue(())
            },
        )
    });
    let upgraded = upgraded.map_err(|source| UpgradeError::Store { store: config.store.clone(), source })?;
    let done = match upgraded {
        Some(done) => format!(
            "upgraded: {} has format {}; as it was, with format {}, it is in {}",
            config.store,
            done.to,
            done.from,
            done.backup.display()
        ),
        None => format!("nothing to do: {} has the format of this program", config.store),
    };
    progress.line.done(&done);
    Ok(())
}
