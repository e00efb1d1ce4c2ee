//! What happens inside the transaction of an import: the same as in that of an append, but that seqs and
//! times are given, and that there are rows without payloads.

use std::collections::HashMap;

use rusqlite::Transaction;

use super::insert::{Inserts, StubInserts};
use crate::event::{CheckedRow, Details, Kept, StoredRow};
use crate::store::TopicInfo;
use crate::store::sqlite::catalog::{Catalog, TopicRow};
use crate::store::sqlite::fault::TransactionError;
use crate::store::sqlite::index::{Chunks, Entry, Hit, Index, Key, Memtable, Sought};
use crate::store::sqlite::row::checksum::{EventRow, StubRow};
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::store::transfer::{self, Found, Import, Imported, Times, Verdict};
use crate::{Fault, InvalidField, StoreError, Timestamp};

/// Why a row was not taken.
enum Refusal {
    Row(InvalidField),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<InvalidField> for Refusal {
    fn from(error: InvalidField) -> Self {
        Self::Row(error)
    }
}

/// A row of the import at hand.
struct Added<'r> {
    key: Key<'r>,
    record: &'r StoredRow,
    processed_at: Timestamp,
}

/// One import: its statements and what it has to know, inside one transaction.
pub(crate) struct ImportTx<'c, 'k, 'r> {
    catalog: &'k mut Catalog,
    /// Where the entries of what is stored go.
    entries: &'k mut Memtable,
    /// What was stored so far, from the first offset on that was free.
    added: Vec<Added<'r>>,
    first_offset: u64,
    /// The offset behind the last row that was there already: in an import that is repeated, the next
    /// row is there.
    expected: Option<u64>,
    index: &'k Index,
    transaction: &'c Transaction<'c>,
    chunks: Chunks<'c>,
    stored_identities: StoredIdentities<'c>,
    inserts: Inserts<'c, 'r>,
    stubs: StubInserts<'c>,
}

impl<'c, 'k, 'r> ImportTx<'c, 'k, 'r> {
    pub(crate) fn new(
        transaction: &'c Transaction<'c>,
        catalog: &'k mut Catalog,
        index: &'k Index,
        entries: &'k mut Memtable,
    ) -> rusqlite::Result<Self> {
        entries.clear();
        let first_offset = catalog.partition.last_offset + 1;
        Ok(Self {
            catalog,
            entries,
            added: Vec::new(),
            first_offset,
            expected: None,
            index,
            transaction,
            chunks: Chunks::new(transaction)?,
            stored_identities: StoredIdentities::new(transaction)?,
            inserts: Inserts::new(transaction)?,
            stubs: StubInserts::new(transaction)?,
        })
    }

    /// What became of the rows, whose topics there is room for.
    pub(crate) fn import(mut self, import: Import<'r>) -> Result<Imported, TransactionError> {
        // Written once each, at the end: rows of several topics can alternate.
        let mut topics = HashMap::new();
        let imported = self.rows(import, &mut topics)?;
        self.inserts.flush()?;
        for (name, topic) in topics {
            topic.update(self.transaction, name)?;
            self.catalog.topics.insert(name.into(), topic);
        }
        for (index, totals) in (import.rows.len()..).zip(import.topics) {
            self.totals(totals).map_err(|refusal| refused(index, refusal))?;
        }
        self.catalog.partition.write(self.transaction)?;
        Ok(imported)
    }

    fn rows(
        &mut self,
        import: Import<'r>,
        topics: &mut HashMap<&'r str, TopicRow>,
    ) -> Result<Imported, TransactionError> {
        let mut keys = Vec::with_capacity(import.rows.len());
        for row in import.rows {
            let topic = match topics.get(row.topic.as_str()) {
                Some(topic) => topic,
                None => {
                    let scope = row.scope.unwrap_or_default();
                    let topic = self.catalog.topic(self.transaction, &row.topic, scope)?;
                    topics.entry(&row.topic).or_insert(topic)
                }
            };
            let source = topic.scope.key(row.source());
            keys.push(Key { topic_id: topic.id, event_id: &row.event_id, source });
        }
        let sought: Vec<Sought> = keys.iter().map(|&key| self.index.fingerprint(key).into()).collect();
        let hits = self.index.probe(&sought);
        let mut hits = hits.as_slice();
        let mut imported = Imported::default();
        let mut position = 0;
        // Not sorted by topic, as an append is: times must not go back from row to row.
        for run in import.rows.chunk_by(|a, b| a.topic == b.topic) {
            let topic = topics.get_mut(run[0].topic.as_str()).expect("it was put there for its key");
            // The offsets of the run's events: an unbroken piece of the topic's.
            let mut span = None;
            for row in run {
                let of_row = hits.iter().take_while(|hit| hit.position == position).count();
                let (of_row, after) = hits.split_at(of_row);
                hits = after;
                let place = (keys[position], sought[position].fingerprint);
                let verdict = self.row(topic, &mut span, row, place, of_row, import.times);
                match verdict.map_err(|refusal| refused(position, refusal))? {
                    Verdict::Add(_) => imported.added += 1,
                    Verdict::Present => imported.present += 1,
                }
                position += 1;
            }
            self.end_span(topic, &mut span)?;
        }
        Ok(imported)
    }

    fn row(
        &mut self,
        topic: &mut TopicRow,
        span: &mut Option<(u64, u64)>,
        row: &'r CheckedRow,
        (key, fingerprint): (Key<'r>, u64),
        hits: &[Hit],
        times: Times,
    ) -> Result<Verdict, Refusal> {
        let found = self.find(key, fingerprint, hits, row)?;
        let newest = Timestamp::from_micros(self.catalog.partition.last_processed_at);
        let verdict = transfer::validate_row(row, topic.state(), newest, found, times)?;
        let Verdict::Add(processed_at) = verdict else { return Ok(verdict) };
        self.catalog.partition.last_offset += 1;
        let offset = self.catalog.partition.last_offset;
        if let Some(seq) = row.seq() {
            topic.last_seq = seq;
            self.catalog.partition.stored += 1;
            self.catalog.partition.last_processed_at = processed_at.as_micros();
        }
        match &row.kept {
            Kept::Event(event) => {
                *span = Some((span.map_or(offset, |(first, _)| first), offset));
                self.inserts.push(EventRow {
                    offset,
                    topic_id: topic.id,
                    seq: event.seq,
                    event_id: &row.event_id,
                    timestamp: &event.timestamp,
                    source: row.source(),
                    payload: &event.payload,
                    sequence: event.sequence,
                    content_type: event.content_type.as_deref(),
                    attributes: event.attributes.as_deref(),
                    processed_at: processed_at.as_micros(),
                })?;
            }
            Kept::Stub { seq, digest } => {
                // There is no event of the topic before it, so no span either.
                (topic.last_offset, topic.purged_offset, topic.purged_seq) = (offset, offset, *seq);
                self.stub(key, offset, Some((*seq, *digest)), processed_at)?;
            }
            Kept::Identity => {
                self.end_span(topic, span)?;
                self.stub(key, offset, None, processed_at)?;
            }
        }
        self.entries.insert(Entry { fingerprint, offset });
        self.added.push(Added { key, record: row, processed_at });
        Ok(verdict)
    }

    fn stub(
        &mut self,
        key: Key<'_>,
        offset: u64,
        purged: Option<(u64, [u8; 16])>,
        processed_at: Timestamp,
    ) -> rusqlite::Result<()> {
        self.inserts.interrupt()?;
        self.stubs.write(&StubRow {
            offset,
            topic_id: key.topic_id,
            seq: purged.map(|(seq, _)| seq),
            event_id: key.event_id,
            source: key.source,
            digest: purged.map(|(_, digest)| digest),
            processed_at: processed_at.as_micros(),
        })
    }

    fn end_span(&mut self, topic: &mut TopicRow, span: &mut Option<(u64, u64)>) -> rusqlite::Result<()> {
        match span.take() {
            Some((first, last)) => topic.extend(self.transaction, first, last),
            None => Ok(()),
        }
    }

    /// What is stored under the row's identity.
    fn find(
        &mut self,
        key: Key<'_>,
        fingerprint: u64,
        hits: &[Hit],
        row: &StoredRow,
    ) -> rusqlite::Result<Option<Found>> {
        for offset in self.entries.offsets(fingerprint) {
            let at = usize::try_from(offset - self.first_offset).expect("it is one of the import at hand");
            let Added { key: catalog, record, processed_at } = &self.added[at];
            if *catalog == key {
                let same = match &record.kept {
                    Kept::Event(event) => row.is_event(event.details(record.source())),
                    Kept::Stub { digest, .. } => row.is_stub(Some(*digest)),
                    Kept::Identity => true,
                };
                return Ok(Some(Found { seq: record.seq(), processed_at: *processed_at, same }));
            }
        }
        let tell = |stored: StoredIdentity<'_>| match stored {
            StoredIdentity::Event(there) => {
                let same = row.is_event(Details {
                    source: there.source,
                    timestamp: there.timestamp,
                    payload: there.payload,
                    sequence: there.sequence,
                    content_type: there.content_type,
                    attributes: there.attributes,
                });
                let processed_at = Timestamp::from_micros(there.processed_at);
                Found { seq: Some(there.seq), processed_at, same }
            }
            StoredIdentity::Stub(there) => {
                let processed_at = Timestamp::from_micros(there.processed_at);
                Found { seq: there.seq, processed_at, same: row.is_stub(there.digest) }
            }
        };
        // Without a hit it is nowhere. The row itself decides, so a guess is as good as the index.
        let expected = self.expected.take().filter(|&offset| offset < self.first_offset && !hits.is_empty());
        if let Some(offset) = expected
            && let Some(found) = self.stored_identities.find(key, offset, tell)?
        {
            self.expected = Some(offset + 1);
            return Ok(Some(found));
        }
        for hit in hits {
            for offset in self.chunks.offsets(self.index, hit.place, fingerprint)? {
                if let Some(found) = self.stored_identities.find(key, offset, tell)? {
                    self.expected = Some(offset + 1);
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn totals(&mut self, totals: &TopicInfo) -> Result<(), Refusal> {
        let name = totals.topic.as_str();
        transfer::validate_topic(totals, self.catalog.topics.get(name).map(TopicRow::state))?;
        let mut topic = self.catalog.topic(self.transaction, name, totals.scope)?;
        let partition = &mut self.catalog.partition;
        partition.duplicates += totals.duplicates.saturating_sub(topic.duplicates);
        partition.conflicts += totals.conflicts.saturating_sub(topic.conflicts);
        topic.duplicates = topic.duplicates.max(totals.duplicates);
        topic.conflicts = topic.conflicts.max(totals.conflicts);
        topic.update(self.transaction, name)?;
        self.catalog.topics.insert(name.into(), topic);
        Ok(())
    }
}

impl TopicRow {
    fn state(&self) -> transfer::TopicState {
        transfer::TopicState { scope: self.scope, last_seq: self.last_seq, purged_seq: self.purged_seq }
    }
}

fn refused(index: usize, refusal: Refusal) -> TransactionError {
    match refusal {
        Refusal::Sqlite(error) => TransactionError::Sqlite(error),
        // Not `Failure::Refused`: what is known in memory may have changed until here.
        Refusal::Row(error) => {
            TransactionError::Store(StoreError::Invalid(vec![Fault { index: Some(index), error }]))
        }
    }
}
