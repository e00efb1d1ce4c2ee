//! The row of a topic.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::TopicIdentity;
use crate::event::slot;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::journal::{Delta, Span};
use crate::store::sqlite::row::checksum::{Checksum, text};
use crate::store::sqlite::row::scope;
use crate::{Scope, Topic};

/// In memory, all of it is as of the last commit, but for `last_span`. In the table it is as of when the topic was folded last
/// ([`Journal`](crate::store::sqlite::journal::Journal)): readers go through a
/// [`TopicView`](crate::store::sqlite::journal::TopicView).
#[derive(Clone, Copy, Default)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
    pub(crate) last_seq: u64,
    /// The offset of its last event.
    pub(crate) last_offset: u64,
    /// The first offset of its last span in the table; 0 if it has none.
    pub(crate) last_span: u64,
    pub(crate) purged_seq: u64,
    pub(crate) purged_offset: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

/// The columns that [`TopicRow::read`] reads.
pub(crate) const TOPIC_COLUMNS: &str = "t.name, t.topic_id, t.slot, t.scope, t.last_seq, t.last_offset,
    t.last_span, t.purged_seq, t.purged_offset, t.duplicates, t.conflicts, t.checksum";

impl TopicRow {
    pub(crate) fn identity(&self) -> TopicIdentity {
        TopicIdentity { id: self.id, scope: self.scope }
    }

    /// A topic without events.
    pub(crate) fn new(id: i64, scope: Scope) -> Self {
        Self { id, scope, ..Self::default() }
    }

    /// Reads a row of [`TOPIC_COLUMNS`], and checks it.
    pub(crate) fn read<'r>(row: &'r Row<'_>) -> rusqlite::Result<(&'r str, Self)> {
        let name = text(row, 0)?;
        let topic = Self {
            id: row.get(1)?,
            scope: scope(row, 3)?,
            last_seq: row.get(4)?,
            last_offset: row.get(5)?,
            last_span: row.get(6)?,
            purged_seq: row.get(7)?,
            purged_offset: row.get(8)?,
            duplicates: row.get(9)?,
            conflicts: row.get(10)?,
        };
        if row.get::<_, u16>(2)? != slot(name) || row.get::<_, i64>(11)? != topic.checksum(name) {
            return Err(Corruption::error(format!("the topic {name:?} does not match its checksum")));
        }
        Ok((name, topic))
    }

    /// Adds what the journal says beyond the row in the table, and notes in `delta` where it begins.
    pub(crate) fn add(&mut self, name: &str, delta: &mut Delta) -> rusqlite::Result<()> {
        delta.folded_through = self.last_offset;
        if delta.spans.first().is_some_and(|span| span.first <= self.last_offset) {
            return Err(Corruption::error(format!(
                "the journal has events of topic {name} that were folded"
            )));
        }
        // What does not fit contradicts the partition's counters.
        self.last_seq = self.last_seq.saturating_add(delta.stored());
        self.last_offset = delta.spans.last().map_or(self.last_offset, |span| span.last);
        self.duplicates = self.duplicates.saturating_add(delta.duplicates);
        self.conflicts = self.conflicts.saturating_add(delta.conflicts);
        Ok(())
    }

    /// The row of the topic of this name, if there is one.
    pub(crate) fn named(connection: &Connection, name: &Topic) -> rusqlite::Result<Option<Self>> {
        let sql = format!("SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name = ?1");
        let mut select = connection.prepare_cached(&sql)?;
        select.query_row([name.as_str()], |row| Self::read(row).map(|(_, topic)| topic)).optional()
    }

    pub(crate) fn insert(&self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let mut insert = connection.prepare_cached(
            "INSERT INTO topics (topic_id, name, slot, scope, last_seq, last_offset, last_span, purged_seq,
                                 purged_offset, duplicates, conflicts, checksum)
             VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0, 0, 0, ?5)",
        )?;
        let scope = match self.scope {
            Scope::Topic => 0,
            Scope::Source => 1,
        };
        insert.execute((self.id, name, slot(name), scope, self.checksum(name))).map(drop)
    }

    pub(crate) fn update(&self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE topics SET last_seq = ?2, last_offset = ?3, last_span = ?4, purged_seq = ?5,
                    purged_offset = ?6, duplicates = ?7, conflicts = ?8, checksum = ?9
             WHERE topic_id = ?1",
        )?;
        let rows = update.execute((
            self.id,
            self.last_seq,
            self.last_offset,
            self.last_span,
            self.purged_seq,
            self.purged_offset,
            self.duplicates,
            self.conflicts,
            self.checksum(name),
        ))?;
        if rows == 1 {
            Ok(())
        } else {
            Err(Corruption::error(format!("the row of topic {name:?} is missing")))
        }
    }

    /// Writes that the topic's next events have the offsets `first` to `last`. All its other events have to be in the table.
    pub(crate) fn extend(&mut self, connection: &Connection, first: u64, last: u64) -> rusqlite::Result<()> {
        self.add_span(connection, self.last_offset, Span { first, last })?;
        self.last_offset = last;
        Ok(())
    }

    /// Writes a span into the table, where the topic's last span ends at `before`.
    pub(crate) fn add_span(
        &mut self,
        connection: &Connection,
        before: u64,
        span: Span,
    ) -> rusqlite::Result<()> {
        if self.last_span == 0 || before + 1 != span.first {
            self.last_span = span.first;
        }
        connection
            .prepare_cached(
                "INSERT INTO spans (topic_id, first_offset, last_offset) VALUES (?1, ?2, ?3)
                 ON CONFLICT (topic_id, first_offset) DO UPDATE SET last_offset = ?3",
            )?
            .execute((self.id, self.last_span, span.last))
            .map(drop)
    }

    fn checksum(&self, name: &str) -> i64 {
        let mut sum = Checksum::default();
        sum.text(Some(name));
        let fixed = [self.id.cast_unsigned(), u64::from(self.scope == Scope::Source)];
        let places = [self.last_seq, self.last_offset, self.last_span, self.purged_seq, self.purged_offset];
        let counters = [self.duplicates, self.conflicts];
        fixed.into_iter().chain(places).chain(counters).for_each(|number| sum.number(number));
        sum.finish()
    }
}
