//! Reads a store in an order in which another store can take it.

use std::collections::{HashSet, VecDeque};

use super::RowLimit;
use crate::event::StoredRow;
use crate::store::{DedupStore, DedupStoreExt};
use crate::{Partition, StoreError};

/// All rows of a store from given offsets on, its partitions merged by (`processed_at`, partition,
/// offset): an order in which times do not go back in any partition of another store.
pub struct Rows<'s> {
    store: &'s dyn DedupStore,
    limit: RowLimit,
    parts: Vec<Part>,
    /// The topics of which events or stubs were given out.
    topics: HashSet<String>,
}

struct Part {
    partition: Partition,
    /// The offset of the last row that was given out.
    given: u64,
    /// The offset of the last row that was read.
    read: u64,
    rows: VecDeque<(u64, StoredRow)>,
    ended: bool,
}

impl<'s> Rows<'s> {
    /// From the first row on.
    pub fn of(store: &'s dyn DedupStore) -> Self {
        Self::after(store, &vec![0; usize::from(store.partitions().count())])
    }

    /// From behind these offsets on, one per partition.
    ///
    /// # Panics
    /// When there are not as many offsets as partitions.
    pub fn after(store: &'s dyn DedupStore, offsets: &[u64]) -> Self {
        let partitions = store.partitions();
        assert_eq!(offsets.len(), usize::from(partitions.count()), "there is an offset per partition");
        let part = |(partition, &offset)| Part {
            partition,
            given: offset,
            read: offset,
            rows: VecDeque::new(),
            ended: false,
        };
        let limit = RowLimit::default();
        // All partitions together hold as much as one would.
        let share = |of: usize| (of / offsets.len()).max(1);
        let limit = RowLimit { rows: share(limit.rows), payload_bytes: share(limit.payload_bytes) };
        Self {
            store,
            limit,
            parts: partitions.iter().zip(offsets).map(part).collect(),
            topics: HashSet::new(),
        }
    }

    /// Up to which offset the rows of each partition were given out.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().map(|part| part.given)
    }

    /// The next row; `None` at the end of what was there when it was last read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if events of a topic were forgotten whose first rows were already given out: no other
    /// store could go on with the next one. Otherwise whatever the store meets.
    #[expect(clippy::should_implement_trait, reason = "errors would be inside out")]
    pub fn next(&mut self) -> Result<Option<StoredRow>, StoreError> {
        for part in &mut self.parts {
            if part.rows.is_empty() && !part.ended {
                part.rows = self.store.rows(part.partition, part.read, self.limit)?.into();
                part.read = part.rows.back().map_or(part.read, |&(offset, _)| offset);
                part.ended = part.rows.is_empty();
            }
        }
        // An identity alone has a time that may come from anywhere: it goes first, and holds up nothing. So does the mark
        // of such identities, whose seq is 0.
        let key = |part: &Part| {
            let (offset, row) = part.rows.front()?;
            Some((row.seq().filter(|seq| *seq > 0).map(|_| row.processed_at), part.partition, *offset))
        };
        let heads = self.parts.iter().enumerate();
        let next = heads.filter_map(|(at, part)| Some((key(part)?, at))).min();
        let Some(part) = next.and_then(|(_, at)| self.parts.get_mut(at)) else { return Ok(None) };
        let Some((offset, row)) = part.rows.pop_front() else { return Ok(None) };
        part.given = offset;
        // Identities without seqs come as they do: they belong to no sequence.
        let has_seq = row.seq().is_some_and(|seq| seq > 0);
        if has_seq && row.is_forgotten() && self.topics.contains(&row.topic) {
            return Err(StoreError::unavailable(format!(
                "events of topic {} were forgotten while its rows were read: begin again",
                row.topic
            )));
        }
        if has_seq && !self.topics.contains(&row.topic) {
            self.topics.insert(row.topic.clone());
        }
        Ok(Some(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, MemoryStore, Partitions, Timestamp, Topic};

    #[test]
    fn all_partitions_together_are_read_in_pieces_as_large_as_those_of_one() {
        let limit_of = |partitions| {
            let store = MemoryStore::new(Partitions::new(partitions).unwrap());
            Rows::after(&store, &vec![0; partitions.into()]).limit
        };
        let one = limit_of(1);
        assert_eq!(one, RowLimit::default());
        assert_eq!(limit_of(4), RowLimit { rows: one.rows / 4, payload_bytes: one.payload_bytes / 4 });
    }

    #[test]
    fn rows_that_are_forgotten_while_they_are_read_end_the_reading() {
        let store = MemoryStore::default();
        for id in 0..9 {
            store.append_one(&Event::new("t", id.to_string()).unwrap()).unwrap();
        }
        let topic = Topic::new("t").unwrap();
        store.purge(&topic, 8).unwrap();
        let forget = |most| store.forget_identities(&topic, Timestamp::from_micros(i64::MAX), most).unwrap();
        assert_eq!(forget(2), 2);
        let mut rows = Rows { limit: RowLimit { rows: 2, ..RowLimit::default() }, ..Rows::of(&store) };
        assert!(rows.next().unwrap().unwrap().is_forgotten());
        assert_eq!(rows.next().unwrap().unwrap().seq(), Some(3));
        // Rows that were given out do not matter any more.
        assert_eq!(forget(1), 1);
        assert_eq!(rows.next().unwrap().unwrap().seq(), Some(4));
        assert_eq!(rows.next().unwrap().unwrap().seq(), Some(5));
        assert_eq!(forget(3), 3);
        let error = rows.next().unwrap_err();
        assert!(error.to_string().contains("topic t were forgotten while"), "{error}");
    }
}
