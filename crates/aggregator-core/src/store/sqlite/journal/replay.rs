//! Reads the journal from the file.

use rusqlite::{Connection, Result};

use super::damaged;
use super::row::Row;
use super::tails::Span;
use crate::store::sqlite::catalog::{PartitionState, index_of};

/// What the journal says beyond the tables.
#[derive(Default)]
pub(crate) struct Replayed {
    /// In the order of the topics' ids. Topics at the end that have none are left out.
    pub(crate) deltas: Vec<Delta>,
    /// How many bytes each of its rows has.
    pub(super) sizes: Vec<u64>,
}

/// What the journal says of a topic beyond its rows in the tables.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Those of its newest events.
    pub(crate) spans: Vec<Span>,
    /// The offset of its last event before them; known once it was compared with the topic's row.
    pub(crate) folded_through: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
    /// The row of the journal in which it begins; 0 if it is empty.
    pub(super) since: u64,
}

impl Delta {
    /// How many events its spans have.
    pub(crate) fn stored(&self) -> u64 {
        self.spans.iter().map(Span::len).sum()
    }
}

impl Replayed {
    /// What it says of the topic with this id.
    pub(crate) fn of(&self, topic_id: i64) -> Option<&Delta> {
        self.deltas.get(usize::try_from(topic_id.checked_sub(1)?).ok()?)
    }
}

/// Replays the rows that there have to be as of `partition`.
pub(crate) fn replay(connection: &Connection, partition: &PartitionState) -> Result<Replayed> {
    let mut replayed = Replayed::default();
    let mut next = partition.journal_first;
    Row::each(connection, partition.journal_first, |row| {
        if row.id != next || row.id > partition.journal_last {
            return Err(missing(next));
        }
        next += 1;
        replayed.sizes.push(row.bytes());
        for topic_id in row.folded(partition.topics)? {
            if let Some(delta) = replayed.deltas.get_mut(index_of(topic_id)) {
                *delta = Delta::default();
            }
        }
        take_entries(row, partition, &mut replayed.deltas)
    })?;
    if next == partition.journal_last + 1 { Ok(replayed) } else { Err(missing(next)) }
}

fn missing(id: u64) -> rusqlite::Error {
    damaged(format!("row {id} is missing, or there are others that do not belong to it"))
}

fn take_entries(row: &Row, partition: &PartitionState, deltas: &mut Vec<Delta>) -> Result<()> {
    let wrong = || damaged(format!("row {} contradicts the others", row.id));
    let mut first = row.first_offset;
    for entry in row.entries()? {
        let index = index_of(entry.topic_id);
        if entry.topic_id.cast_unsigned() > partition.topics {
            return Err(wrong());
        }
        if deltas.len() <= index {
            deltas.resize(index + 1, Delta::default());
        }
        let delta = &mut deltas[index];
        if delta.since == 0 {
            delta.since = row.id;
        }
        delta.duplicates = delta.duplicates.saturating_add(entry.duplicates);
        delta.conflicts = delta.conflicts.saturating_add(entry.conflicts);
        if entry.stored > 0 {
            let last = first.checked_add(entry.stored - 1).filter(|&last| last <= partition.last_offset);
            let span = Span { first, last: last.ok_or_else(wrong)? };
            match delta.spans.last_mut() {
                Some(before) if before.last >= span.first => return Err(wrong()),
                Some(before) if before.last + 1 == span.first => before.last = span.last,
                _ => delta.spans.push(span),
            }
            first = span.last + 1;
        }
    }
    Ok(())
}
