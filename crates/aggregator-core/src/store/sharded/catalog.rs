//! Lookups, lists of topics and totals.

use std::collections::VecDeque;

use super::Sharded;
use crate::store::{Seen, StoreStats, TopicInfo};
use crate::{Deadline, Identity, StoreError, TopicQuery};

/// What a shard has for a page of topics.
struct Source {
    shard: usize,
    query: TopicQuery,
    topics: VecDeque<TopicInfo>,
    /// Whether its last page had all that was asked for: there may be more behind it.
    is_full: bool,
}

impl Sharded {
    pub(super) fn look_up(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        let of_shards = self.routing.split(ids.iter().map(|id| id.topic.as_str()));
        let mut seen = vec![None; ids.len()];
        for (shard, indices) in self.shards.iter().zip(of_shards) {
            if indices.is_empty() {
                continue;
            }
            let part: Vec<_> = indices.iter().map(|&index| ids[index].clone()).collect();
            for (index, found) in indices.into_iter().zip(shard.read(|store| store.lookup(&part))?) {
                seen[index] = found;
            }
        }
        Ok(seen)
    }

    /// Merged by name. Each shard is asked for its share of the page, and for more if that was too small.
    pub(super) fn list_topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        let asked = self.routing.split_topics(&query.topics);
        let share = query.limit.div_ceil(asked.len().max(1));
        let mut sources = Vec::with_capacity(asked.len());
        for (shard, topics) in asked {
            let query = TopicQuery { topics, limit: share, ..query.clone() };
            let mut source = Source { shard, query, topics: VecDeque::new(), is_full: true };
            self.more_topics(&mut source, share)?;
            sources.push(source);
        }
        let mut listed: Vec<TopicInfo> = Vec::new();
        while listed.len() < query.limit {
            for source in sources.iter_mut().filter(|source| source.topics.is_empty() && source.is_full) {
                self.more_topics(source, query.limit - listed.len())?;
            }
            let heads = sources.iter().enumerate();
            let next = heads.filter_map(|(at, source)| Some((&source.topics.front()?.topic, at))).min();
            let Some((_, at)) = next else { break };
            listed.extend(sources[at].topics.pop_front());
        }
        Ok(listed)
    }

    fn more_topics(&self, source: &mut Source, limit: usize) -> Result<(), StoreError> {
        source.query.limit = limit;
        let page = self.shards[source.shard].read(|store| store.topics(&source.query))?;
        source.is_full = limit > 0 && page.len() >= limit;
        if let Some(last) = page.last() {
            source.query.after = Some(last.topic.clone());
        }
        source.topics.extend(page);
        Ok(())
    }

    /// Of all shards that answer. Each gets its share of the time that is left, so that one that is gone does not use up
    /// that of the others.
    pub(super) fn sum_stats(&self) -> Result<StoreStats, StoreError> {
        let mut total = StoreStats::default();
        let (mut answered, mut failed) = (false, None);
        for (index, shard) in self.shards.iter().enumerate() {
            let left = u32::try_from(self.shards.len() - index).unwrap_or(u32::MAX);
            let stats = match Deadline::current() {
                Some(deadline) => {
                    Deadline::after(deadline.remaining() / left).scope(|| shard.read(|store| store.stats()))
                }
                None => shard.read(|store| store.stats()),
            };
            match stats {
                Ok(stats) => {
                    answered = true;
                    add(&mut total, &stats);
                    let missing = stats.unavailable.iter().map(|it| self.routing.in_whole(index, *it));
                    total.unavailable.extend(missing);
                }
                Err(error) => {
                    total.unavailable.extend(self.routing.partitions_of(index));
                    failed = failed.or(Some(error));
                }
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(total),
        }
    }
}

fn add(total: &mut StoreStats, stats: &StoreStats) {
    total.stored += stats.stored;
    total.duplicates += stats.duplicates;
    total.conflicts += stats.conflicts;
    total.topics += stats.topics;
    total.bytes += stats.bytes;
    total.newest_processed_at = total.newest_processed_at.max(stats.newest_processed_at);
}
