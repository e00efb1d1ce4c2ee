//! The bytes of the newest events of topics that have a limit of bytes.
//!
//! What was summed once stays in memory, one number for at most 10,000 events, so that a run sums only what is new. It is
//! forgotten with the process: the first run after a start sums what every such topic keeps.

use std::collections::{HashMap, VecDeque};

use aggregator_core::store::MAX_SEQS_PER_SUM;
use aggregator_core::{Topic, TopicInfo};

use super::run::RunError;

/// Sums up the bytes of the events with seqs from the first to the second.
type SumUp<'s> = dyn FnMut(u64, u64) -> Result<u64, RunError> + 's;

#[derive(Debug, Default)]
pub(super) struct Sizes(HashMap<Topic, VecDeque<Chunk>>);

/// Events next to each other in one topic. At most [`MAX_SEQS_PER_SUM`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    first: u64,
    last: u64,
    bytes: u64,
}

impl Sizes {
    /// The seq through which the topic has to be purged, so that the events behind it have at most `limit` bytes. What is
    /// up to `after` goes anyway.
    pub(super) fn cut(
        &mut self,
        info: &TopicInfo,
        after: u64,
        limit: u64,
        sum_up: &mut SumUp<'_>,
    ) -> Result<u64, RunError> {
        let chunks = match self.0.get_mut(&info.topic) {
            Some(chunks) => chunks,
            None => self.0.entry(info.topic.clone()).or_default(),
        };
        forget(chunks, after, info.last_seq, sum_up)?;
        let mut next = chunks.back().map_or(info.last_seq + 1, |chunk| chunk.last + 1);
        while next <= info.last_seq {
            next = append(chunks, next, info.last_seq, sum_up)?;
        }
        // From the newest to the oldest one, as far as the limit goes.
        let mut left = limit;
        let mut at = chunks.len();
        loop {
            while at > 0 && chunks[at - 1].bytes <= left {
                at -= 1;
                left -= chunks[at].bytes;
            }
            let first = chunks.front().map_or(info.last_seq + 1, |chunk| chunk.first);
            if at > 0 {
                return cut_within(chunks[at - 1], left, sum_up);
            }
            if first <= after + 1 {
                return Ok(after);
            }
            let begin = first.saturating_sub(MAX_SEQS_PER_SUM).max(after + 1);
            let bytes = sum_up(begin, first - 1)?;
            chunks.push_front(Chunk { first: begin, last: first - 1, bytes });
            at = 1;
        }
    }
}

/// Forgets what is up to `after`.
fn forget(
    chunks: &mut VecDeque<Chunk>,
    after: u64,
    last_seq: u64,
    sum_up: &mut SumUp<'_>,
) -> Result<(), RunError> {
    if chunks.back().is_some_and(|chunk| chunk.last > last_seq) {
        // Another store has taken the place of this one.
        chunks.clear();
    }
    while chunks.front().is_some_and(|chunk| chunk.last <= after) {
        chunks.pop_front();
    }
    if let Some(chunk) = chunks.front_mut()
        && chunk.first <= after
    {
        *chunk = Chunk { first: after + 1, bytes: sum_up(after + 1, chunk.last)?, ..*chunk };
    }
    Ok(())
}

/// Adds the next events behind the newest chunk, and returns the seq behind them.
fn append(
    chunks: &mut VecDeque<Chunk>,
    first: u64,
    last_seq: u64,
    sum_up: &mut SumUp<'_>,
) -> Result<u64, RunError> {
    match chunks.back_mut().filter(|chunk| chunk.last - chunk.first + 1 < MAX_SEQS_PER_SUM) {
        Some(chunk) => {
            let last = last_seq.min(chunk.first + MAX_SEQS_PER_SUM - 1);
            chunk.bytes += sum_up(first, last)?;
            chunk.last = last;
            Ok(last + 1)
        }
        None => {
            let last = last_seq.min(first + MAX_SEQS_PER_SUM - 1);
            chunks.push_back(Chunk { first, last, bytes: sum_up(first, last)? });
            Ok(last + 1)
        }
    }
}

/// The seq in the chunk behind which its events have at most `left` bytes. All of them have more.
fn cut_within(chunk: Chunk, left: u64, sum_up: &mut SumUp<'_>) -> Result<u64, RunError> {
    // The events behind `high` have at most `left` bytes, which those behind `low` exceed.
    let (mut low, mut high, mut left) = (chunk.first - 1, chunk.last, left);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let bytes = sum_up(middle + 1, high)?;
        if bytes <= left {
            left -= bytes;
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}
