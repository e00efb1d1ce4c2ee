//! The transaction of an import. It differs from that of an append in two ways: the rows have seqs and times already,
//! and some rows have no payload.

mod found;

use std::collections::HashMap;

use rusqlite::Transaction;

use self::found::{FoundRow, ImportedRow, compare};
use super::Changing;
use super::amend_tx;
use super::insert::{Inserts, StubInserts};
use crate::event::{CheckedRow, Kept, StoredRow};
use crate::store::TopicInfo;
use crate::store::sqlite::catalog::{Catalog, TopicRow};
use crate::store::sqlite::fault::TransactionError;
use crate::store::sqlite::index::{Candidate, ChunkReader, Index, IndexEntry, Memtable, Probe};
use crate::store::sqlite::journal::Journal;
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::checksum::{EventRow, StubRow};
use crate::store::sqlite::row::forgotten::Forgotten;
use crate::store::sqlite::row::gap::Gap;
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::store::transfer::{self, Import, Imported, Times, TopicState, Verdict};
use crate::{Fault, InvalidField, StoreError, Timestamp};

/// Why a row was not imported.
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

/// One import inside its transaction.
pub(crate) struct ImportTx<'c, 'k, 'r> {
    catalog: &'k mut Catalog,
    journal: &'k mut Journal,
    /// Gets the index entries of the rows that are added.
    entries: &'k mut Memtable,
    /// The rows added so far; the first one has `first_offset`.
    added: Vec<ImportedRow<'r>>,
    first_offset: u64,
    /// The offset behind the last row that was present already. When an import is repeated, the next row is there.
    next_present: Option<u64>,
    /// Up to which seq topics have forgotten their events.
    forgotten: HashMap<i64, u64>,
    index: &'k Index,
    transaction: &'c Transaction<'c>,
    chunks: ChunkReader<'c>,
    stored_identities: StoredIdentities<'c>,
    inserts: Inserts<'c, 'r>,
    stubs: StubInserts<'c>,
}

impl<'c, 'k, 'r> ImportTx<'c, 'k, 'r> {
    pub(crate) fn new(
        transaction: &'c Transaction<'c>,
        Changing { catalog, journal, index, added: entries, .. }: Changing<'k>,
    ) -> rusqlite::Result<Self> {
        entries.clear();
        let first_offset = catalog.partition.last_offset + 1;
        Ok(Self {
            catalog,
            journal,
            entries,
            added: Vec::new(),
            first_offset,
            next_present: None,
            forgotten: HashMap::new(),
            index,
            transaction,
            chunks: ChunkReader::new(transaction)?,
            stored_identities: StoredIdentities::new(transaction)?,
            inserts: Inserts::new(transaction)?,
            stubs: StubInserts::new(transaction)?,
        })
    }

    /// Imports the rows, and counts them. The caller has checked that there is room for their topics.
    pub(crate) fn import(mut self, import: Import<'r>) -> Result<Imported, TransactionError> {
        // Each topic's row is written once, at the end, because rows of several topics can alternate.
        let mut topics = HashMap::new();
        let imported = self.rows(import, &mut topics)?;
        self.inserts.flush()?;
        for (name, topic) in topics {
            self.write(name, topic)?;
        }
        for (index, totals) in (import.rows.len()..).zip(import.topics) {
            self.totals(totals).map_err(|refusal| refused(index, refusal))?;
        }
        Ok(imported)
    }

    fn write(&mut self, name: &str, topic: TopicRow) -> rusqlite::Result<()> {
        topic.update(self.transaction, name)?;
        self.journal.note_written(&topic);
        self.catalog.put(topic);
        Ok(())
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
                    let mut topic = self.catalog.topic(self.transaction, &row.topic, scope)?;
                    self.journal.fold(self.transaction, &mut topic)?;
                    topics.entry(&row.topic).or_insert(topic)
                }
            };
            let source = topic.scope.key(row.source());
            keys.push(Key { topic_id: topic.id, event_id: &row.event_id, source });
        }
        let probes: Vec<Probe> = keys.iter().map(|&key| self.index.fingerprint(key).into()).collect();
        let candidates = self.index.probe(&probes);
        let mut candidates = candidates.as_slice();
        let mut imported = Imported::default();
        let mut position = 0;
        // Unlike an append, an import is not sorted by topic: times must not go back from row to row.
        for run in import.rows.chunk_by(|a, b| a.topic == b.topic) {
            let topic = topics.get_mut(run[0].topic.as_str()).expect("it was put there for its key");
            // The first and the last offset of an unbroken sequence of this topic's events.
            let mut span = None;
            for row in run {
                let of_row = candidates.iter().take_while(|candidate| candidate.position == position).count();
                let (of_row, after) = candidates.split_at(of_row);
                candidates = after;
                let identity = (keys[position], probes[position].fingerprint);
                let verdict = self.row(topic, &mut span, row, identity, of_row, import.times);
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
        candidates: &[Candidate],
        times: Times,
    ) -> Result<Verdict, Refusal> {
        let there = match row.is_forgotten() {
            true => None,
            false => self.find(key, fingerprint, candidates, row)?,
        };
        let newest = Timestamp::from_micros(self.catalog.partition.last_processed_at);
        let found = there.as_ref().map(|there| there.found);
        let state = self.state(topic)?;
        let verdict = transfer::validate_row(row, state, newest, found, times)?;
        let Verdict::Add(processed_at) = verdict else {
            if let Some(there) = there.filter(|there| row.released && !there.released && there.is_for(row)) {
                self.release(there.offset)?;
            }
            return Ok(verdict);
        };
        self.catalog.partition.last_offset += 1;
        let offset = self.catalog.partition.last_offset;
        if let Some(seq) = row.seq() {
            self.catalog.partition.stored += seq - topic.last_seq;
            topic.last_seq = seq;
            self.catalog.partition.last_processed_at = processed_at.max(newest).as_micros();
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
                    released: row.released,
                })?;
            }
            Kept::Stub { seq, digest } => {
                // Stubs come before all events of the topic, so no span is open.
                (topic.last_offset, topic.purged_offset, topic.purged_seq) = (offset, offset, *seq);
                self.stub(key, offset, Some((*seq, *digest)), processed_at, row.released)?;
            }
            Kept::Identity => {
                self.end_span(topic, span)?;
                self.stub(key, offset, None, processed_at, row.released)?;
            }
            Kept::Forgotten { seq } => {
                (topic.last_offset, topic.purged_offset, topic.purged_seq) = (offset, offset, *seq);
                self.mark(topic.id, offset, *seq, processed_at)?;
            }
        }
        self.entries.insert(IndexEntry { fingerprint, offset });
        self.added.push(ImportedRow { key, row, processed_at, released: row.released });
        Ok(verdict)
    }

    fn stub(
        &mut self,
        key: Key<'_>,
        offset: u64,
        purged: Option<(u64, [u8; 16])>,
        processed_at: Timestamp,
        released: bool,
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
            released,
        })
    }

    /// The mark takes an offset of its own, at which there is no row.
    fn mark(
        &mut self,
        topic_id: i64,
        offset: u64,
        seq: u64,
        processed_at: Timestamp,
    ) -> rusqlite::Result<()> {
        self.inserts.interrupt()?;
        let processed_at = processed_at.as_micros();
        self.forgotten.insert(topic_id, seq);
        Gap { first: offset, last: offset }.add(self.transaction)?;
        Forgotten { topic_id, offset, seq, processed_at }.write(self.transaction)
    }

    fn state(&mut self, topic: &TopicRow) -> rusqlite::Result<TopicState> {
        let forgotten_seq = match (topic.purged_seq, self.forgotten.get(&topic.id)) {
            // Nothing is forgotten that was not purged.
            (0, _) => 0,
            (_, Some(seq)) => *seq,
            (_, None) => {
                let seq = Forgotten::of(self.transaction, topic.id)?.map_or(0, |mark| mark.seq);
                self.forgotten.insert(topic.id, seq);
                seq
            }
        };
        let TopicRow { scope, last_seq, purged_seq, .. } = *topic;
        Ok(TopicState { scope, last_seq, purged_seq, forgotten_seq })
    }

    /// Marks a row that is there already.
    fn release(&mut self, offset: u64) -> rusqlite::Result<()> {
        // It may be one of this import.
        self.inserts.flush()?;
        if let Some(at) = offset.checked_sub(self.first_offset).and_then(|at| usize::try_from(at).ok()) {
            self.added[at].released = true;
        }
        amend_tx::release(self.transaction, offset)
    }

    fn end_span(&mut self, topic: &mut TopicRow, span: &mut Option<(u64, u64)>) -> rusqlite::Result<()> {
        match span.take() {
            Some((first, last)) => topic.extend(self.transaction, first, last),
            None => Ok(()),
        }
    }

    /// The stored row that this row is compared with, if there is one: see [`Found`].
    fn find(
        &mut self,
        key: Key<'_>,
        fingerprint: u64,
        candidates: &[Candidate],
        row: &StoredRow,
    ) -> rusqlite::Result<Option<FoundRow>> {
        let mut current = None;
        for offset in self.entries.offsets(fingerprint) {
            let at = usize::try_from(offset - self.first_offset).expect("it is one of the import at hand");
            let added = &self.added[at];
            if added.key == key {
                let found = added.compare(row, offset);
                if found.is_for(row) {
                    return Ok(Some(found));
                }
                current = current.or(Some(found).filter(|found| !found.released));
            }
        }
        let compare = |offset| move |stored: StoredIdentity<'_>| compare(row, offset, &stored);
        // If the index has no candidate, the identity is not stored. Otherwise the row at the guessed offset decides for
        // itself, so a right guess saves reading a chunk.
        let next_present =
            self.next_present.take().filter(|&offset| offset < self.first_offset && !candidates.is_empty());
        if let Some(offset) = next_present
            && let Some(found) = self.stored_identities.find_released(key, offset, compare(offset))?
            && found.is_for(row)
        {
            self.next_present = Some(offset + 1);
            return Ok(Some(found));
        }
        for candidate in candidates {
            for offset in self.chunks.offsets(self.index, candidate.location, fingerprint)? {
                match self.stored_identities.find_released(key, offset, compare(offset))? {
                    Some(found) if found.is_for(row) => {
                        self.next_present = Some(offset + 1);
                        return Ok(Some(found));
                    }
                    other => current = current.or(other.filter(|other| !other.released)),
                }
            }
        }
        Ok(current)
    }

    fn totals(&mut self, totals: &TopicInfo) -> Result<(), Refusal> {
        let name = totals.topic.as_str();
        let there = self.catalog.get(name).copied();
        let there = there.map(|topic| self.state(&topic)).transpose()?;
        transfer::validate_topic(totals, there)?;
        let mut topic = self.catalog.topic(self.transaction, name, totals.scope)?;
        self.journal.fold(self.transaction, &mut topic)?;
        let partition = &mut self.catalog.partition;
        partition.duplicates += totals.duplicates.saturating_sub(topic.duplicates);
        partition.conflicts += totals.conflicts.saturating_sub(topic.conflicts);
        topic.duplicates = topic.duplicates.max(totals.duplicates);
        topic.conflicts = topic.conflicts.max(totals.conflicts);
        self.write(name, topic)?;
        Ok(())
    }
}

fn refused(index: usize, refusal: Refusal) -> TransactionError {
    match refusal {
        Refusal::Sqlite(error) => TransactionError::Sqlite(error),
        // Not `TransactionError::Refused`, which promises that nothing changed: the catalog in memory may have changed.
        Refusal::Row(error) => {
            TransactionError::Store(StoreError::Invalid(vec![Fault { index: Some(index), error }]))
        }
    }
}
