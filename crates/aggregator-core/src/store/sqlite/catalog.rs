//! The catalog: the partition's counters and all topics, kept in memory because every append needs them.
//!
//! It holds all topics, not a cache of some. If a topic were looked up in a damaged file and not found, it would be taken
//! for a new topic, and every repeat in it for a new event.

mod partition_state;
pub(crate) mod snapshot;
mod topic_row;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rusqlite::Connection;

pub(crate) use self::partition_state::PartitionState;
pub(crate) use self::topic_row::{TOPIC_COLUMNS, TopicRow};
use super::fault::{Corruption, TransactionError};
use super::journal::{self, Replayed};
use crate::store::memory::too_many_topics;
use crate::{Fault, Scope};

/// The topics and counters as of the last commit.
pub(crate) struct Catalog {
    pub(crate) partition: PartitionState,
    /// In the order of their ids, which are 1, 2, 3, …; at most `max_topics`.
    topics: Vec<(Arc<str>, TopicRow)>,
    /// The ids of the topics by their names, but for those in `created`.
    names: Arc<TopicNames>,
    /// Topics that are not in `names` yet: those that the running write creates, or all if they were just read.
    created: HashMap<Arc<str>, TopicIdentity>,
}

/// The names of the topics, for readers and for the threads that make lookup hints.
///
/// Complete as of the last commit that the writer reported ([`Self::committed`]). Empty if the topics could not be read
/// when the store was opened. Ids are 1, 2, 3, … in the order of creation, so [`Self::last_id`] says which topics are
/// here.
#[derive(Default)]
pub(crate) struct TopicNames(RwLock<HashMap<Arc<str>, TopicIdentity>>);

/// The columns of a topic that never change.
#[derive(Clone, Copy)]
pub(crate) struct TopicIdentity {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
}

impl TopicNames {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, HashMap<Arc<str>, TopicIdentity>> {
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
    fn committed(&self, created: HashMap<Arc<str>, TopicIdentity>) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.is_empty() {
            *names = created;
        } else {
            names.extend(created);
        }
    }
}

impl Catalog {
    /// That of the file: what the tables say, and the journal beyond that.
    pub(crate) fn load(
        connection: &Connection,
        names: &Arc<TopicNames>,
    ) -> rusqlite::Result<(Self, Replayed)> {
        let partition = PartitionState::read(connection)?;
        // A wrong number is no reason to run out of memory.
        let expected = usize::try_from(partition.topics).unwrap_or(usize::MAX).min(MAX_EXPECTED);
        let unknown = if names.last_id() == 0 { expected } else { 0 };
        let mut catalog = Self {
            partition,
            topics: Vec::with_capacity(expected),
            names: Arc::clone(names),
            created: HashMap::with_capacity(unknown),
        };
        let mut select = connection
            .prepare_cached(&format!("SELECT {TOPIC_COLUMNS} FROM topics t ORDER BY t.topic_id"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (name, topic) = TopicRow::read(row)?;
            if topic.id != catalog.next_id() {
                return Err(Corruption::error(format!("topic {} is missing", catalog.next_id())));
            }
            catalog.add(name, topic);
        }
        if catalog.len() != partition.topics {
            let (counted, found) = (partition.topics, catalog.len());
            return Err(Corruption::error(format!(
                "the counter topics says {counted}, the rows say {found}"
            )));
        }
        let mut replayed = journal::replay(connection, &partition)?;
        for ((name, topic), delta) in catalog.topics.iter_mut().zip(&mut replayed.deltas) {
            topic.add(name, delta)?;
        }
        catalog.check_sums()?;
        Ok((catalog, replayed))
    }

    /// Checks that the topics say what the partition says.
    fn check_sums(&self) -> rusqlite::Result<()> {
        let sum = |count: fn(&TopicRow) -> u64| self.rows().map(count).fold(0, u64::wrapping_add);
        let PartitionState { stored, duplicates, conflicts, .. } = self.partition;
        for (what, counted, rows) in [
            ("stored", stored, sum(|topic| topic.last_seq)),
            ("duplicates", duplicates, sum(|topic| topic.duplicates)),
            ("conflicts", conflicts, sum(|topic| topic.conflicts)),
        ] {
            if counted != rows {
                return Err(Corruption::error(format!(
                    "the counter {what} says {counted}, the topics say {rows}"
                )));
            }
        }
        Ok(())
    }

    /// The rows in the order of their ids.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &TopicRow> {
        self.topics.iter().map(|(_, topic)| topic)
    }

    fn len(&self) -> u64 {
        self.topics.len() as u64
    }

    fn next_id(&self) -> i64 {
        i64::try_from(self.topics.len() + 1).expect("there are fewer topics than bytes")
    }

    fn add(&mut self, name: &str, topic: TopicRow) {
        let known = self.names.read().get_key_value(name).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            self.created.insert(Arc::clone(&name), topic.identity());
            name
        });
        self.topics.push((name, topic));
    }

    pub(crate) fn get(&self, name: &str) -> Option<&TopicRow> {
        let identity = self.names.get(name).or_else(|| self.created.get(name).copied())?;
        Some(&self.topics[index_of(identity.id)].1)
    }

    /// To be called when the commit has returned: readers learn of the topics that it has created.
    pub(crate) fn committed(&mut self) {
        if !self.created.is_empty() {
            self.names.committed(std::mem::take(&mut self.created));
        }
    }

    /// `None` if there is no topic with this id.
    pub(crate) fn scope(&self, id: i64) -> Option<Scope> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        self.topics.get(index).map(|(_, topic)| topic.scope)
    }

    /// The name and the row of the topic with this id, which there has to be.
    pub(crate) fn topic_mut(&mut self, id: i64) -> (&str, &mut TopicRow) {
        let (name, topic) = &mut self.topics[index_of(id)];
        (name, topic)
    }

    /// Replaces the row of a topic.
    pub(crate) fn put(&mut self, topic: TopicRow) {
        self.topics[index_of(topic.id)].1 = topic;
    }

    /// The topic of this name; created with this scope if there is none. The caller [puts](Self::put) the changed row back.
    pub(crate) fn topic(
        &mut self,
        connection: &Connection,
        name: &str,
        scope: Scope,
    ) -> rusqlite::Result<TopicRow> {
        if let Some(topic) = self.get(name) {
            return Ok(*topic);
        }
        self.partition.topics += 1;
        let topic = TopicRow::new(self.next_id(), scope);
        topic.insert(connection, name)?;
        self.add(name, topic);
        Ok(topic)
    }
}

/// Room is made for so many topics before they are read.
const MAX_EXPECTED: usize = 1 << 24;

/// Where the topic with this id is, in a list of all topics.
pub(crate) fn index_of(id: i64) -> usize {
    usize::try_from(id - 1).expect("ids begin with 1")
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
        if catalog.get(topic).is_some() || new.contains(topic) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;
    use crate::store::sqlite::journal::append_row;
    use crate::{DedupStoreExt as _, Event};

    /// The error of loading a store of three events after `change`, which leaves all checksums right.
    fn error_after(change: impl FnOnce(&Connection, &mut PartitionState)) -> String {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        for n in 0..3 {
            store.append_one(&Event::new("t", n.to_string()).unwrap()).unwrap();
        }
        drop(store);
        let connection = Connection::open(&path).unwrap();
        assert!(Catalog::load(&connection, &Arc::default()).is_ok());
        let mut partition = PartitionState::read(&connection).unwrap();
        change(&connection, &mut partition);
        partition.write(&connection).unwrap();
        Catalog::load(&connection, &Arc::default()).err().unwrap().to_string()
    }

    #[test]
    fn counters_that_the_topics_contradict_are_refused() {
        for (what, change) in [
            ("stored", (|partition| partition.stored += 1) as fn(&mut PartitionState)),
            ("duplicates", |partition| partition.duplicates += 1),
            ("conflicts", |partition| partition.conflicts += 1),
        ] {
            let error = error_after(|_, partition| change(partition));
            assert!(error.contains(&format!("the counter {what} says")), "{error}");
        }
    }

    #[test]
    fn a_journal_with_events_that_were_folded_is_refused() {
        let error = error_after(|connection, partition| {
            append_row(connection, partition, 2);
            partition.stored += 1;
        });
        assert!(error.contains("contradicts the others"), "{error}");
        let error = error_after(|connection, partition| {
            // As if all were folded.
            let topic = TopicRow { last_seq: 3, last_offset: 3, ..TopicRow::new(1, Scope::Topic) };
            topic.update(connection, "t").unwrap();
            partition.stored = 6;
        });
        assert!(error.contains("that were folded"), "{error}");
    }
}
