//! The measurements, a file for each group of figures.

pub(crate) mod full_cache;
pub(crate) mod growth;
pub(crate) mod ingest;
pub(crate) mod latency;
pub(crate) mod machine;
pub(crate) mod mixed;
pub(crate) mod overload;
pub(crate) mod read;
pub(crate) mod records;
pub(crate) mod retention;
pub(crate) mod scale;
pub(crate) mod stalls;
pub(crate) mod tails;
pub(crate) mod topics;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::options::Options;

/// Connections that send single events.
pub(crate) const SINGLE_CONNECTIONS: u32 = 64;

/// Connections for batches of this size. Small batches need more connections, so that a group is worth its fsync.
pub(crate) fn connections(options: &Options, batch: u32) -> u32 {
    match batch {
        1 => SINGLE_CONNECTIONS,
        2..100 => options.connections * 4,
        _ => options.connections,
    }
}

/// A figure over several runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without any figure.
    pub(crate) fn of_any(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let figures: Vec<f64> = figures.into_iter().collect();
        (!figures.is_empty()).then(|| Self::of(figures))
    }

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

/// Waits until the writes and deletions of the last run are on the disk, so that the next one does not pay for them.
pub(crate) fn settle() -> anyhow::Result<()> {
    let status = Command::new("sync").status().context("sync cannot be started")?;
    ensure!(status.success(), "sync: {status}");
    thread::sleep(Duration::from_millis(300));
    Ok(())
}

/// The indexes of `count` runs in the order of this round. Every other round goes backwards, so that no run always
/// follows the same one.
pub(crate) fn order(count: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| if round.is_multiple_of(2) { count - 1 - place } else { place })
}

/// A new, empty directory under the work directory, removed when dropped.
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

    #[test]
    fn every_other_round_is_backwards() {
        let round = |round| order(3, round).collect::<Vec<_>>();
        assert_eq!([round(1), round(2), round(3)], [[0, 1, 2], [2, 1, 0], [0, 1, 2]]);
    }
}
