//! Decides what becomes of the rows of an import, from what the database knows. It sends no SQL and waits for nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use aggregator_core::store::transfer::{self, Found, TopicState, Verdict};
use aggregator_core::store::{Import, Imported, TopicInfo};
use aggregator_core::{CheckedRow, Fault, InvalidField, Kept, Scope, StoreError, Timestamp};

use crate::columns::{details_of, signed};
use crate::fault::Result;

/// What the database knew when the partition was locked.
pub(super) struct ImportSnapshot {
    pub(super) last_offset: u64,
    /// The time of the newest row with a seq.
    pub(super) newest: Timestamp,
    pub(super) topic_count: u64,
    pub(super) topics: HashMap<String, TopicRow>,
    /// What is stored under a row's identity, by the row's position: the row that has the identity, and those with the
    /// same seq that had it before it was released.
    pub(super) originals: HashMap<usize, Vec<Original>>,
}

/// A stored row, as an imported one sees it.
#[derive(Clone, Copy)]
pub(super) struct Original {
    pub(super) offset: u64,
    pub(super) found: Found,
    pub(super) released: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopicRow {
    pub(super) id: i64,
    pub(super) state: TopicState,
    pub(super) purged_offset: u64,
    pub(super) duplicates: u64,
    pub(super) conflicts: u64,
}

/// A topic of the import.
pub(super) struct Topic<'r> {
    pub(super) name: &'r str,
    /// The topic's row in the database; `None` if the topic is new.
    before: Option<TopicRow>,
    pub(super) row: TopicRow,
}

impl Topic<'_> {
    pub(super) fn is_new(&self) -> bool {
        self.before.is_none()
    }

    pub(super) fn is_changed(&self) -> bool {
        self.before.is_some_and(|before| before != self.row)
    }
}

/// The decisions: the rows to write, and the result to return.
pub(super) struct ImportPlan<'r> {
    pub(super) imported: Imported,
    pub(super) rows: NewRows<'r>,
    pub(super) marks: NewMarks,
    /// The offsets of the rows that were there before and become released.
    pub(super) released: HashSet<u64>,
    pub(super) topics: Vec<Topic<'r>>,
    by_name: HashMap<&'r str, usize>,
    /// The new rows of each identity inside the import.
    added: HashMap<Key<'r>, Vec<AddedRow<'r>>>,
    pub(super) last_offset: u64,
    pub(super) newest: Timestamp,
    /// How many of the new rows have a seq, and how many events the new marks stand for.
    pub(super) stored: u64,
    /// By how much the partition's counters grow.
    pub(super) duplicates: u64,
    pub(super) conflicts: u64,
    topic_count: u64,
}

/// An identity inside the import. The first part is the topic's index in the plan.
type Key<'r> = (usize, &'r str, &'r str);

/// A new row of an identity.
#[derive(Clone, Copy)]
struct AddedRow<'r> {
    /// Its index among the new rows.
    index: usize,
    row: &'r CheckedRow,
    processed_at: Timestamp,
}

/// The new rows, column by column, in the order of their offsets.
#[derive(Default)]
pub(super) struct NewRows<'r> {
    pub(super) offsets: Vec<i64>,
    pub(super) topic_ids: Vec<i64>,
    pub(super) seqs: Vec<Option<i64>>,
    pub(super) event_ids: Vec<&'r str>,
    pub(super) sources: Vec<&'r str>,
    pub(super) by_source: Vec<bool>,
    pub(super) timestamps: Vec<&'r str>,
    pub(super) payloads: Vec<Option<&'r str>>,
    pub(super) digests: Vec<Option<&'r [u8]>>,
    pub(super) sequences: Vec<Option<i64>>,
    pub(super) content_types: Vec<Option<&'r str>>,
    pub(super) attributes: Vec<Option<&'r str>>,
    pub(super) processed_at: Vec<i64>,
    pub(super) released: Vec<bool>,
}

/// The new marks of forgotten events, column by column.
#[derive(Default)]
pub(super) struct NewMarks {
    pub(super) topic_ids: Vec<i64>,
    pub(super) offsets: Vec<i64>,
    pub(super) seqs: Vec<i64>,
    pub(super) rows: Vec<i64>,
    pub(super) processed_at: Vec<i64>,
}

impl<'r> ImportPlan<'r> {
    pub(super) fn new(snapshot: &ImportSnapshot, import: Import<'r>) -> Result<Self> {
        let mut plan = Self {
            imported: Imported::default(),
            rows: NewRows::default(),
            marks: NewMarks::default(),
            topics: Vec::new(),
            released: HashSet::new(),
            by_name: HashMap::new(),
            added: HashMap::new(),
            last_offset: snapshot.last_offset,
            newest: snapshot.newest,
            stored: 0,
            duplicates: 0,
            conflicts: 0,
            topic_count: snapshot.topic_count,
        };
        for (position, row) in import.rows.iter().enumerate() {
            let originals = snapshot.originals.get(&position).map_or(&[][..], Vec::as_slice);
            let verdict = plan.row(snapshot, row, originals, import);
            match verdict.map_err(|error| refused(position, error))? {
                Verdict::Add(_) => plan.imported.added += 1,
                Verdict::Present => plan.imported.present += 1,
            }
        }
        for (index, totals) in (import.rows.len()..).zip(import.topics) {
            plan.totals(snapshot, totals).map_err(|error| refused(index, error))?;
        }
        Ok(plan)
    }

    fn row(
        &mut self,
        snapshot: &ImportSnapshot,
        row: &'r CheckedRow,
        originals: &[Original],
        import: Import<'r>,
    ) -> std::result::Result<Verdict, InvalidField> {
        let at = self.topic(snapshot, &row.topic, row.scope.unwrap_or_default());
        let key = (at, row.event_id.as_str(), self.topics[at].row.state.scope.key(row.source()));
        let original = self.original(&key, row, originals);
        let topic = &mut self.topics[at].row;
        let found = original.map(|original| original.found);
        let verdict = transfer::validate_row(row, topic.state, self.newest, found, import.times)?;
        if let (Kept::Forgotten { seq }, Verdict::Add(processed_at)) = (&row.kept, verdict) {
            self.forgotten(at, *seq, processed_at);
            return Ok(verdict);
        }
        let Verdict::Add(processed_at) = verdict else {
            let original = original.filter(|original| row.released && original.is_for(row));
            if let Some(original) = original.filter(|original| !original.released) {
                self.release(original.offset);
            }
            return Ok(verdict);
        };
        let index = self.rows.count();
        self.last_offset += 1;
        if let Some(seq) = row.seq() {
            topic.state.last_seq = seq;
            self.newest = processed_at;
            self.stored += 1;
        }
        if let Kept::Stub { seq, .. } = row.kept {
            (topic.state.purged_seq, topic.purged_offset) = (seq, self.last_offset);
        }
        self.rows.push(self.last_offset, topic, row, processed_at);
        self.added.entry(key).or_default().push(AddedRow { index, row, processed_at });
        Ok(verdict)
    }

    /// Adds the mark of events that the other store has forgotten. This one has no event of the topic.
    fn forgotten(&mut self, topic: usize, seq: u64, processed_at: Timestamp) {
        self.last_offset += 1;
        self.newest = self.newest.max(processed_at);
        self.stored += seq;
        let topic = &mut self.topics[topic].row;
        topic.state.last_seq = seq;
        (topic.state.purged_seq, topic.purged_offset) = (seq, self.last_offset);
        topic.state.forgotten_seq = seq;
        self.marks.push(topic.id, self.last_offset, seq, processed_at);
    }

    /// The row that an imported one is compared with: see [`Found`]. `originals` is what the snapshot has of it.
    fn original(&self, key: &Key<'r>, row: &CheckedRow, originals: &[Original]) -> Option<Original> {
        let stored = originals.iter().map(|&original| {
            let released = original.released || self.released.contains(&original.offset);
            Original { released, ..original }
        });
        let added = self.added.get(key).into_iter().flatten().map(|added| Original {
            offset: self.rows.offset(added.index),
            found: added.found(row),
            released: self.rows.released[added.index],
        });
        let all = || stored.clone().chain(added.clone());
        // An identity alone that is released may stand beside one that is not. The released one is that of a released
        // row.
        let same = all().filter(|original| original.is_for(row)).max_by_key(|original| original.released);
        same.or_else(|| all().find(|original| !original.released))
    }

    fn release(&mut self, offset: u64) {
        match self.rows.offsets.binary_search(&signed(offset)) {
            Ok(index) => self.rows.released[index] = true,
            Err(_) => _ = self.released.insert(offset),
        }
    }

    fn totals(
        &mut self,
        snapshot: &ImportSnapshot,
        totals: &'r TopicInfo,
    ) -> std::result::Result<(), InvalidField> {
        let name = totals.topic.as_str();
        let there = self.by_name.get(name).map(|&at| self.topics[at].row.state);
        let there = there.or_else(|| snapshot.topics.get(name).map(|topic| topic.state));
        transfer::validate_topic(totals, there)?;
        let at = self.topic(snapshot, name, totals.scope);
        let topic = &mut self.topics[at].row;
        self.duplicates += totals.duplicates.saturating_sub(topic.duplicates);
        self.conflicts += totals.conflicts.saturating_sub(topic.conflicts);
        topic.duplicates = topic.duplicates.max(totals.duplicates);
        topic.conflicts = topic.conflicts.max(totals.conflicts);
        Ok(())
    }

    /// The index of a topic in `topics`, which is added if it is not there.
    fn topic(&mut self, snapshot: &ImportSnapshot, name: &'r str, scope: Scope) -> usize {
        let vacant = match self.by_name.entry(name) {
            Entry::Occupied(at) => return *at.get(),
            Entry::Vacant(vacant) => vacant,
        };
        let before = snapshot.topics.get(name).copied();
        let row = before.unwrap_or_else(|| {
            self.topic_count += 1;
            let state = TopicState { scope, last_seq: 0, purged_seq: 0, forgotten_seq: 0 };
            let id = signed(self.topic_count);
            TopicRow { id, state, purged_offset: 0, duplicates: 0, conflicts: 0 }
        });
        self.topics.push(Topic { name, before, row });
        *vacant.insert(self.topics.len() - 1)
    }
}

impl Original {
    fn is_for(&self, row: &CheckedRow) -> bool {
        row.is_at(self.found.seq, self.released)
    }
}

impl AddedRow<'_> {
    /// Describes this row to a later one of the same import.
    fn found(&self, row: &CheckedRow) -> Found {
        let same = match &self.row.kept {
            Kept::Event(event) => row.is_event(details_of(event, self.row.source())),
            Kept::Stub { digest, .. } => row.is_stub(Some(*digest)),
            Kept::Identity => true,
            Kept::Forgotten { .. } => false,
        };
        Found { seq: self.row.seq(), processed_at: self.processed_at, same }
    }
}

impl<'r> NewRows<'r> {
    pub(super) fn count(&self) -> usize {
        self.seqs.len()
    }

    fn offset(&self, index: usize) -> u64 {
        self.offsets[index].unsigned_abs()
    }

    fn push(&mut self, offset: u64, topic: &TopicRow, row: &'r CheckedRow, processed_at: Timestamp) {
        let (event, digest) = match &row.kept {
            Kept::Event(event) => (Some(event), None),
            Kept::Stub { digest, .. } => (None, Some(digest.as_slice())),
            Kept::Identity | Kept::Forgotten { .. } => (None, None),
        };
        self.offsets.push(signed(offset));
        self.topic_ids.push(topic.id);
        self.seqs.push(row.seq().map(signed));
        self.event_ids.push(&row.event_id);
        self.sources.push(row.source());
        self.by_source.push(topic.state.scope == Scope::Source);
        self.timestamps.push(event.map_or("", |event| &event.timestamp));
        self.payloads.push(event.map(|event| event.payload.as_str()));
        self.digests.push(digest);
        self.sequences.push(event.and_then(|event| event.sequence).map(signed));
        self.content_types.push(event.and_then(|event| event.content_type.as_deref()));
        self.attributes.push(event.and_then(|event| event.attributes.as_deref()));
        self.processed_at.push(processed_at.as_micros());
        self.released.push(row.released);
    }
}

impl NewMarks {
    fn push(&mut self, topic_id: i64, offset: u64, seq: u64, processed_at: Timestamp) {
        self.topic_ids.push(topic_id);
        self.offsets.push(signed(offset));
        self.seqs.push(signed(seq));
        // It has an offset, and no row.
        self.rows.push(1);
        self.processed_at.push(processed_at.as_micros());
    }
}

fn refused(index: usize, error: InvalidField) -> StoreError {
    StoreError::Invalid(vec![Fault { index: Some(index), error }])
}
