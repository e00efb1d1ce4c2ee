//! Forgets the oldest identities of a topic: removes rows that have no payload, and leaves a mark that stands for them.

use std::cell::Cell;

use aggregator_core::{Partition, Timestamp, Topic};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::PostgresOptions;
use crate::columns::{get, get_u64, partition_number, signed};
use crate::connection::pipeline::{pipelined, pipelined3};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};
use crate::partition_state::PartitionState;

/// The most rows that one transaction forgets, so that appends get their turn, and that one statement counts.
const SLICE: u64 = 1_000;

/// Rows that were forgotten, or can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Slice {
    pub(crate) rows: u64,
    /// The offset of the last one.
    pub(crate) last_offset: u64,
    /// Whether there may be more behind it.
    pub(crate) may_go_on: bool,
}

/// The mark that stands for the forgotten rows of a topic.
#[derive(Debug, Clone, Copy)]
struct Mark {
    offset: u64,
    seq: u64,
    /// How many rows it stands for.
    rows: u64,
    processed_at: Timestamp,
}

/// The rows that a call is about.
#[derive(Clone, Copy)]
pub(crate) struct Oldest<'a> {
    pub(crate) partition: Partition,
    pub(crate) topic: &'a Topic,
    /// Rows from that time on stay.
    pub(crate) before: Timestamp,
    /// The offset behind which the topic's rows begin.
    pub(crate) after: u64,
    /// How many rows at most.
    pub(crate) most: u64,
}

/// Forgets a slice of a topic's rows. The transaction may run several times.
pub(crate) struct ForgetTx<'a> {
    options: &'a PostgresOptions,
    partition: i32,
    oldest: Oldest<'a>,
    /// What an earlier run tried to forget, and for how many rows the mark would stand then.
    tried: Cell<Option<(Slice, u64)>>,
}

impl<'a> ForgetTx<'a> {
    pub(crate) fn new(options: &'a PostgresOptions, oldest: Oldest<'a>) -> Self {
        let partition = partition_number(oldest.partition);
        Self { options, partition, oldest, tried: Cell::default() }
    }

    /// Runs the whole transaction. Returns what it has forgotten. After an error the session may still be inside the
    /// transaction.
    pub(crate) async fn transact(&self, session: &Session) -> Result<Slice> {
        let Oldest { before, after, most, .. } = self.oldest;
        let statements = session.forget_writes().await?;
        session.delete_oldest().await?;
        session.forget_warnings();
        let ((), state, topics) = pipelined3(
            session.begin(),
            session.query(&session.statements.append().lock, &[&self.partition]),
            session.query(&statements.topic, &[&self.partition, &self.oldest.topic.as_str()]),
        )
        .await?;
        let last_offset = PartitionState::one(self.partition, &state, self.options)?.last_offset;
        let Some(topic) = topics.first() else {
            session.run("ROLLBACK").await?;
            return Ok(Slice::default());
        };
        let (id, mark) = (get::<i64>(topic, 0)?, mark(topic)?);
        if let (Some((slice, rows)), Some(mark)) = (self.tried.get(), mark)
            && mark.rows >= rows
        {
            // An earlier run has forgotten them, and its answer was lost. This commit writes, so it waits for the disk
            // and the standbys, as that one should have.
            self.commit(session, id, Mark { rows: 0, ..mark }, None).await?;
            return Ok(slice);
        }
        let (after, limit) = (signed(after), signed(most.min(SLICE)));
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.partition, &id, &after, &signed(last_offset), &limit];
        let oldest = session.query(&statements.forgettable, &parameters).await?;
        let (slice, new_mark) = forgettable(&oldest, before, Known::Mark(mark))?;
        let Some(new_mark) = new_mark else {
            session.run("ROLLBACK").await?;
            return Ok(slice);
        };
        self.tried.set(Some((slice, mark.map_or(0, |mark| mark.rows) + slice.rows)));
        self.commit(session, id, new_mark, Some(slice)).await?;
        Ok(slice)
    }

    /// The last round trip. `mark.rows` is added to what the mark stands for already.
    async fn commit(&self, session: &Session, id: i64, mark: Mark, slice: Option<Slice>) -> Result<()> {
        // Both are prepared by now: what is sent along, the commit above all, must not overtake them.
        let statements = session.forget_writes().await?;
        let delete_oldest = session.delete_oldest().await?;
        let delete = async {
            let Some(slice) = slice else { return Ok(()) };
            let (after, last) = (signed(self.oldest.after), signed(slice.last_offset));
            let deleted = session.execute(delete_oldest, &[&self.partition, &id, &after, &last]).await?;
            debug_assert_eq!(deleted, slice.rows);
            Ok(())
        };
        let [offset, seq, rows] = [mark.offset, mark.seq, mark.rows].map(|number| vec![signed(number)]);
        let (ids, times) = (vec![id], vec![mark.processed_at.as_micros()]);
        let columns: [&(dyn ToSql + Sync); 6] = [&self.partition, &ids, &offset, &seq, &rows, &times];
        let write = pipelined(session.execute(&statements.write_marks, &columns), session.run("COMMIT"));
        pipelined(delete, write).await?;
        session.check_warnings()
    }
}

/// How many of the topic's oldest rows can be forgotten. It looks at a part of them: if there are any, there may be more
/// behind the last one.
pub(crate) async fn count(session: &Session, oldest: Oldest<'_>) -> Result<Slice> {
    let Oldest { topic, before, after, most, .. } = oldest;
    let (reads, statements) = (session.statements.read(), session.forgotten_reads().await?);
    let partition = &partition_number(oldest.partition);
    let (topics, ends) = pipelined(
        session.query(&reads.topic, &[partition, &topic.as_str()]),
        session.query(&reads.end, &[partition]),
    )
    .await?;
    let (Some(topic), Some(end)) = (topics.first(), ends.first()) else { return Ok(Slice::default()) };
    let (id, end): (i64, i64) = (get(topic, 0)?, get(end, 0)?);
    let limit = signed(most.min(SLICE));
    let oldest =
        session.query(&statements.forgettable, &[partition, &id, &signed(after), &end, &limit]).await?;
    Ok(forgettable(&oldest, before, Known::Nothing)?.0)
}

/// What is known of what a topic has forgotten.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    /// There may be none.
    Mark(Option<Mark>),
}

/// Of the oldest rows of a topic, the first ones that have no payload and were stored before that time, and their mark. It
/// is `None` if there are none.
fn forgettable(oldest: &[Row], before: Timestamp, known: Known) -> Result<(Slice, Option<Mark>)> {
    let (mut slice, mut new_mark) = (Slice::default(), None::<Mark>);
    let (mark, mut last_seq) = match known {
        Known::Nothing => (None, None),
        Known::Mark(mark) => (mark, Some(mark.map_or(0, |mark| mark.seq))),
    };
    slice.may_go_on = oldest.len() as u64 == SLICE;
    for row in oldest {
        let (offset, seq, time) = (get_u64(row, 0)?, get::<Option<i64>>(row, 1)?, get(row, 2)?);
        let (processed_at, has_payload) = (Timestamp::from_micros(time), !get::<bool>(row, 3)?);
        if has_payload || processed_at >= before {
            slice.may_go_on = false;
            break;
        }
        (slice.rows, slice.last_offset) = (slice.rows + 1, offset);
        let last = new_mark.or(mark);
        let (seq, processed_at) = match (seq, last) {
            (Some(_), _) => {
                let seq = get_u64(row, 1)?;
                if let Some(before) = last_seq.replace(seq)
                    && seq != before + 1
                {
                    let what = format!("the row at offset {offset} is not the one after seq {before}");
                    return Err(Failure::corrupt(what));
                }
                (seq, processed_at)
            }
            // An identity that was imported alone leaves the time of the last event.
            (None, Some(last)) => (last.seq, last.processed_at),
            (None, None) => (0, processed_at),
        };
        // A mark that was imported may stand behind identities that were there before it.
        let offset = offset.max(last.map_or(0, |last| last.offset));
        new_mark = Some(Mark { offset, seq, rows: slice.rows, processed_at });
    }
    Ok((slice, new_mark))
}

/// The mark in a row that begins with the topic's id.
fn mark(row: &Row) -> Result<Option<Mark>> {
    if get::<Option<i64>>(row, 1)?.is_none() {
        return Ok(None);
    }
    let processed_at = Timestamp::from_micros(get(row, 4)?);
    Ok(Some(Mark { offset: get_u64(row, 1)?, seq: get_u64(row, 2)?, rows: get_u64(row, 3)?, processed_at }))
}
