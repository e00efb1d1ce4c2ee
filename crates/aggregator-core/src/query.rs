//! Reading the clean stream in pages.

mod page;
mod progress;
mod topic_query;

use std::collections::BTreeSet;

use xxhash_rust::xxh3::Xxh3;

use crate::cursor::{Anchor, Position};
use crate::store::StoreInfo;
use crate::{
    Cursor, EventId, Partition, Partitions, Source, StoreError, Timestamp, Topic, TopicSelector, Topics,
    WrongCursor,
};

pub use self::page::{Cursors, Page};
pub use self::progress::Progress;
pub use self::topic_query::TopicQuery;

/// In which order a page lists its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Oldest first: the order of the stream.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Which events to read. All filters must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Of these topics.
    pub topics: Topics,
    /// With this id; only together with [one exact topic](Topics::exact).
    pub event_id: Option<EventId>,
    /// From this source.
    pub source: Option<Source>,
    /// Stored at this time or later.
    pub since: Option<Timestamp>,
    /// Stored before this time.
    pub until: Option<Timestamp>,
    /// Oldest or newest first.
    pub order: Order,
    /// From here on; from the start if it is missing.
    pub after: Option<Cursor>,
    /// How many events at most: 1 to [`Query::MAX_LIMIT`].
    pub limit: usize,
    /// A page ends with the event that makes its payloads this many bytes: [`Query::MAX_PAYLOAD_BYTES`] or fewer.
    pub payload_bytes: usize,
}

impl Query {
    /// The most events of a page.
    pub const MAX_LIMIT: usize = 1_000;
    /// How many events a page has unless its reader says otherwise.
    pub const DEFAULT_LIMIT: usize = 100;
    /// The most rows of its topics that are looked at for one page. A page can end here, even empty, without being the last.
    pub const MAX_SCANNED: usize = 10_000;
    /// The most of [`Query::payload_bytes`], and how many there are unless the reader says otherwise.
    pub const MAX_PAYLOAD_BYTES: usize = 8 << 20;

    /// Everything that `topics` selects, oldest first.
    pub fn of(topics: impl Into<Topics>) -> Self {
        Self {
            topics: topics.into(),
            event_id: None,
            source: None,
            since: None,
            until: None,
            order: Order::Ascending,
            after: None,
            limit: Self::DEFAULT_LIMIT,
            payload_bytes: Self::MAX_PAYLOAD_BYTES,
        }
    }

    /// Everything of one topic, oldest first.
    pub fn topic(topic: Topic) -> Self {
        Self::of(TopicSelector::Exact(topic))
    }

    /// Whether an event passes the filters other than its topic.
    pub fn admits(&self, event_id: &str, source: &str, processed_at: Timestamp) -> bool {
        self.event_id.as_ref().is_none_or(|wanted| wanted.as_str() == event_id)
            && self.source.as_ref().is_none_or(|wanted| wanted.as_str() == source)
            && self.since.is_none_or(|since| processed_at >= since)
            && self.until.is_none_or(|until| processed_at < until)
    }

    /// Whether the query's time begins behind this row, in its order. For backends: whatever lies before, whose amount knows no
    /// bound, has to be passed over without being looked at.
    pub fn begins_behind(&self, processed_at: Timestamp) -> bool {
        match self.order {
            Order::Ascending => self.since.is_some_and(|since| processed_at < since),
            Order::Descending => self.until.is_some_and(|until| processed_at >= until),
        }
    }

    /// Where to go on in every partition the query is about. For backends.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a limit out of range or filters that do not go together,
    /// [`StoreError::WrongCursor`] for a cursor of another store or query.
    pub fn positions(&self, store: &StoreInfo) -> Result<Vec<Position>, StoreError> {
        if !(1..=Self::MAX_LIMIT).contains(&self.limit) {
            return Err(StoreError::invalid("limit", format!("must be 1 to {}", Self::MAX_LIMIT)));
        }
        if self.event_id.is_some() && self.topics.exact().is_none() {
            return Err(StoreError::invalid("event_id", "goes with one exact topic only"));
        }
        let partitions = self.partitions(store.partitions);
        let Some(after) = &self.after else {
            return Ok(partitions
                .into_iter()
                .map(|partition| Position::start(partition, self.order))
                .collect());
        };
        if after.store != store.id.hash() {
            let ancestor = store.ancestors.iter().find(|ancestor| ancestor.id.hash() == after.store);
            let ancestor = ancestor.ok_or(StoreError::WrongCursor(WrongCursor::OtherStore))?;
            if after.positions.iter().any(|position| position.anchor.offset > ancestor.until_offset) {
                return Err(StoreError::WrongCursor(WrongCursor::OtherSinceCopy));
            }
        }
        // A store's partitions are as fixed as its id, so those of the query differ only with its topics.
        if after.order != self.order
            || after.filter != self.filter_hash()
            || !after.positions.iter().map(|position| position.partition).eq(partitions)
        {
            return Err(StoreError::WrongCursor(WrongCursor::OtherQuery));
        }
        Ok(after.positions.clone())
    }

    /// Whether a page with so many bytes of payloads takes no further event. For backends.
    pub fn is_full_of(&self, payload_bytes: usize) -> bool {
        payload_bytes >= self.payload_bytes.clamp(1, Self::MAX_PAYLOAD_BYTES)
    }

    /// The partitions that the query is about, in ascending order.
    fn partitions(&self, partitions: Partitions) -> Vec<Partition> {
        let of_exact = |selector: &TopicSelector| match selector {
            TopicSelector::Exact(topic) => Some(partitions.of(topic.as_str())),
            TopicSelector::All | TopicSelector::Below(_) => None,
        };
        let of_exact: Option<BTreeSet<_>> = self.topics.selectors().iter().map(of_exact).collect();
        of_exact.map_or_else(|| partitions.iter().collect(), |some| some.into_iter().collect())
    }

    /// The cursor of this query at `positions`.
    pub fn cursor(&self, store: &StoreInfo, positions: &[Position]) -> Cursor {
        Cursor::new(store.id, self.order, self.filter_hash(), positions)
    }

    /// Tells one combination of filters from another; part of the cursor's format. The lower half of XXH3-64.
    pub(crate) fn filter_hash(&self) -> u32 {
        let mut hash = Xxh3::new();
        let mut add = |part: Option<String>| match part {
            // The length keeps neighbouring parts apart.
            Some(text) => {
                hash.update(&(text.len() as u64).to_be_bytes());
                hash.update(text.as_bytes());
            }
            None => hash.update(&u64::MAX.to_be_bytes()),
        };
        add(Some(self.topics.to_string()));
        add(self.event_id.as_ref().map(ToString::to_string));
        add(self.source.as_ref().map(ToString::to_string));
        add(self.since.as_ref().map(ToString::to_string));
        add(self.until.as_ref().map(ToString::to_string));
        let [.., a, b, c, d] = hash.digest().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The topic.
    pub topic: String,
    /// The publisher's id.
    pub event_id: String,
    /// When it happened, as the publisher wrote it.
    pub timestamp: String,
    /// Who published it.
    pub source: String,
    /// JSON text without insignificant white space.
    pub payload: String,
    /// The publisher's own counter.
    pub sequence: Option<u64>,
    /// The payload's media type where it is not plain JSON.
    pub content_type: Option<String>,
    /// Further attributes as a JSON object.
    pub attributes: Option<String>,
    /// Its place in the topic, from 1, without gaps.
    pub seq: u64,
    /// When it was stored.
    pub processed_at: Timestamp,
    /// Its partition.
    pub partition: Partition,
    /// Its place in the partition's append order, from 1.
    pub offset: u64,
}

impl StoredEvent {
    /// The bytes of its event id, its source and its payload: see [`Maintain::bytes`](crate::store::Maintain::bytes).
    pub fn data_bytes(&self) -> u64 {
        (self.event_id.len() + self.source.len() + self.payload.len()) as u64
    }

    /// Its row, as cursors keep it, where so many partitions have numbers of their own: see [`Page::of_shards`].
    pub(crate) fn anchor_in_shard(&self, partitions_per_shard: u16) -> Anchor {
        let partition = Partition(self.partition.0 % partitions_per_shard);
        Anchor::new(partition, self.offset, &self.topic, Some(self.seq), &self.event_id)
    }
}
