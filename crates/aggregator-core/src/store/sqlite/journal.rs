//! The journal: what each commit changes of its topics, in append order.
//!
//! A commit may touch thousands of topics. Their rows, and the rows that say where their events are, lie on as many pages
//! of the file, and to write all these pages with each commit would cost more than the events do. So a commit writes one
//! row into the journal, and the journal is **folded** into the tables later, topic by topic:
//!
//! ```text
//!  append ─► a row of the journal (topic, how many events, repeats) … and in memory, per topic, a tail
//!                                                                         │ fold, beside later appends
//!                             a page of spans gets many rows at a time ◄──┘
//! ```
//!
//! * A topic's **tail** ([`tails`]) is what its rows in the tables do not say yet: the spans of its newest events, and
//!   its counters. It is in memory, so readers find it without a look at the journal ([`view`]).
//! * The writer folds a few tails with each commit, and always a whole tail: the one that began first, and those that have
//!   become long. So about as many spans wait at any time, and a page is written once for many of them.
//! * A row of the journal also names the topics that its commit has folded, before the commit's own changes. So
//!   whoever **replays** the rows in their order knows the tails: that is how a store is opened, and how it is checked.
//! * The rows from before the oldest tail began are of no use any more. They are deleted some at a time.
//!
//! The row of the partition says which rows of the journal there are, and each has a checksum. So a row that a damaged
//! file has lost is noticed.
//!
//! Whatever writes the tables itself (imports, purges) folds the topic first, in its own transaction.

mod queue;
mod rebuild;
mod replay;
mod row;
mod tails;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::{Connection, Result};

use self::queue::FoldQueue;
pub(crate) use self::rebuild::rebuild;
pub(crate) use self::replay::{Delta, Replayed, replay};
pub(crate) use self::row::CREATE;
use self::row::{Entry, Row};
pub(crate) use self::tails::{Span, Tails};
pub(crate) use self::view::{TopicView, Views};
use super::catalog::{Catalog, PartitionState, TopicNames, TopicRow};
use super::fault::Corruption;

/// What a commit folds at least, if it is due, in rows that are written.
const LEAST_BUDGET: usize = 16;

/// So many rows of the journal are deleted at a time, because they lie on one page or two; fewer where few spans may wait.
const DELETED: u64 = 64;

/// So many spans stay in memory after they were folded, for readers whose snapshots are from before that.
const MAX_RETAINED: u64 = 1 << 17;

/// The part of the writer that writes the journal and folds it.
pub(crate) struct Journal {
    names: Arc<TopicNames>,
    tails: Arc<Tails>,
    queue: FoldQueue,
    /// The partition as of the last commit.
    as_of_commit: PartitionState,
    /// How many rows the next commits are to write for what the last ones have added, if it is due.
    owed: usize,
    /// What the running write does.
    pending: Pending,
}

/// What a write has done until it is committed.
#[derive(Default)]
struct Pending {
    /// The partition before the write.
    before: PartitionState,
    entries: Vec<Entry>,
    /// Topics whose rows in the tables are whole.
    written: Vec<Written>,
    /// The ids of those that had a tail before.
    folded: BTreeSet<i64>,
    folded_spans: usize,
    /// How many rows of the tables folding has written.
    spent: usize,
    /// The row of the journal that it has written has so many bytes.
    row_bytes: Option<u64>,
    /// How many rows of the journal it has deleted.
    deleted: u64,
}

/// A topic whose rows in the tables say all there is.
#[derive(Clone, Copy)]
struct Written {
    topic_id: i64,
    last_offset: u64,
    duplicates: u64,
    conflicts: u64,
}

impl Journal {
    /// About `max_unfolded` spans wait in memory; with 0, appends write the tables themselves. Begin with
    /// [`Self::catalog`].
    pub(crate) fn new(names: Arc<TopicNames>, tails: Arc<Tails>, max_unfolded: u32) -> Self {
        Self {
            names,
            tails,
            queue: FoldQueue::new(max_unfolded),
            as_of_commit: PartitionState::default(),
            owed: 0,
            pending: Pending::default(),
        }
    }

    /// The catalog that is kept, or if there is none, that of the file, which is kept from then on.
    pub(crate) fn catalog<'k>(
        &mut self,
        kept: &'k mut Option<Catalog>,
        connection: &Connection,
    ) -> Result<&'k mut Catalog> {
        if let Some(catalog) = kept {
            return Ok(catalog);
        }
        let (catalog, replayed) = Catalog::load(connection, &self.names)?;
        if !self.tails.are_known() {
            return Ok(kept.insert(self.begin_with((catalog, replayed))));
        }
        let rows = |partition: &PartitionState| (partition.journal_first, partition.journal_last);
        if rows(&catalog.partition) != rows(&self.as_of_commit) {
            return Err(Corruption::error(
                "the journal in the file is not the one of the last commit".into(),
            ));
        }
        Ok(kept.insert(catalog))
    }

    /// Takes over what was read when the store was opened.
    pub(crate) fn begin_with(&mut self, (mut catalog, replayed): (Catalog, Replayed)) -> Catalog {
        catalog.committed();
        self.as_of_commit = catalog.partition;
        self.queue.begin_with(&replayed);
        let max_retained = MAX_RETAINED.min(self.queue.max_unfolded().saturating_mul(2));
        self.tails.set(&catalog, replayed, max_retained);
        catalog
    }

    /// Begins a write, and folds what is due. To be called before the write changes anything, and behind all that may
    /// refuse it.
    pub(crate) fn begin(&mut self, connection: &Connection, catalog: &mut Catalog) -> Result<()> {
        self.begin_without_folding(catalog);
        let mut budget = self.owed + LEAST_BUDGET;
        let mut turn = 0;
        while budget > 0
            && let Some(topic_id) = self.queue.long(turn)
        {
            turn += 1;
            budget = budget.saturating_sub(self.fold_id(connection, catalog, topic_id)?);
        }
        let mut turn = 0;
        while budget > 0
            && self.is_due()
            && let Some(topic_id) = self.queue.oldest(turn)
        {
            turn += 1;
            budget = budget.saturating_sub(self.fold_id(connection, catalog, topic_id)?);
        }
        Ok(())
    }

    /// Begins a write that shall write no more than it has to.
    pub(crate) fn begin_without_folding(&mut self, catalog: &Catalog) {
        self.pending = Pending { before: catalog.partition, ..Pending::default() };
    }

    fn is_due(&self) -> bool {
        let waiting = self.tails.unfolded().saturating_sub(self.pending.folded_spans);
        self.queue.is_due(&self.pending.before, waiting)
    }

    fn fold_id(&mut self, connection: &Connection, catalog: &mut Catalog, topic_id: i64) -> Result<usize> {
        let (name, topic) = catalog.topic_mut(topic_id);
        let rows = self.fold(connection, topic)?;
        if rows > 0 {
            topic.update(connection, name)?;
        }
        self.pending.spent += rows;
        Ok(rows)
    }

    /// Writes the spans of the topic's tail into the table, if it has a tail, before the write changes anything of the topic.
    /// The caller updates the topic's row. Returns how many rows that makes.
    pub(crate) fn fold(&mut self, connection: &Connection, topic: &mut TopicRow) -> Result<usize> {
        if self.pending.folded.contains(&topic.id) {
            return Ok(0);
        }
        let Some(tail) = self.tails.unfolded_of(topic.id) else { return Ok(0) };
        let mut before = tail.folded_through;
        for span in &tail.spans {
            topic.add_span(connection, before, *span)?;
            before = span.last;
        }
        self.pending.folded.insert(topic.id);
        self.pending.folded_spans += tail.spans.len();
        self.note_written(topic);
        Ok(tail.spans.len() + 1)
    }

    /// Notes that the topic's rows in the tables say all there is.
    pub(crate) fn note_written(&mut self, topic: &TopicRow) {
        let TopicRow { id, last_offset, duplicates, conflicts, .. } = *topic;
        self.pending.written.push(Written { topic_id: id, last_offset, duplicates, conflicts });
    }

    /// Takes what an append has changed of a topic: `topic` was `before`, and new events are the last ones up to `last_offset`.
    pub(crate) fn append(
        &mut self,
        connection: &Connection,
        (name, topic): (&str, &mut TopicRow),
        before: &TopicRow,
        last_offset: u64,
    ) -> Result<()> {
        let stored = topic.last_seq - before.last_seq;
        if self.queue.max_unfolded() == 0 {
            self.fold(connection, topic)?;
            if stored > 0 {
                topic.extend(connection, last_offset + 1 - stored, last_offset)?;
            }
            topic.update(connection, name)?;
            self.note_written(topic);
            return Ok(());
        }
        if stored > 0 {
            topic.last_offset = last_offset;
        }
        self.pending.entries.push(Entry {
            topic_id: topic.id,
            stored,
            duplicates: topic.duplicates - before.duplicates,
            conflicts: topic.conflicts - before.conflicts,
        });
        Ok(())
    }

    /// Writes the journal's row, and the partition's if the write has changed it. Deletes rows of the journal that are of no
    /// use any more. To be called at the end of a write.
    pub(crate) fn write(&mut self, connection: &Connection, catalog: &mut Catalog) -> Result<()> {
        let partition = &mut catalog.partition;
        let Pending { before, entries, folded, row_bytes, deleted, .. } = &mut self.pending;
        if !entries.is_empty() || !folded.is_empty() {
            let row = Row::new(partition.journal_last + 1, before.last_offset + 1, folded, entries);
            row.insert(connection)?;
            partition.journal_last += 1;
            *row_bytes = Some(row.bytes());
        }
        // Of a store that is opened with a smaller bound, the rest of the journal goes, too.
        let step = DELETED.min(self.queue.max_unfolded()).max(2);
        let until = partition.journal_first + step;
        if self.queue.obsolete_before(before) >= until {
            Row::delete(connection, partition.journal_first, until)?;
            partition.journal_first = until;
            *deleted = step;
        }
        if *partition == *before { Ok(()) } else { partition.write(connection) }
    }

    /// To be called when the commit has returned.
    pub(crate) fn committed(&mut self, catalog: &Catalog) {
        let pending = std::mem::take(&mut self.pending);
        self.as_of_commit = catalog.partition;
        let changed = self.tails.commit(&pending, &catalog.partition, self.queue.long_tail());
        self.queue.committed(&self.tails, changed, pending.row_bytes, pending.deleted);
        let is_due =
            self.queue.long(0).is_some() || self.queue.is_due(&catalog.partition, self.tails.unfolded());
        let left = if is_due { (self.owed + LEAST_BUDGET).saturating_sub(pending.spent) } else { 0 };
        let added = pending.entries.len();
        // Twice what was added keeps up, and catches up where a journal is too long.
        let times = if self.queue.is_too_long(&catalog.partition) { 8 } else { 2 };
        self.owed = left + added * times;
    }
}

/// The error that some part of the journal is not as it was written.
fn damaged(what: impl std::fmt::Display) -> rusqlite::Error {
    Corruption::error(format!(
        "the journal of the topics: {what} (what it says can be made anew from the events: aggregator-server check \
         --rebuild-index)"
    ))
}

/// Adds a row that says that the first topic has an event at `offset`.
#[cfg(test)]
pub(crate) fn append_row(connection: &Connection, partition: &mut PartitionState, offset: u64) {
    partition.journal_last += 1;
    let entry = Entry { topic_id: 1, stored: 1, duplicates: 0, conflicts: 0 };
    Row::new(partition.journal_last, offset, &BTreeSet::new(), &[entry]).insert(connection).unwrap();
}
