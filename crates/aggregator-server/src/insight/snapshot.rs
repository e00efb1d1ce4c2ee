//! What a node has counted, at one moment: as it is kept in records, and as nodes are added up.

use serde::{Deserialize, Serialize};

use super::latest::Repeat;
use super::most_repeated::Repeated;
use super::series::{Series, Step};
use super::streams::{Counts, Stream};

/// What a node has counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) head: Head,
    pub(super) streams: Vec<Stream>,
    pub(super) most_repeated: Vec<Repeated>,
    /// From the oldest to the newest.
    pub(super) latest: Vec<Repeat>,
    pub(super) series: Series,
}

/// What is said of all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Of what is kept, and so of this record.
    pub(super) format: u32,
    /// When counting began, in microseconds since 1970.
    pub(super) since: i64,
    /// When this was written; 0 in a store that one process uses at a time.
    pub(super) written_at: i64,
    /// Whether the node has stopped, and counted everything until then.
    pub(super) ended: bool,
    /// The sum of the streams that had to make room.
    pub(super) others: Counts,
}

impl Snapshot {
    pub(super) fn is_empty(&self) -> bool {
        let is_empty = |step| self.series.buckets(step).is_empty();
        self.streams.is_empty() && self.head.others.deliveries() == 0 && Step::ALL.into_iter().all(is_empty)
    }
}
