//! A page of topics: the index on names, from one name on, and two events of each topic for its times.

use rusqlite::types::Value;
use rusqlite::{Connection, Result};

use super::{Memory, with_memory};
use crate::event::slot;
use crate::query::TopicQuery;
use crate::store::TopicInfo;
use crate::store::sqlite::catalog::snapshot::TopicSnapshot;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline, store_error};
use crate::store::sqlite::journal::{TopicView, Views};
use crate::store::sqlite::row::forgotten::Forgotten;
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::{StoreError, Timestamp, Topic, TopicSelector};

pub(crate) fn topics(
    connection: &mut Connection,
    memory: &Memory,
    query: &TopicQuery,
) -> Result<Vec<TopicInfo>, StoreError> {
    with_memory(connection, "listing topics", |snapshot| list(snapshot, memory, query))
}

/// The repeats that it counts may be of a later commit than the rest.
fn list(
    snapshot: &Connection,
    memory: &Memory,
    query: &TopicQuery,
) -> Result<Option<Vec<TopicInfo>>, StoreError> {
    let failed = |error| store_error("listing topics", error);
    let mut times = query.times.then(|| Times::new(snapshot)).transpose().map_err(failed)?;
    let mut topics = Vec::new();
    let Some(found) = views(snapshot, memory, query).map_err(failed)? else { return Ok(None) };
    for (name, view) in found {
        let row = view.row;
        let slot = slot(&name);
        let named = Topic::new(name);
        let topic = named.map_err(|error| StoreError::corrupt(format!("the name of a topic: {error}")))?;
        let (first, last) = match &mut times {
            Some(times) => times.of(&topic, &view).map_err(failed)?,
            None => (None, None),
        };
        topics.push(TopicInfo {
            topic,
            scope: row.scope,
            slot,
            last_seq: row.last_seq,
            purged_seq: row.purged_seq,
            duplicates: row.duplicates,
            conflicts: row.conflicts,
            first_processed_at: first,
            last_processed_at: last,
        });
    }
    Ok(Some(topics))
}

/// `None` if what is in memory is not of the snapshot's commit.
fn views(
    snapshot: &Connection,
    memory: &Memory,
    query: &TopicQuery,
) -> Result<Option<Vec<(String, TopicView)>>> {
    let partition = PartitionState::read(snapshot)?;
    let catalog = TopicSnapshot::at(snapshot, &memory.names, &partition)?;
    let mut select = snapshot.prepare_cached(&format!(
        "SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name >= ?1 AND t.name < ?2 ORDER BY t.name LIMIT ?3"
    ))?;
    let views = Views::of(snapshot, &memory.tails, &partition);
    let mut found = Vec::new();
    for (selector, (low, high)) in query.ranges() {
        // A damaged name may lie behind all good ones, but no text lies behind a blob.
        let high = match selector {
            TopicSelector::All => Value::Blob(Vec::new()),
            TopicSelector::Exact(_) | TopicSelector::Below(_) => Value::Text(high),
        };
        let before = found.len();
        let left = i64::try_from(query.limit - before).unwrap_or(i64::MAX);
        let mut rows = select.query((low, high, left))?;
        while let Some(row) = rows.next()? {
            check_deadline()?;
            let (name, topic) = TopicRow::read(row)?;
            let view = views.view(name, topic)?;
            let Some(view) = view else { return Ok(None) };
            found.push((name.to_owned(), view));
        }
        if found.len() == query.limit {
            break;
        }
        if let TopicSelector::Exact(name) = selector
            && found.len() == before
            && catalog.get(name.as_str()).is_some()
        {
            return Err(Corruption::error(format!("the topic {name} is missing")));
        }
    }
    Ok(Some(found))
}

/// Finds the times of topics.
struct Times<'c> {
    connection: &'c Connection,
    rows: StoredIdentities<'c>,
}

impl<'c> Times<'c> {
    fn new(connection: &'c Connection) -> Result<Self> {
        Ok(Self { connection, rows: StoredIdentities::new(connection)? })
    }

    /// Those of the oldest event that was not purged, and of the newest one.
    fn of(&mut self, name: &Topic, view: &TopicView) -> Result<(Option<Timestamp>, Option<Timestamp>)> {
        check_deadline()?;
        let row = &view.row;
        if row.last_seq == 0 {
            return Ok((None, None));
        }
        let last = self.at(name, row, row.last_offset, row.last_seq)?;
        if row.purged_seq == row.last_seq {
            return Ok((None, Some(last)));
        }
        let first = self.at(name, row, self.first_offset(name, view)?, row.purged_seq + 1)?;
        Ok((Some(first), Some(last)))
    }

    /// What is purged is in no span.
    fn first_offset(&self, name: &Topic, view: &TopicView) -> Result<u64> {
        view.first_offset(self.connection)?
            .ok_or_else(|| Corruption::error(format!("the spans of topic {name} are missing")))
    }

    /// That of the event of this seq, which has to be at `offset`, or has left its stub there.
    fn at(&mut self, name: &Topic, row: &TopicRow, offset: u64, seq: u64) -> Result<Timestamp> {
        let found = self.rows.at(offset, |found| match found {
            StoredIdentity::Event(event) => (event.topic_id, Some(event.seq), event.processed_at),
            StoredIdentity::Stub(stub) => (stub.topic_id, stub.seq, stub.processed_at),
        })?;
        match found {
            Some((id, of, processed_at)) if (id, of) == (row.id, Some(seq)) => {
                Ok(Timestamp::from_micros(processed_at))
            }
            // What was forgotten has left its time.
            None if let Some(mark) = Forgotten::of(self.connection, row.id)?
                && mark.seq == seq
                && mark.offset >= offset =>
            {
                Ok(Timestamp::from_micros(mark.processed_at))
            }
            _ => Err(Corruption::error(format!("event {seq} of topic {name} is missing at offset {offset}"))),
        }
    }
}
