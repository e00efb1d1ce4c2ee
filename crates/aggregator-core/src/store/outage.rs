//! Parts of a store that do not answer, while others do.

use crate::Partition;

/// Some partitions that take no events, or cannot be read. See [`DedupStore::outages`](super::DedupStore::outages).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// Which ones, in ascending order.
    pub partitions: Vec<Partition>,
    /// Which part of the store it is, what has happened to it, and the way out.
    pub reason: String,
}

impl Outage {
    /// Of these partitions, in ascending order, for this reason.
    pub fn new(partitions: Vec<Partition>, reason: impl Into<String>) -> Self {
        Self { partitions, reason: reason.into() }
    }
}
