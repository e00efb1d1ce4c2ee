//! The catalog: the partition's counters and all topics, kept in memory because every append needs them.
//!
//! It holds all topics, not a cache of some. If a topic were looked up in a damaged file and not found, it would be taken
//! for a new topic, and every repeat in it for a new event.

pub(crate) mod snapshot;

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rusqlite::{Connection, Row};

use super::fault::{Corruption, TransactionError};
use super::row::checksum::{Checksum, text};
use super::row::scope;
use crate::event::slot;
use crate::store::memory::too_many_topics;
use crate::{Fault, Scope};

/// A copy of the file's rows, as of the last commit.
pub(crate) struct Catalog {
    pub(crate) partition: PartitionState,
    /// At most `max_topics`.
    pub(crate) topics: HashMap<Box<str>, TopicRow>,
    /// Topics that are not in [`TopicNames`] yet: those that the running write creates, or all if they were just read.
    created: Vec<(Box<str>, TopicIdentity)>,
}

/// The names of the topics, for readers and for the threads that make lookup hints.
///
/// Complete as of the last commit that the writer reported ([`Self::committed`]). Empty if the topics could not be read
/// when the store was opened. Ids are 1, 2, 3, … in the order of creation, so [`Self::last_id`] says which topics are
/// here.
#[derive(Default)]
pub(crate) struct TopicNames(RwLock<HashMap<Box<str>, TopicIdentity>>);

/// The columns of a topic that never change.
#[derive(Clone, Copy)]
pub(crate) struct TopicIdentity {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
}

impl TopicNames {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, HashMap<Box<str>, TopicIdentity>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, name: &str) -> Option<TopicIdentity> {
        self.read().get(name).copied()
    }

    /// All topics up to this id are here.
    pub(crate) fn last_id(&self) -> u64 {
        self.read().len() as u64
    }

    /// Takes the topics that a commit has created.
    pub(crate) fn committed(&self, catalog: &mut Catalog) {
        if !catalog.created.is_empty() {
            self.0
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(std::mem::take(&mut catalog.created));
        }
    }
}

/// The partition's row.
#[derive(Clone, Copy, Default)]
pub(crate) struct PartitionState {
    pub(crate) last_offset: u64,
    pub(crate) last_processed_at: i64,
    pub(crate) topics: u64,
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
    pub(crate) last_seq: u64,
    /// The offset of its last event.
    pub(crate) last_offset: u64,
    /// The first offset of its last span; 0 if it has none.
    pub(crate) last_span: u64,
    pub(crate) purged_seq: u64,
    pub(crate) purged_offset: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

impl Catalog {
    /// The one that is kept, or if there is none, that of the file, which is kept from then on.
    pub(crate) fn kept<'k>(
        kept: &'k mut Option<Self>,
        connection: &Connection,
    ) -> rusqlite::Result<&'k mut Self> {
        match kept {
            Some(catalog) => Ok(catalog),
            unknown => Ok(unknown.insert(Self::load(connection)?)),
        }
    }

    pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let partition = PartitionState::read(connection)?;
        let (mut topics, mut created) = (HashMap::new(), Vec::new());
        let mut select = connection.prepare_cached(&format!("SELECT {TOPIC_COLUMNS} FROM topics t"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (name, topic) = TopicRow::read(row)?;
            created.push((name.into(), topic.identity()));
            topics.insert(name.into(), topic);
        }
        if topics.len() as u64 != partition.topics {
            let (counted, found) = (partition.topics, topics.len());
            return Err(Corruption::error(format!(
                "the counter topics says {counted}, the rows say {found}"
            )));
        }
        Ok(Self { partition, topics, created })
    }

    /// The topic of this name; created with this scope if there is none. The caller puts the changed row back into
    /// `topics`.
    pub(crate) fn topic(
        &mut self,
        connection: &Connection,
        name: &str,
        scope: Scope,
    ) -> rusqlite::Result<TopicRow> {
        if let Some(topic) = self.topics.get(name) {
            return Ok(*topic);
        }
        self.partition.topics += 1;
        let id = i64::try_from(self.partition.topics).expect("there are fewer topics than bytes");
        let topic = TopicRow::new(id, scope);
        topic.insert(connection, name)?;
        self.created.push((name.into(), topic.identity()));
        Ok(topic)
    }
}

impl PartitionState {
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut select = connection.prepare_cached(
            "SELECT last_offset, last_processed_at, topics, stored, duplicates, conflicts, checksum
             FROM partitions WHERE partition = 0",
        )?;
        select.query_row([], |row| {
            let partition = Self {
                last_offset: row.get(0)?,
                last_processed_at: row.get(1)?,
                topics: row.get(2)?,
                stored: row.get(3)?,
                duplicates: row.get(4)?,
                conflicts: row.get(5)?,
            };
            if partition.checksum() != row.get::<_, i64>(6)? {
                return Err(Corruption::error("the partition's counters do not match their checksum".into()));
            }
            Ok(partition)
        })
    }

    /// Inserts the row of an empty store.
    pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
        let partition = Self { last_processed_at: i64::MIN, ..Self::default() };
        connection.execute("INSERT INTO partitions VALUES (0, 0, 0, 0, 0, 0, 0, 0)", [])?;
        partition.write(connection)
    }

    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE partitions SET last_offset = ?1, last_processed_at = ?2, topics = ?3, stored = ?4,
                    duplicates = ?5, conflicts = ?6, checksum = ?7
             WHERE partition = 0",
        )?;
        update.execute((
            self.last_offset,
            self.last_processed_at,
            self.topics,
            self.stored,
            self.duplicates,
            self.conflicts,
            self.checksum(),
        ))?;
        Ok(())
    }

    fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        let times = [self.last_processed_at.cast_unsigned(), self.last_offset];
        let counters = [self.topics, self.stored, self.duplicates, self.conflicts];
        times.into_iter().chain(counters).for_each(|number| sum.number(number));
        sum.finish()
    }
}

/// The columns that [`TopicRow::read`] reads.
pub(crate) const TOPIC_COLUMNS: &str = "t.name, t.topic_id, t.slot, t.scope, t.last_seq, t.last_offset,
    t.last_span, t.purged_seq, t.purged_offset, t.duplicates, t.conflicts, t.checksum";

impl TopicRow {
    pub(crate) fn identity(&self) -> TopicIdentity {
        TopicIdentity { id: self.id, scope: self.scope }
    }

    /// A topic without events.
    pub(crate) fn new(id: i64, scope: Scope) -> Self {
        Self { id, scope, ..Self::default() }
    }

    /// Reads a row of [`TOPIC_COLUMNS`], and checks it.
    pub(crate) fn read<'r>(row: &'r Row<'_>) -> rusqlite::Result<(&'r str, Self)> {
        let name = text(row, 0)?;
        let topic = Self {
            id: row.get(1)?,
            scope: scope(row, 3)?,
            last_seq: row.get(4)?,
            last_offset: row.get(5)?,
            last_span: row.get(6)?,
            purged_seq: row.get(7)?,
            purged_offset: row.get(8)?,
            duplicates: row.get(9)?,
            conflicts: row.get(10)?,
        };
        if row.get::<_, u16>(2)? != slot(name) || row.get::<_, i64>(11)? != topic.checksum(name) {
            return Err(Corruption::error(format!("the topic {name:?} does not match its checksum")));
        }
        Ok((name, topic))
    }

    pub(crate) fn insert(&self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let mut insert = connection.prepare_cached(
            "INSERT INTO topics (topic_id, name, slot, scope, last_seq, last_offset, last_span, purged_seq,
                                 purged_offset, duplicates, conflicts, checksum)
             VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0, 0, 0, ?5)",
        )?;
        let scope = match self.scope {
            Scope::Topic => 0,
            Scope::Source => 1,
        };
        insert.execute((self.id, name, slot(name), scope, self.checksum(name))).map(drop)
    }

    pub(crate) fn update(&self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE topics SET last_seq = ?2, last_offset = ?3, last_span = ?4, purged_seq = ?5,
                    purged_offset = ?6, duplicates = ?7, conflicts = ?8, checksum = ?9
             WHERE topic_id = ?1",
        )?;
        let rows = update.execute((
            self.id,
            self.last_seq,
            self.last_offset,
            self.last_span,
            self.purged_seq,
            self.purged_offset,
            self.duplicates,
            self.conflicts,
            self.checksum(name),
        ))?;
        if rows == 1 {
            Ok(())
        } else {
            Err(Corruption::error(format!("the row of topic {name:?} is missing")))
        }
    }

    /// Records that the topic's next events have the offsets `first` to `last`.
    pub(crate) fn extend(&mut self, connection: &Connection, first: u64, last: u64) -> rusqlite::Result<()> {
        if self.last_span == 0 || self.last_offset + 1 != first {
            self.last_span = first;
        }
        self.last_offset = last;
        connection
            .prepare_cached(
                "INSERT INTO spans (topic_id, first_offset, last_offset) VALUES (?1, ?2, ?3)
                 ON CONFLICT (topic_id, first_offset) DO UPDATE SET last_offset = ?3",
            )?
            .execute((self.id, self.last_span, last))
            .map(drop)
    }

    fn checksum(&self, name: &str) -> i64 {
        let mut sum = Checksum::default();
        sum.text(Some(name));
        let fixed = [self.id.cast_unsigned(), u64::from(self.scope == Scope::Source)];
        let places = [self.last_seq, self.last_offset, self.last_span, self.purged_seq, self.purged_offset];
        let counters = [self.duplicates, self.conflicts];
        fixed.into_iter().chain(places).chain(counters).for_each(|number| sum.number(number));
        sum.finish()
    }
}

/// Refuses the items whose new topics would exceed `max_topics`.
pub(crate) fn check_topics<'t>(
    catalog: &Catalog,
    topics: impl Iterator<Item = &'t str>,
    max_topics: u64,
) -> Result<(), TransactionError> {
    let mut new = HashSet::new();
    let mut faults = Vec::new();
    for (index, topic) in topics.enumerate() {
        if catalog.topics.contains_key(topic) || new.contains(topic) {
            continue;
        }
        if catalog.partition.topics + (new.len() as u64) < max_topics {
            new.insert(topic);
        } else {
            faults.push(Fault { index: Some(index), error: too_many_topics(max_topics) });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(TransactionError::Refused(faults)) }
}
