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
//! * A topic's **tail** ([`tails`]) is what its rows in the tables do not say yet: the spans of its newest events. It is
//!   in memory, so readers find it without a look at the journal.
//! * The writer folds a few topics with each commit, one topic after the other, round and round, and always the whole
//!   tail. So there are about as many unfolded spans at any time, and a page is written once for many of them. A tail that
//!   grows long is folded at once.
//! * A row of the journal also names the topics that its commit has folded, before the commit's own changes. So
//!   whoever **replays** the rows in their order knows the tails: that is how a store is opened, and how it is checked.
//! * When a round is over, all topics were folded since it began, and the rows from before that are deleted.
//!
//! The row of the partition says which rows of the journal there are, and each has a checksum. So a row that a damaged
//! file has lost is noticed.
//!
//! Whatever writes the tables itself (imports, purges) folds the topic first, in its own transaction.

mod replay;
mod row;
mod tails;
mod view;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rusqlite::{Connection, Result};

pub(crate) use self::replay::{Delta, Replayed, replay};
pub(crate) use self::row::CREATE;
use self::row::{Entry, Row};
pub(crate) use self::tails::{Span, Tails};
pub(crate) use self::view::TopicView;
use super::catalog::{Catalog, PartitionState, TopicNames, TopicRow};
use super::fault::Corruption;

/// A tail of so many spans is folded before its turn, so that a reader has few of them to look through.
const LONG_TAIL: usize = 256;

/// A fold should write so many spans of a topic: they lie on one page or two.
const SPANS_PER_FOLD: usize = 64;

/// So many spans may always wait.
const LEAST_UNFOLDED: usize = 8_192;

/// With more rows or bytes than this, topics are folded although few spans wait: a start reads the whole journal.
const MAX_ROWS: u64 = 65_536;
const MAX_BYTES: u64 = 64 << 20;

/// Where few spans may wait, the journal may have so many rows for each.
const ROWS_PER_SPAN: u64 = 8;

/// What a commit folds besides twice what the last one has added, in rows that are written.
const LEAST_BUDGET: usize = 8;

/// The most topics without a tail that a commit passes by.
const MAX_PASSED_BY: usize = 10_000;

/// So many spans stay in memory after they were folded, for readers whose snapshots are from before that.
const MAX_RETAINED: usize = 1 << 17;

/// So many rows are deleted at a time, because they lie on one page or two; fewer where few spans wait.
const DELETED: u64 = 64;

/// The part of the writer that writes the journal and folds it.
pub(crate) struct Journal {
    names: Arc<TopicNames>,
    tails: Arc<Tails>,
    max_unfolded: usize,
    progress: Progress,
    /// As of the last commit.
    committed: PartitionState,
    /// What the running write does.
    pending: Pending,
    /// Topics whose tails have become long.
    long: VecDeque<i64>,
    /// How many entries the last commit has added.
    last_added: usize,
}

/// How far folding is. As of the last commit, or in the running write.
#[derive(Default, Clone, Copy)]
struct Progress {
    /// The id of the topic that is folded next.
    next: i64,
    /// The number of the first row that was written after the round had begun.
    round_began: u64,
    /// The rows before this one are of no use.
    obsolete_before: u64,
    /// The bytes of the rows from this round, and those from the round before.
    bytes: [u64; 2],
}

/// What a write has done until it is committed.
#[derive(Default)]
struct Pending {
    before: PartitionState,
    entries: Vec<Entry>,
    /// Topics whose rows in the tables are whole.
    written: Vec<Written>,
    /// The ids of those that had a tail before.
    folded: BTreeSet<i64>,
    folded_spans: usize,
    progress: Progress,
}

/// A topic whose rows in the tables say all there is.
#[derive(Clone, Copy)]
struct Written {
    topic_id: i64,
    last_offset: u64,
    duplicates: u64,
    conflicts: u64,
}

impl Written {
    fn of(topic: &TopicRow) -> Self {
        let TopicRow { id, last_offset, duplicates, conflicts, .. } = *topic;
        Self { topic_id: id, last_offset, duplicates, conflicts }
    }
}

impl Progress {
    fn new(partition: &PartitionState, bytes: u64) -> Self {
        Self {
            next: 1,
            round_began: partition.journal_last + 1,
            obsolete_before: partition.journal_first,
            bytes: [0, bytes],
        }
    }
}

impl Pending {
    fn clear(&mut self) {
        self.entries.clear();
        self.written.clear();
        self.folded.clear();
        self.folded_spans = 0;
    }
}

impl Journal {
    /// About `max_unfolded` spans wait in memory; with 0, appends write the tables themselves. Begin with
    /// [`Self::catalog`].
    pub(crate) fn new(names: Arc<TopicNames>, tails: Arc<Tails>, max_unfolded: u32) -> Self {
        Self {
            names,
            tails,
            max_unfolded: max_unfolded as usize,
            progress: Progress::default(),
            committed: PartitionState::default(),
            pending: Pending::default(),
            long: VecDeque::new(),
            last_added: 0,
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
        if rows(&catalog.partition) != rows(&self.committed) {
            return Err(Corruption::error(
                "the journal in the file is not the one of the last commit".into(),
            ));
        }
        Ok(kept.insert(catalog))
    }

    /// Takes over what was read when the store was opened.
    pub(crate) fn begin_with(&mut self, (mut catalog, replayed): (Catalog, Replayed)) -> Catalog {
        catalog.committed();
        let max_retained = MAX_RETAINED.min(self.max_unfolded * 2);
        self.progress = Progress::new(&catalog.partition, replayed.bytes);
        self.committed = catalog.partition;
        self.tails.set(&catalog, replayed, max_retained);
        catalog
    }

    /// Begins a write, and folds what is due. To be called before the write changes anything.
    pub(crate) fn begin(&mut self, connection: &Connection, catalog: &mut Catalog) -> Result<()> {
        self.begin_without_folding(catalog);
        let mut budget = self.last_added * 2 + LEAST_BUDGET;
        while budget > 0
            && let Some(topic_id) = self.long.pop_front()
        {
            budget = budget.saturating_sub(self.fold_id(connection, catalog, topic_id)?);
        }
        for _ in 0..MAX_PASSED_BY {
            if budget == 0 || !self.is_due(&catalog.partition) {
                break;
            }
            let topic_id = self.next_in_round(&catalog.partition);
            budget = budget.saturating_sub(self.fold_id(connection, catalog, topic_id)?);
        }
        Ok(())
    }

    /// Begins a write that shall write no more than it has to.
    pub(crate) fn begin_without_folding(&mut self, catalog: &Catalog) {
        self.pending.clear();
        self.pending.before = catalog.partition;
        self.pending.progress = self.progress;
    }

    /// Whether too many spans wait, or the journal has become too long.
    fn is_due(&self, partition: &PartitionState) -> bool {
        let waiting = self.tails.unfolded().saturating_sub(self.pending.folded_spans);
        let of_topics =
            usize::try_from(partition.topics).unwrap_or(usize::MAX).saturating_mul(SPANS_PER_FOLD / 2);
        let Progress { obsolete_before, bytes, .. } = self.pending.progress;
        waiting > self.max_unfolded.min(of_topics.max(LEAST_UNFOLDED))
            || partition.journal_last + 1 - obsolete_before
                > MAX_ROWS.min(self.max_unfolded as u64 * ROWS_PER_SPAN)
            || bytes.iter().sum::<u64>() > MAX_BYTES
    }

    /// The id of the topic whose turn it is. There has to be one.
    fn next_in_round(&mut self, partition: &PartitionState) -> i64 {
        let progress = &mut self.pending.progress;
        if progress.next.cast_unsigned() > partition.topics {
            progress.next = 1;
            progress.obsolete_before = progress.round_began;
            progress.round_began = partition.journal_last + 1;
            progress.bytes = [0, progress.bytes[0]];
        }
        progress.next += 1;
        progress.next - 1
    }

    fn fold_id(&mut self, connection: &Connection, catalog: &mut Catalog, topic_id: i64) -> Result<usize> {
        let (name, topic) = catalog.topic_mut(topic_id);
        let rows = self.fold(connection, topic)?;
        if rows > 0 {
            topic.update(connection, name)?;
        }
        Ok(rows)
    }

    /// Writes the spans of the topic's tail into the table, if it has a tail, before the write changes anything of the topic.
    /// The caller updates the topic's row. Returns how many rows that makes.
    pub(crate) fn fold(&mut self, connection: &Connection, topic: &mut TopicRow) -> Result<usize> {
        if self.pending.folded.contains(&topic.id) {
            return Ok(0);
        }
        let Some(spans) = self.tails.unfolded_of(topic.id) else { return Ok(0) };
        let mut before = self.tails.folded_through(topic.id);
        for span in &spans {
            topic.add_span(connection, before, *span)?;
            before = span.last;
        }
        self.pending.folded.insert(topic.id);
        self.pending.folded_spans += spans.len();
        self.written(topic);
        Ok(spans.len() + 1)
    }

    /// Notes that the topic's rows in the tables say all there is.
    pub(crate) fn written(&mut self, topic: &TopicRow) {
        self.pending.written.push(Written::of(topic));
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
        if self.max_unfolded == 0 {
            self.fold(connection, topic)?;
            if stored > 0 {
                topic.extend(connection, last_offset + 1 - stored, last_offset)?;
            }
            topic.update(connection, name)?;
            self.written(topic);
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

    /// Writes the journal's row, and deletes rows that are of no use any more. To be called at the end of a write.
    ///
    /// Writes the partition's row, too, if the write has changed it.
    pub(crate) fn write(&mut self, connection: &Connection, catalog: &mut Catalog) -> Result<()> {
        let partition = &mut catalog.partition;
        let Pending { before, entries, folded, progress, .. } = &mut self.pending;
        if !entries.is_empty() || !folded.is_empty() {
            let row = Row::new(partition.journal_last + 1, before.last_offset + 1, folded, entries);
            row.insert(connection)?;
            partition.journal_last += 1;
            progress.bytes[0] += row.bytes();
        }
        let deleted = DELETED.min(self.max_unfolded as u64);
        if deleted > 0 && progress.obsolete_before >= partition.journal_first + deleted {
            let until = partition.journal_first + deleted;
            Row::delete(connection, partition.journal_first, until)?;
            partition.journal_first = until;
        }
        if *partition == self.pending.before {
            return Ok(());
        }
        partition.write(connection)
    }

    /// The offset of the topic's first event that was not purged.
    pub(crate) fn first_offset(&self, connection: &Connection, topic: &TopicRow) -> Result<Option<u64>> {
        let of_table: Option<u64> = connection
            .prepare_cached("SELECT min(first_offset) FROM spans WHERE topic_id = ?1")?
            .query_row([topic.id], |row| row.get(0))?;
        let of_tail = || self.tails.unfolded_of(topic.id)?.first().map(|span| span.first);
        Ok(of_table.or_else(of_tail))
    }

    /// To be called when the commit has returned.
    pub(crate) fn committed(&mut self, catalog: &Catalog) {
        let long = LONG_TAIL.min(self.max_unfolded);
        self.long.extend(self.tails.committed(&self.pending, catalog.partition.last_offset, long));
        self.progress = self.pending.progress;
        self.committed = catalog.partition;
        self.last_added = self.pending.entries.len();
        self.pending.clear();
    }
}
