//! What is measured, a file for each group of figures.

pub(crate) mod growth;
pub(crate) mod ingest;
pub(crate) mod latency;
pub(crate) mod machine;
pub(crate) mod read;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::options::Options;

/// Connections that send single events.
pub(crate) const SINGLE_CONNECTIONS: u32 = 64;

/// Connections for batches of this size: small ones need more of them under way to make a group worth its fsync.
pub(crate) fn connections(options: &Options, batch: u32) -> u32 {
    match batch {
        1 => SINGLE_CONNECTIONS,
        2..100 => options.connections * 4,
        _ => options.connections,
    }
}

/// The figures of several runs of one thing.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// # Panics
    /// Without any figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            (figures[middle - 1] + figures[middle]) / 2.0
        };
        Self { median, min: figures[0], max: figures[figures.len() - 1] }
    }
}

/// A new, empty directory of its own under the work directory, removed when it is let go.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(options: &Options, name: &str) -> anyhow::Result<Self> {
        let path = options.work.join(name);
        // A run that failed may have left it.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
