//! Rows from and to other stores.

use std::collections::BTreeMap;

use super::state::{Forgotten, Key, Left, Row, State, TopicState};
use crate::event::{CheckedRow, Details, Kept, KeptEvent, StoredRow};
use crate::query::StoredEvent;
use crate::store::TopicInfo;
use crate::store::transfer::{self, Found, Import, Imported, RowLimit, Times, Verdict};
use crate::{Fault, InvalidField, Partition, Scope, StoreError, Timestamp, Topic};

/// What an import has changed of what was there before it.
#[derive(Default)]
struct Before {
    /// The topics as they were.
    topics: BTreeMap<Topic, Option<TopicState>>,
    /// The rows that had these identities.
    released: Vec<(Key, usize)>,
}

impl State {
    pub(super) fn rows(&self, partition: Partition, after: u64, limit: RowLimit) -> Vec<(u64, StoredRow)> {
        let rows = &self.partitions[usize::from(partition.0)].rows;
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(rows.len());
        let mut taken = Vec::new();
        let mut payload_bytes = 0;
        // Of the forgotten rows of a topic, the last one stands for all.
        let is_kept = |row: &&Row| {
            row.left != Left::Forgotten
                || self.topic_of(row).forgotten.is_some_and(|mark| mark.offset == row.event.offset)
        };
        for row in rows[from..].iter().filter(is_kept).take(limit.rows.max(1)) {
            let topic = self.topic_of(row);
            let mut stored = row.stored_row(topic.scope);
            if let (Kept::Forgotten { seq }, Some(mark)) = (&mut stored.kept, topic.forgotten) {
                (*seq, stored.processed_at) = (mark.seq, mark.processed_at);
            }
            payload_bytes += stored.payload_bytes();
            taken.push((row.event.offset, stored));
            if payload_bytes >= limit.payload_bytes {
                break;
            }
        }
        taken
    }

    fn topic_of(&self, row: &Row) -> &TopicState {
        let topic = Topic::new(&*row.event.topic).expect("a row's topic was checked");
        &self.topics[&topic]
    }

    /// Imports everything or nothing: a refusal undoes what was changed before it.
    pub(super) fn import(
        &mut self,
        partition: Partition,
        import: Import<'_>,
    ) -> Result<Imported, StoreError> {
        let rows = &self.partitions[usize::from(partition.0)];
        let (first, newest) = (rows.rows.len(), rows.last_processed_at);
        let mut before = Before::default();
        let imported = self.try_import(partition, import, &mut before);
        imported.map_err(|fault| {
            let rows = &mut self.partitions[usize::from(partition.0)];
            for row in rows.rows.drain(first..) {
                if row.left == Left::Forgotten {
                    continue;
                }
                let topic = Topic::new(&*row.event.topic).expect("a row's topic was checked");
                let key = row.key(self.topics[&topic].scope);
                if row.released {
                    if let Some(released) = rows.released.get_mut(&key) {
                        released.retain(|&at| at < first);
                    }
                } else {
                    rows.seen.remove(&key);
                }
            }
            rows.last_processed_at = newest;
            for (key, at) in before.released {
                rows.take_back(key, at);
            }
            for (topic, state) in before.topics {
                match state {
                    Some(state) => drop(self.topics.insert(topic, state)),
                    None => drop(self.topics.remove(&topic)),
                }
            }
            StoreError::Invalid(vec![fault])
        })
    }

    fn try_import(
        &mut self,
        partition: Partition,
        import: Import<'_>,
        before: &mut Before,
    ) -> Result<Imported, Fault> {
        let mut imported = Imported::default();
        let fault = |index| move |error| Fault { index: Some(index), error };
        for (index, row) in import.rows.iter().enumerate() {
            let name = Topic::new(&*row.topic).expect("a row's topic was checked");
            before.topics.entry(name.clone()).or_insert_with(|| self.topics.get(&name).copied());
            match self.import_row(partition, &name, row, import.times, before).map_err(fault(index))? {
                Verdict::Add(_) => imported.added += 1,
                Verdict::Present => imported.present += 1,
            }
        }
        for (index, totals) in (import.rows.len()..).zip(import.topics) {
            before
                .topics
                .entry(totals.topic.clone())
                .or_insert_with(|| self.topics.get(&totals.topic).copied());
            self.import_topic(totals).map_err(fault(index))?;
        }
        Ok(imported)
    }

    fn import_row(
        &mut self,
        partition: Partition,
        name: &Topic,
        row: &CheckedRow,
        times: Times,
        before: &mut Before,
    ) -> Result<Verdict, InvalidField> {
        let rows = &mut self.partitions[usize::from(partition.0)];
        let new = || TopicState::new(row.scope.unwrap_or_default());
        let topic = self.topics.entry(name.clone()).or_insert_with(new);
        let key: Key = (row.topic.clone(), row.event_id.clone(), topic.scope.key(row.source()).to_owned());
        let at = rows.of_import(&key, row).filter(|_| !row.is_forgotten());
        let found = at.map(|at| rows.rows[at].found(row));
        let newest = rows.last_processed_at.unwrap_or(Timestamp::MIN);
        let verdict = transfer::validate_row(row, topic.known(), newest, found, times)?;
        let Verdict::Add(processed_at) = verdict else {
            if let Some(at) = at.filter(|&at| row.released && rows.releases(at, row.seq())) {
                rows.release(key.clone(), at);
                before.released.push((key, at));
            }
            return Ok(verdict);
        };
        let offset = rows.rows.len() as u64 + 1;
        if let Some(seq) = row.seq() {
            rows.last_processed_at = rows.last_processed_at.max(Some(processed_at));
            topic.last_seq = seq;
            if !matches!(row.kept, Kept::Event(_)) {
                (topic.purged_seq, topic.purged_offset) = (seq, offset);
            }
            if row.is_forgotten() {
                topic.forgotten = Some(Forgotten { offset, seq, processed_at });
            }
        }
        let at = rows.rows.len();
        let imported = Row::imported(row, processed_at, partition, offset);
        if imported.left != Left::Nothing {
            topic.stored_at(processed_at, imported.left);
        }
        rows.rows.push(imported);
        if row.is_forgotten() {
            return Ok(verdict);
        }
        if row.released {
            rows.release(key, at);
        } else {
            rows.seen.insert(key, at);
        }
        Ok(verdict)
    }

    fn import_topic(&mut self, totals: &TopicInfo) -> Result<(), InvalidField> {
        let known = self.topics.get(&totals.topic).map(TopicState::known);
        transfer::validate_topic(totals, known)?;
        let topic = self.topics.entry(totals.topic.clone()).or_insert_with(|| TopicState::new(totals.scope));
        topic.duplicates = topic.duplicates.max(totals.duplicates);
        topic.conflicts = topic.conflicts.max(totals.conflicts);
        Ok(())
    }
}

impl TopicState {
    fn known(&self) -> transfer::TopicState {
        transfer::TopicState {
            scope: self.scope,
            last_seq: self.last_seq,
            purged_seq: self.purged_seq,
            forgotten_seq: self.forgotten.map_or(0, |forgotten| forgotten.seq),
        }
    }
}

impl Row {
    fn imported(row: &StoredRow, processed_at: Timestamp, partition: Partition, offset: u64) -> Self {
        let (left, event) = match row.kept.clone() {
            Kept::Event(event) => (Left::Payload, Some(event)),
            Kept::Stub { digest, .. } => (Left::Digest(digest), None),
            Kept::Identity => (Left::Nothing, None),
            Kept::Forgotten { .. } => (Left::Forgotten, None),
        };
        let event = event.unwrap_or_else(|| KeptEvent {
            seq: row.seq().unwrap_or(0),
            timestamp: String::new(),
            payload: String::new(),
            sequence: None,
            content_type: None,
            attributes: None,
        });
        let event = StoredEvent {
            topic: row.topic.clone(),
            event_id: row.event_id.clone(),
            timestamp: event.timestamp,
            source: row.source().to_owned(),
            payload: event.payload,
            sequence: event.sequence,
            content_type: event.content_type,
            attributes: event.attributes,
            seq: event.seq,
            processed_at,
            partition,
            offset,
        };
        Self { event, left, released: false }
    }

    fn stored_row(&self, scope: Scope) -> StoredRow {
        let event = &self.event;
        let kept = match self.left {
            Left::Payload => Kept::Event(KeptEvent {
                seq: event.seq,
                timestamp: event.timestamp.clone(),
                payload: event.payload.clone(),
                sequence: event.sequence,
                content_type: event.content_type.clone(),
                attributes: event.attributes.clone(),
            }),
            Left::Digest(digest) => Kept::Stub { seq: event.seq, digest },
            Left::Nothing => Kept::Identity,
            Left::Forgotten => Kept::Forgotten { seq: event.seq },
        };
        let has_source =
            self.left == Left::Payload || (scope == Scope::Source && self.left != Left::Forgotten);
        let source = has_source.then(|| event.source.clone());
        StoredRow {
            topic: event.topic.clone(),
            scope: Some(scope),
            event_id: event.event_id.clone(),
            source,
            processed_at: event.processed_at,
            released: self.released,
            kept,
        }
    }

    pub(super) fn key(&self, scope: Scope) -> Key {
        let Self { event, .. } = self;
        (event.topic.clone(), event.event_id.clone(), scope.key(&event.source).to_owned())
    }

    fn found(&self, row: &StoredRow) -> Found {
        let event = &self.event;
        let same = match self.left {
            Left::Payload => row.is_event(Details {
                source: &event.source,
                timestamp: &event.timestamp,
                payload: &event.payload,
                sequence: event.sequence,
                content_type: event.content_type.as_deref(),
                attributes: event.attributes.as_deref(),
            }),
            Left::Digest(digest) => row.is_stub(Some(digest)),
            Left::Nothing => true,
            Left::Forgotten => false,
        };
        Found { seq: self.seq(), processed_at: event.processed_at, same }
    }
}
