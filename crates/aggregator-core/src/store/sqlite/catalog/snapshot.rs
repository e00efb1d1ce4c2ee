//! The topics as of a reader's snapshot, answered from memory.
//!
//! A topic that is not found in a damaged file may still exist. Memory knows all topics, so it can tell an unknown name
//! from a lost row, and it reads no rows for that.

use std::collections::HashMap;

use rusqlite::{Connection, Result};

use super::{PartitionState, TOPIC_COLUMNS, TopicIdentity, TopicNames, TopicRow};
use crate::store::sqlite::fault::Corruption;

/// The names and ids of all topics, as of a reader's transaction.
pub(crate) struct TopicSnapshot<'n> {
    names: &'n TopicNames,
    /// The topics of the snapshot are 1 to `last_id`, because ids are given in the order of creation.
    last_id: u64,
    /// The topics that `names` lacks, read from the file: the writer has committed them but not yet reported. All topics,
    /// if they could not be read when the store was opened.
    newer: HashMap<Box<str>, TopicIdentity>,
}

impl<'n> TopicSnapshot<'n> {
    /// The topics as of the transaction that `snapshot` has open. `partition` is its row of counters.
    pub(crate) fn at(
        snapshot: &Connection,
        names: &'n TopicNames,
        partition: &PartitionState,
    ) -> Result<Self> {
        let last_id = partition.topics;
        let known_through = names.last_id();
        let mut newer = HashMap::new();
        if known_through < last_id {
            let mut select = snapshot.prepare_cached(&format!(
                "SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.topic_id > ?1 ORDER BY t.topic_id"
            ))?;
            let mut rows = select.query([known_through])?;
            while let Some(row) = rows.next()? {
                let (name, topic) = TopicRow::read(row)?;
                newer.insert(name.into(), topic.identity());
            }
            if newer.len() as u64 != last_id - known_through {
                return Err(Corruption::error("topics are missing".into()));
            }
        }
        Ok(Self { names, last_id, newer })
    }

    /// The topic of this name, unless it is unknown.
    pub(crate) fn get(&self, name: &str) -> Option<TopicIdentity> {
        let identity = self.newer.get(name).copied().or_else(|| self.names.get(name))?;
        // Memory may also know topics that were created after the snapshot.
        (identity.id.cast_unsigned() <= self.last_id).then_some(identity)
    }
}
