//! Moves the contents of a store: `export` writes them as lines of JSON, `import` reads them into another store.
//! `docs/export.md` describes the format.

pub mod export;
mod export_file;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod import;
mod progress;

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use aggregator_core::StoreError;

/// Where lines are written to or read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOrStdio {
    /// Standard output or input: `-`
    Stdio,
    /// A file.
    File(PathBuf),
}

impl FromStr for FileOrStdio {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdio } else { Self::File(text.into()) })
    }
}

/// Why an export or an import ended early. The part that was done stays: run it again to go on.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// The file, or the operation.
        what: String,
        /// Its error.
        source: io::Error,
    },
    /// Nobody reads standard output any more.
    #[error("standard output was closed")]
    PipeClosed,
    /// A line cannot be taken.
    #[error("line {number}: {reason}")]
    Line {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it, and the way out.
        reason: String,
    },
    /// It did not begin.
    #[error("{0}")]
    Refused(String),
}

impl TransferError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
