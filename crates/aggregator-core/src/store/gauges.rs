//! What a store measures of itself, for whoever watches it.

use crate::histogram::HistogramCounts;

/// What [`DedupStore::gauges`](super::DedupStore::gauges) tells. A store leaves out what it does not measure.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct StoreGauges {
    /// How long commits of appends took from the `COMMIT` until their data was on the disk, in seconds.
    pub syncs: Option<HistogramCounts>,
    /// How long it took to copy a part of the log into the main file and to sync it, in seconds.
    pub checkpoints: Option<HistogramCounts>,
    /// Bytes in the log that a restart would read again. The file of the log can be longer: it is used again.
    pub log_bytes: Option<u64>,
    /// Bytes on the disk of each part: its name, and its size.
    pub parts: Vec<(&'static str, u64)>,
    /// Sorted runs that the dedup index consists of, beside what it has in memory alone.
    pub index_runs: Option<u64>,
    /// Bytes of memory that filters and tables of contents of these runs take.
    pub index_bytes: Option<u64>,
}
