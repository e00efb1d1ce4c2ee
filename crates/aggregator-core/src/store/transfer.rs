//! Moving rows from one store to another: the rules that both sides share.
//!
//! [`Rows`] reads a store in an order in which another store can take it. [`validate_row`] and [`validate_topic`]
//! alone decide about a row there, so all backends take and refuse the same.

mod rows;

pub use self::rows::Rows;

use crate::event::{CheckedRow, Kept, StoredRow};
use crate::store::TopicInfo;
use crate::{InvalidField, Partition, Scope, StoreError, Timestamp};

/// Reading everything that a store keeps, and importing what another store had. See
/// [`DedupStore::transfer`](super::DedupStore::transfer).
pub trait Transfer: Send + Sync {
    /// The rows of a partition behind the offset `after`, in append order, each with its offset: events, stubs, identities
    /// that were imported alone, and where the last of a topic's forgotten events was, the mark that stands for all of them.
    /// No row is left out. An empty result means the end.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where it cannot be exported; [`StoreError::Corrupt`] where a row is
    /// damaged or missing; otherwise whatever the backend meets.
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError>;

    /// Stores rows of another store with their seqs and times, in one commit, as durable as an append. A
    /// row that is there already is skipped, so an import that was cut off, or whose reply was lost, is
    /// repeated. [`validate_row`] decides which rows are taken, and [`validate_topic`] which totals, whether they come
    /// with the rows or after them.
    ///
    /// Every topic must belong to `partition`. Rows with a seq move the partition's time, which never goes
    /// back; identities alone do not, and are not counted as stored.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if any part of it is refused: then nothing of it was stored. The fault's
    /// index is that of the row; totals are counted after the rows. [`StoreError::Unsupported`] where nothing
    /// can be imported; otherwise whatever the backend meets.
    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError>;
}

/// How much of a partition is read at a time. Reading stops after the row that reaches one of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimit {
    /// Rows, at least 1.
    pub rows: usize,
    /// Bytes of payloads.
    pub payload_bytes: usize,
}

impl Default for RowLimit {
    fn default() -> Self {
        Self { rows: 10_000, payload_bytes: 8 << 20 }
    }
}

/// What is imported into one partition, in one commit.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// Rows, in the order they are to have.
    pub rows: &'a [CheckedRow],
    /// Totals of topics, for when all their rows are there.
    pub topics: &'a [TopicInfo],
    /// What becomes of a row that is older than the partition's newest.
    pub times: Times,
}

impl<'a> Import<'a> {
    /// The topics of its items: the rows', then those of the totals.
    pub fn topic_names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.rows
            .iter()
            .map(|row| row.topic.as_str())
            .chain(self.topics.iter().map(|info| info.topic.as_str()))
    }

    /// Rows alone, whose times are kept.
    pub fn rows(rows: &'a [CheckedRow]) -> Self {
        Self { rows, topics: &[], times: Times::Keep }
    }

    /// Totals of topics alone.
    pub fn topics(topics: &'a [TopicInfo]) -> Self {
        Self { rows: &[], topics, times: Times::Keep }
    }
}

/// What becomes of an imported row that is older than the row before it: `processed_at` never goes back within a
/// partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// It is refused: every row keeps its time.
    #[default]
    Keep,
    /// It gets the time of the row before it.
    Raise,
}

/// What became of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Imported {
    /// Rows that were new.
    pub added: u64,
    /// Rows that were there already.
    pub present: u64,
}

impl std::ops::AddAssign for Imported {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.present += other.present;
    }
}

/// What a store knows of a topic when a row of it is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicState {
    /// Its scope.
    pub scope: Scope,
    /// The seq of its newest event.
    pub last_seq: u64,
    /// The events up to this seq were purged.
    pub purged_seq: u64,
    /// The events up to this seq were forgotten.
    pub forgotten_seq: u64,
}

/// What a store has under the identity of a row that is imported: the row with the same seq, released or not, and
/// otherwise the one whose identity is not released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its seq.
    pub seq: Option<u64>,
    /// When it was stored.
    pub processed_at: Timestamp,
    /// Whether it has the same content: see [`StoredRow::is_event`] and [`StoredRow::is_stub`].
    pub same: bool,
}

/// What becomes of an imported row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next row, stored at this time. A row without a seq does not move the partition's time.
    Add(Timestamp),
    /// It is there already. If it is released and was not so there, it becomes so.
    Present,
}

/// Decides about a row: `newest` is the time of the partition's newest row with a seq, `found` what is
/// stored under the row's identity in the scope of `topic`.
///
/// # Errors
/// Why it is refused, and the way out.
pub fn validate_row(
    row: &StoredRow,
    topic: TopicState,
    newest: Timestamp,
    found: Option<Found>,
    times: Times,
) -> Result<Verdict, InvalidField> {
    check_scope(&row.topic, row.scope, topic.scope)?;
    let Some(seq) = row.seq() else {
        return Ok(found.map_or(Verdict::Add(row.processed_at), |_| Verdict::Present));
    };
    // Seqs begin at 1, so this is also a mark for identities without seqs.
    if seq <= topic.forgotten_seq && (seq > 0 || row.is_forgotten()) {
        return Ok(Verdict::Present);
    }
    if row.is_forgotten() {
        return match topic.last_seq {
            0 => Ok(Verdict::Add(row.processed_at)),
            // Nothing changes. If the import has rows behind the mark, they are there, too, and have to be the same ones.
            last_seq if seq < last_seq => Ok(Verdict::Present),
            last_seq => Err(refuse(
                "forgotten_seq",
                row,
                &format!(
                    "the other store has forgotten the topic's events up to seq {seq}, and this one has events of the topic \
                     up to seq {last_seq}: nobody can tell whether they are the same. Import into an empty store"
                ),
            )),
        };
    }
    if let Some(found) = found {
        return judge_repeat(row, seq, found, times).map(|()| Verdict::Present);
    }
    let next = topic.last_seq + 1;
    if seq == 0 {
        return Err(refuse("seq", row, "seqs begin at 1"));
    }
    if seq < next {
        return Err(refuse(
            "seq",
            row,
            "this store has another event there: it took events of its own in this topic. Import into a \
             store that did not, an empty one for example",
        ));
    }
    if seq > next {
        let reason = format!(
            "the next seq here is {next}: rows are missing before this one. Import all of the file, or \
             what comes before it first"
        );
        return Err(refuse("seq", row, &reason));
    }
    if matches!(row.kept, Kept::Stub { .. }) && topic.purged_seq != topic.last_seq {
        let reason = format!(
            "its payload was purged, and this store still has the ones before it: only a prefix of a topic \
             may be purged. Purge the topic here through seq {} first, or import into an empty store",
            topic.last_seq
        );
        return Err(refuse("digest", row, &reason));
    }
    if row.processed_at < newest && times == Times::Keep {
        let reason = format!(
            "it was stored at {}, before the newest row of this store's partition ({newest}), and times may \
             not go back: import into an empty store, or have it take that time (--raise-times)",
            row.processed_at
        );
        return Err(refuse("processed_at", row, &reason));
    }
    Ok(Verdict::Add(row.processed_at.max(newest)))
}

/// A row that is there already has to be the same one.
fn judge_repeat(row: &StoredRow, seq: u64, found: Found, times: Times) -> Result<(), InvalidField> {
    let Some(there) = found.seq else {
        return Err(refuse(
            "event_id",
            row,
            "this store knows the identity without a seq: it was imported alone (--ids-only). Import into a \
             store where it was not",
        ));
    };
    if there != seq {
        let reason = format!(
            "this store has the same identity at seq {there}: it took events of its own in this topic. \
             Import into a store that did not, an empty one for example. If the identity was released in the other store, \
             release it here, too"
        );
        return Err(refuse("event_id", row, &reason));
    }
    if !found.same {
        return Err(refuse(
            "payload",
            row,
            "this store has the event there, but not with the same content: it is not a copy of the same \
             store. Import into an empty one. If the event was erased in the other store, erase it here, too",
        ));
    }
    let raised = times == Times::Raise && found.processed_at > row.processed_at;
    if found.processed_at != row.processed_at && !raised {
        let reason = format!(
            "this store has the event there, but stored at {} and not at {}: it did not get it by an import \
             of this file. Import into an empty store; if that import raised times, say --raise-times again",
            found.processed_at, row.processed_at
        );
        return Err(refuse("processed_at", row, &reason));
    }
    Ok(())
}

/// Decides about the totals of a topic; `topic` is what is there of it. Its counters are then to be the
/// larger ones of both, so that an import that is repeated counts nothing twice.
///
/// # Errors
/// Why they are refused, and the way out.
pub fn validate_topic(totals: &TopicInfo, topic: Option<TopicState>) -> Result<(), InvalidField> {
    let last_seq = topic.map_or(0, |topic| topic.last_seq);
    if let Some(topic) = topic {
        check_scope(totals.topic.as_str(), Some(totals.scope), topic.scope)?;
    }
    if last_seq < totals.last_seq {
        let reason = format!(
            "topic {} ends at seq {} by its totals and at {last_seq} in this store: rows are missing. Import \
             all of the file",
            totals.topic, totals.last_seq
        );
        return Err(InvalidField::new("last_seq", reason));
    }
    if totals.conflicts > totals.duplicates || i64::try_from(totals.duplicates).is_err() {
        let reason = format!("topic {}: conflicts are duplicates, too", totals.topic);
        return Err(InvalidField::new("conflicts", reason));
    }
    Ok(())
}

fn check_scope(topic: &str, wanted: Option<Scope>, scope: Scope) -> Result<(), InvalidField> {
    if wanted.is_none_or(|wanted| wanted == scope) {
        return Ok(());
    }
    let reason = format!(
        "topic {topic} has scope {} in this store and {} in the import, so its identities mean something \
         else: import into a store that does not have the topic",
        scope.as_str(),
        wanted.unwrap_or_default().as_str(),
    );
    Err(InvalidField::new("scope", reason))
}

fn refuse(field: &'static str, row: &StoredRow, why: &str) -> InvalidField {
    let seq = row.seq().map_or_else(|| "without seq".to_owned(), |seq| format!("seq {seq}"));
    let StoredRow { topic, event_id, .. } = row;
    InvalidField::new(field, format!("topic {topic}, {seq}, event id {event_id:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topic;

    #[test]
    fn totals_that_no_topic_can_have_are_refused() {
        let totals = |duplicates, conflicts| TopicInfo {
            duplicates,
            conflicts,
            ..TopicInfo::new(Topic::new("t").unwrap(), Scope::Topic)
        };
        assert!(validate_topic(&totals(2, 2), None).is_ok());
        assert!(validate_topic(&totals(2, 3), None).is_err(), "a conflict is a duplicate, too");
        assert!(validate_topic(&totals(u64::MAX, 3), None).is_err(), "no backend can keep that number");
    }
}
