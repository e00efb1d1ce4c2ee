//! `restore`, `adopt` and `compact`: what is done to the file of a store that nobody has open.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aggregator_core::{SqliteOptions, SqliteStore, StoreError};

use super::backup::{Shown, mib};
use super::progress::ProgressLine;
use crate::config::{Config, StoreLocation};
use crate::{open_store, output};

/// What to make a store of.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct RestoreOptions {
    /// The backup, or another copy of the file of a store, with its write-ahead log beside it if there is one; it stays as
    /// it is
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// Take a copy of the files of a store that was not closed: nothing was written while they were copied
    #[arg(long)]
    pub accept_copied_files: bool,
}

/// Why no store was made of a copy.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Only a file is copied.
    #[error(
        "--store {0} is not a file: name one with sqlite:PATH, such as sqlite:DIRECTORY/shard-0.db for a shard"
    )]
    NoFile(StoreLocation),
    /// The copy cannot be used, or the store not be made.
    #[error("{what}")]
    Store {
        /// What was being done.
        what: String,
        /// The error.
        source: StoreError,
    },
}

/// Makes the store that the configuration names of a copy.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(config: &Config, options: &RestoreOptions) -> Result<(), RestoreError> {
    let to = file(config)?;
    let from = &options.from;
    let sqlite = SqliteOptions {
        accept_copied_files: options.accept_copied_files,
        ..open_store::sqlite_options(config)
    };
    let mut progress = Shown { line: ProgressLine::new(), bytes: 0 };
    let restored = SqliteStore::restore(from, to, &sqlite, &mut |told| {
        progress.show(&told.into());
        ControlFlow::Continue(())
    });
    let failed = |source| {
        let what = format!("restoring {} to {}", from.display(), to.display());
        RestoreError::Store { what, source }
    };
    let id = restored.map_err(failed)?;
    let Shown { line, bytes } = progress;
    line.done(&format!("restored: {} with the id {id}, {:.1} MiB, found sound,", to.display(), mib(bytes)));
    Ok(())
}

/// Gives the store that the configuration names an id of its own.
///
/// # Errors
/// See [`RestoreError`].
pub fn adopt(config: &Config) -> Result<(), RestoreError> {
    let path = file(config)?;
    let failed = |source| RestoreError::Store { what: format!("adopting {}", path.display()), source };
    let id = SqliteStore::adopt(path, &open_store::sqlite_options(config)).map_err(failed)?;
    output::stderr().line(&format!(
        "adopted: {} has the id {id}; cursors that were given out after it was copied are refused",
        path.display()
    ));
    Ok(())
}

/// Writes the file of the store anew, without what is free in it.
///
/// # Errors
/// See [`RestoreError`].
pub fn compact(config: &Config) -> Result<(), RestoreError> {
    let path = file(config)?;
    let failed = |source| RestoreError::Store { what: format!("compacting {}", path.display()), source };
    let line = ProgressLine::new();
    let (before, after) = SqliteStore::compact(path, &open_store::sqlite_options(config)).map_err(failed)?;
    line.done(&format!(
        "compacted: {} had {:.1} MiB and has {:.1} MiB, found sound,",
        path.display(),
        mib(before),
        mib(after)
    ));
    Ok(())
}

fn file(config: &Config) -> Result<&Path, RestoreError> {
    match &config.store {
        StoreLocation::Sqlite(path) => Ok(path),
        other => Err(RestoreError::NoFile(other.clone())),
    }
}
