//! The topics as of a snapshot, without a look at the file: memory knows them all.
//!
//! A name that is looked up in a damaged file and not found there is not unknown for that. Memory tells one from
//! the other, and reads nothing: not one row for a name, and not all rows to be sure of one.

use std::collections::HashMap;

use rusqlite::{Connection, Result};

use super::{Named, PartitionState, TOPIC_COLUMNS, TopicNames, TopicRow};
use crate::store::sqlite::row::checksum::Corruption;

/// The names and ids of all topics, as of the transaction of a reader.
pub(crate) struct TopicSnapshot<'n> {
    names: &'n TopicNames,
    /// Topics are numbered in the order in which they were created: these are 1 to `last_id`.
    last_id: u64,
    /// The topics that memory did not know when the transaction began: the writer is between its commit and telling
    /// memory of it. And all topics, if they could not be read when the store was opened.
    newer: HashMap<Box<str>, Named>,
}

impl<'n> TopicSnapshot<'n> {
    /// As of the transaction that `snapshot` has open, and whose counters are `tail`.
    pub(crate) fn at(
        snapshot: &Connection,
        names: &'n TopicNames,
        partition: &PartitionState,
    ) -> Result<Self> {
        let last_id = partition.topics;
        let catalog = names.last_id();
        let mut newer = HashMap::new();
        if catalog < last_id {
            let mut select = snapshot.prepare_cached(&format!(
                "SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.topic_id > ?1 ORDER BY t.topic_id"
            ))?;
            let mut rows = select.query([catalog])?;
            while let Some(row) = rows.next()? {
                let (name, topic) = TopicRow::read(row)?;
                newer.insert(name.into(), topic.named());
            }
            if newer.len() as u64 != last_id - catalog {
                return Err(Corruption::error("topics are missing".into()));
            }
        }
        Ok(Self { names, last_id, newer })
    }

    /// The topic of this name, unless it is unknown.
    pub(crate) fn get(&self, name: &str) -> Option<Named> {
        let named = self.newer.get(name).copied().or_else(|| self.names.get(name))?;
        // Memory may know some that were created since.
        (named.id.cast_unsigned() <= self.last_id).then_some(named)
    }
}
