//! Which tails are folded next, and when.

use std::collections::VecDeque;

use super::replay::Replayed;
use super::tails::{Changed, Tails};
use crate::store::sqlite::catalog::PartitionState;

/// A tail of so many spans is folded before its turn, so that a reader has few of them to look through.
const LONG_TAIL: usize = 256;

/// So many spans a topic may wait: about twice as many are written together, and lie on one page or two.
const WAITING_OF_TOPIC: u64 = 32;

/// Where there are few topics, so many spans may wait.
const WAITING: u64 = 8_192;

/// With more rows or bytes than this, tails are folded although few spans wait, because a start reads the whole journal.
const MAX_ROWS: u64 = 65_536;
const MAX_BYTES: u64 = 64 << 20;

/// Where few spans may wait, the journal may have so many rows for each.
const ROWS_PER_SPAN: u64 = 8;

/// As of the last commit.
#[derive(Default)]
pub(super) struct FoldQueue {
    /// Topics with tails, and the rows of the journal in which these began, ascending. Some were folded since then.
    oldest: VecDeque<(i64, u64)>,
    /// Topics whose tails have become long. Some were folded since then.
    long: VecDeque<i64>,
    /// How many bytes each row of the journal has.
    sizes: VecDeque<u64>,
    /// Their sum.
    bytes: u64,
    /// So many spans make a tail a long one.
    long_tail: usize,
    /// See [`SqliteOptions::max_unfolded`](crate::store::sqlite::SqliteOptions::max_unfolded).
    max_unfolded: u64,
}

impl FoldQueue {
    pub(super) fn new(max_unfolded: u32) -> Self {
        let long_tail = usize::try_from(max_unfolded).unwrap_or(LONG_TAIL).clamp(1, LONG_TAIL);
        Self { long_tail, max_unfolded: max_unfolded.into(), ..Self::default() }
    }

    /// Begins with what was read when the store was opened.
    pub(super) fn begin_with(&mut self, replayed: &Replayed) {
        let tails = || (1..).zip(&replayed.deltas).filter(|(_, delta)| delta.since > 0);
        let mut oldest: Vec<_> = tails().map(|(topic_id, delta)| (topic_id, delta.since)).collect();
        oldest.sort_by_key(|&(_, since)| since);
        self.oldest = oldest.into();
        let long = tails().filter(|(_, delta)| delta.spans.len() >= self.long_tail);
        self.long = long.map(|(topic_id, _)| topic_id).collect();
        self.sizes = replayed.sizes.clone().into();
        self.bytes = self.sizes.iter().sum();
    }

    pub(super) fn max_unfolded(&self) -> u64 {
        self.max_unfolded
    }

    pub(super) fn long_tail(&self) -> usize {
        self.long_tail
    }

    /// The `n`th topic with a long tail.
    pub(super) fn long(&self, n: usize) -> Option<i64> {
        self.long.get(n).copied()
    }

    /// The topic with the `n`th oldest tail.
    pub(super) fn oldest(&self, n: usize) -> Option<i64> {
        self.oldest.get(n).map(|&(topic_id, _)| topic_id)
    }

    /// Whether the oldest tails are to be folded: if more than so many spans wait, or if the journal is too long.
    pub(super) fn is_due(&self, partition: &PartitionState, waiting: usize) -> bool {
        let of_topics = partition.topics.saturating_mul(WAITING_OF_TOPIC).max(WAITING);
        waiting as u64 > self.max_unfolded.min(of_topics) || self.is_too_long(partition)
    }

    /// Whether the journal is so long that a start would take long.
    pub(super) fn is_too_long(&self, partition: &PartitionState) -> bool {
        let rows = (partition.journal_last + 1).saturating_sub(self.obsolete_before(partition));
        rows > MAX_ROWS.min(self.max_unfolded.saturating_mul(ROWS_PER_SPAN)) || self.bytes > MAX_BYTES
    }

    /// The rows of the journal before this one are of no use.
    pub(super) fn obsolete_before(&self, partition: &PartitionState) -> u64 {
        self.oldest.front().map_or(partition.journal_last + 1, |&(_, since)| since)
    }

    /// Takes over what was committed.
    pub(super) fn committed(
        &mut self,
        tails: &Tails,
        changed: Changed,
        row_bytes: Option<u64>,
        deleted: u64,
    ) {
        self.oldest.extend(changed.begun);
        self.long.extend(changed.long);
        while self.oldest.front().is_some_and(|&(topic_id, since)| tails.since(topic_id) != since) {
            self.oldest.pop_front();
        }
        while self.long.front().is_some_and(|&topic_id| tails.unfolded_spans_of(topic_id) < self.long_tail) {
            self.long.pop_front();
        }
        self.sizes.extend(row_bytes);
        self.bytes += row_bytes.unwrap_or(0);
        for _ in 0..deleted {
            self.bytes -= self.sizes.pop_front().unwrap_or(0);
        }
    }
}
