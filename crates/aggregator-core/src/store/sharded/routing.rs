//! Which shard a topic and a partition belong to.
//!
//! With N shards of K partitions each, the whole has N·K, and partition `p` of the whole is partition `p mod K` of shard
//! `p div K`. A topic's partition is its slot modulo the number of partitions. K divides N·K, so within its shard the topic
//! has the partition that the shard itself expects.

use crate::event::SLOTS;
use crate::{Partition, Partitions, TopicSelector, Topics};

#[derive(Debug, Clone, Copy)]
pub(super) struct Routing {
    shards: u16,
    each: Partitions,
    whole: Partitions,
}

impl Routing {
    /// `None` if there are no shards, or if together they have more partitions than there are slots.
    pub(super) fn new(shards: usize, each: Partitions) -> Option<Self> {
        let shards = u16::try_from(shards).ok()?;
        let whole = shards.checked_mul(each.count()).filter(|count| *count <= SLOTS)?;
        Some(Self { shards, each, whole: Partitions::new(whole)? })
    }

    /// The partitions of the whole.
    pub(super) fn whole(self) -> Partitions {
        self.whole
    }

    pub(super) fn shards(self) -> u16 {
        self.shards
    }

    /// How many partitions each shard has.
    pub(super) fn per_shard(self) -> u16 {
        self.each.count()
    }

    /// The shard of a partition of the whole, and its number there.
    pub(super) fn locate(self, partition: Partition) -> (usize, Partition) {
        let each = self.each.count();
        (usize::from(partition.0 / each), Partition(partition.0 % each))
    }

    /// The number that a shard's partition has in the whole.
    pub(super) fn in_whole(self, shard: usize, partition: Partition) -> Partition {
        let first = u16::try_from(shard).unwrap_or(self.shards).saturating_mul(self.each.count());
        Partition(first.saturating_add(partition.0))
    }

    /// The partitions of a shard, as the whole numbers them.
    pub(super) fn partitions_of(self, shard: usize) -> Vec<Partition> {
        self.each.iter().map(|partition| self.in_whole(shard, partition)).collect()
    }

    pub(super) fn shard_of(self, topic: &str) -> usize {
        self.locate(self.whole.of(topic)).0
    }

    /// Which of the items belong to each shard, by their index.
    pub(super) fn split<'t>(self, topics: impl Iterator<Item = &'t str>) -> Vec<Vec<usize>> {
        let mut indices = vec![Vec::new(); usize::from(self.shards)];
        for (index, topic) in topics.enumerate() {
            indices[self.shard_of(topic)].push(index);
        }
        indices
    }

    /// The shards that a query of these topics is about, ascending, and what each one is asked for. Topics that are all
    /// named exactly are asked of their own shards alone.
    pub(super) fn split_topics(self, topics: &Topics) -> Vec<(usize, Topics)> {
        let mut exact: Vec<Vec<TopicSelector>> = vec![Vec::new(); usize::from(self.shards)];
        for selector in topics.selectors() {
            match selector {
                TopicSelector::Exact(topic) => exact[self.shard_of(topic.as_str())].push(selector.clone()),
                TopicSelector::All | TopicSelector::Below(_) => {
                    return (0..usize::from(self.shards)).map(|shard| (shard, topics.clone())).collect();
                }
            }
        }
        let of_shards = exact.into_iter().enumerate();
        of_shards.filter_map(|(shard, exact)| Some((shard, Topics::new(exact).ok()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(shards: usize, each: u16) -> Option<Routing> {
        Routing::new(shards, Partitions::new(each).unwrap())
    }

    /// A shard refuses events of topics that belong to another one of its partitions.
    #[test]
    fn a_topic_has_in_its_shard_the_partition_that_the_shard_expects() {
        for (shards, each) in [(2, 1), (2, 4), (3, 3), (5, 7), (16, 64)] {
            let routing = routing(shards, each).unwrap();
            for topic in (0..500).map(|n| format!("t{n}")) {
                let partition = routing.whole().of(&topic);
                let (shard, local) = routing.locate(partition);
                assert_eq!(local, Partitions::new(each).unwrap().of(&topic), "{shards} of {each}");
                assert_eq!((routing.in_whole(shard, local), routing.shard_of(&topic)), (partition, shard));
                assert!(routing.partitions_of(shard).contains(&partition));
            }
        }
    }

    #[test]
    fn there_are_no_more_partitions_than_slots() {
        assert!(routing(16, 64).is_some());
        assert!(routing(17, 64).is_none());
        assert!(routing(0, 1).is_none());
        assert!(routing(70_000, 1).is_none());
    }

    #[test]
    fn topics_that_are_named_are_asked_of_their_own_shards_alone() {
        let routing = routing(3, 1).unwrap();
        let asked = |topics: &str| -> Vec<_> {
            let asked = routing.split_topics(&topics.parse().unwrap());
            asked.into_iter().map(|(shard, topics)| (shard, topics.to_string())).collect()
        };
        let of =
            |shard| (0..).map(|n| format!("t{n}")).find(|topic| routing.shard_of(topic) == shard).unwrap();
        let (zero, two) = (of(0), of(2));
        assert_eq!(asked(&two), [(2, two.clone())]);
        assert_eq!(asked(&format!("{two},{zero}")), [(0, zero), (2, two.clone())]);
        assert_eq!(asked(&format!("{two},a.*")).len(), 3);
    }
}
