//! A page of topics: the index on names, from one name on, and two events of each topic for its times.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Result};

use crate::event::slot;
use crate::query::TopicQuery;
use crate::store::TopicInfo;
use crate::store::sqlite::catalog::snapshot::TopicSnapshot;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicNames, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline, store_error};
use crate::store::sqlite::row::forgotten::Forgotten;
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::{StoreError, Timestamp, Topic, TopicSelector};

pub(crate) fn topics(
    connection: &mut Connection,
    names: &TopicNames,
    query: &TopicQuery,
) -> Result<Vec<TopicInfo>, StoreError> {
    let failed = |error| store_error("listing topics", error);
    let snapshot = connection.transaction().map_err(failed)?;
    let mut times = query.times.then(|| Times::new(&snapshot)).transpose().map_err(failed)?;
    let mut topics = Vec::new();
    for (name, row) in rows(&snapshot, names, query).map_err(failed)? {
        let slot = slot(&name);
        let named = Topic::new(name);
        let topic = named.map_err(|error| StoreError::corrupt(format!("the name of a topic: {error}")))?;
        let (first, last) = match &mut times {
            Some(times) => times.of(&topic, &row).map_err(failed)?,
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
    Ok(topics)
}

fn rows(snapshot: &Connection, names: &TopicNames, query: &TopicQuery) -> Result<Vec<(String, TopicRow)>> {
    let catalog = TopicSnapshot::at(snapshot, names, &PartitionState::read(snapshot)?)?;
    let mut select = snapshot.prepare_cached(&format!(
        "SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name >= ?1 AND t.name < ?2 ORDER BY t.name LIMIT ?3"
    ))?;
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
            found.push((name.to_owned(), topic));
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
    Ok(found)
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
    fn of(&mut self, name: &Topic, row: &TopicRow) -> Result<(Option<Timestamp>, Option<Timestamp>)> {
        check_deadline()?;
        if row.last_seq == 0 {
            return Ok((None, None));
        }
        let last = self.at(name, row, row.last_offset, row.last_seq)?;
        if row.purged_seq == row.last_seq {
            return Ok((None, Some(last)));
        }
        let first = self.at(name, row, self.first_offset(name, row)?, row.purged_seq + 1)?;
        Ok((Some(first), Some(last)))
    }

    /// What is purged is in no span.
    fn first_offset(&self, name: &Topic, row: &TopicRow) -> Result<u64> {
        self.connection
            .prepare_cached(
                "SELECT first_offset FROM spans WHERE topic_id = ?1 ORDER BY first_offset LIMIT 1",
            )?
            .query_row([row.id], |row| row.get(0))
            .optional()?
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
