//! Moving a store's contents: `export` writes them as lines of JSON, `import` reads them into another
//! store. The format is described in `docs/export.md`.

mod checkpoint;
pub mod export;
mod format;
pub mod import;
mod progress;

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use aggregator_core::StoreError;

/// Where lines go to or come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output or input: `-`
    Standard,
    /// A file.
    File(PathBuf),
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Standard } else { Self::File(text.into()) })
    }
}

/// Why an export or an import ended early. What was done until then stays: run it again to go on.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file, or what stands in its place, did not do its part.
    #[error("{what}: {source}")]
    Io {
        /// Which, and what was done with it.
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
    /// It was not begun.
    #[error("{0}")]
    Refused(String),
}

impl TransferError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
