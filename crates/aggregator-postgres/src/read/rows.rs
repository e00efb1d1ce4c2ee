//! Reads everything that a partition keeps, row by row, for export and copying.

use std::collections::HashMap;

use aggregator_core::store::RowLimit;
use aggregator_core::{Kept, KeptEvent, Partition, Scope, StoredRow, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::columns::{
    details, digest_of, get, get_u64, partition, partition_number, scope, sequence, signed,
};
use crate::connection::pipeline::{pipelined_all, pipelined3};
use crate::connection::session::Session;
use crate::fault::{Failure, Result, unavailable};

/// The rows and marks after the offset `after`. Fails if an offset has no row, and no mark of forgotten rows is there or
/// behind it.
pub(crate) async fn rows(
    session: &Session,
    partition: Partition,
    after: u64,
    limit: RowLimit,
    has_forgotten: bool,
) -> Result<Vec<(u64, StoredRow)>> {
    let statements = session.statements.read();
    let number = i32::from(partition.0);
    let (most, bytes) = (limit.rows.max(1), signed(limit.payload_bytes.max(1) as u64));
    let ((), end, rows) = pipelined3(
        session.begin_snapshot(),
        session.query(&statements.end, &[&number]),
        session.query(&statements.rows, &[&number, &signed(after), &signed(most as u64), &bytes]),
    )
    .await?;
    let [end] = end.as_slice() else {
        return Err(Failure::corrupt(format!("partition {number} has no row")));
    };
    let mut taken = Vec::with_capacity(rows.len());
    let mut payload_bytes = 0;
    // The last offset that has no row.
    let (mut read, mut missing) = (after, 0);
    for row in &rows {
        let offset = get_u64(row, 0)?;
        if offset != read + 1 {
            missing = offset - 1;
        }
        let stored = stored_row(row, offset)?;
        payload_bytes += stored.payload_bytes();
        read = offset;
        taken.push((offset, stored));
    }
    if payload_bytes < limit.payload_bytes.max(1) && taken.len() < most {
        let end = get_u64(end, 0)?;
        if end > read {
            (read, missing) = (end, end);
        }
    }
    if missing > 0 {
        check_forgotten(session, &[(partition, missing)], has_forgotten).await?;
        taken.extend(marks(session, number, after, read, most).await?);
        taken.sort_by_key(|&(offset, _)| offset);
        if let Some(&(offset, _)) = taken.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| &pair[0])
        {
            return Err(Failure::corrupt(format!(
                "the row at offset {offset} was forgotten, but it is there"
            )));
        }
        taken.truncate(most);
    }
    session.run("COMMIT").await?;
    Ok(taken)
}

/// Checks that rows are missing because they were forgotten.
pub(super) async fn check_forgotten(
    session: &Session,
    missing: &[(Partition, u64)],
    has_forgotten: bool,
) -> Result<()> {
    let mut last_marks = HashMap::new();
    if has_forgotten {
        let partitions: Vec<_> = missing.iter().map(|&(partition, _)| partition_number(partition)).collect();
        last_marks = self::last_marks(session, &partitions).await?;
    }
    let is_lost = |&&(partition, offset): &&_| last_marks.get(&partition).is_none_or(|&mark| offset > mark);
    let Some((partition, offset)) = missing.iter().find(is_lost) else { return Ok(()) };
    if !has_forgotten {
        let sql = "SELECT to_regclass('forgotten') IS NOT NULL";
        if get(&session.client.query_one(sql, &[]).await?, 0)? {
            let reason = "another node has added the table of forgotten identities: restart this node, so that it reads it";
            return Err(unavailable(reason).into());
        }
    }
    Err(Failure::corrupt(format!("partition {} has no row at offset {offset}", partition.0)))
}

/// The offset of the last mark of forgotten rows in each of these partitions. Partitions without marks are left out.
async fn last_marks(session: &Session, partitions: &[i32]) -> Result<HashMap<Partition, u64>> {
    let statement = &session.forgotten_reads().await?.last_mark;
    let marks = pipelined_all(partitions.iter().map(|number| async move {
        let rows = session.query(statement, &[number]).await?;
        rows.first().map(|row| Ok((partition(row, 0)?, get_u64(row, 1)?))).transpose()
    }));
    Ok(marks.await?.into_iter().flatten().collect())
}

/// The marks behind one offset and up to another.
async fn marks(
    session: &Session,
    number: i32,
    after: u64,
    until: u64,
    most: usize,
) -> Result<Vec<(u64, StoredRow)>> {
    let parameters: [&(dyn ToSql + Sync); 4] =
        [&number, &signed(after), &signed(until), &signed(most as u64)];
    let rows = session.query(&session.forgotten_reads().await?.marks, &parameters).await?;
    let mark = |row: &Row| {
        let offset = get_u64(row, 0)?;
        let (topic, scope) = topic(row, offset)?;
        let mark = StoredRow {
            topic,
            scope: Some(scope),
            event_id: String::new(),
            source: None,
            processed_at: Timestamp::from_micros(get(row, 4)?),
            released: false,
            kept: Kept::Forgotten { seq: get_u64(row, 3)? },
        };
        Ok((offset, mark))
    };
    rows.iter().map(mark).collect()
}

/// A row's topic and its scope, in the second and third column.
fn topic(row: &Row, offset: u64) -> Result<(String, Scope)> {
    let (Some(topic), Some(scope_is)) = (get(row, 1)?, get::<Option<i32>>(row, 2)?) else {
        return Err(Failure::corrupt(format!("the event at offset {offset} has no topic")));
    };
    Ok((topic, scope(scope_is)?))
}

fn stored_row(row: &Row, offset: u64) -> Result<StoredRow> {
    let (topic, scope) = topic(row, offset)?;
    let payload: Option<&str> = get(row, 7)?;
    let kept = match (sequence(row, 5)?, payload, digest_of(row, 6)?) {
        (Some(seq), Some(payload), None) => {
            let details = details(row, 8, payload)?;
            Kept::Event(KeptEvent {
                seq,
                timestamp: details.timestamp.to_owned(),
                payload: payload.to_owned(),
                sequence: details.sequence,
                content_type: details.content_type.map(str::to_owned),
                attributes: details.attributes.map(str::to_owned),
            })
        }
        (Some(seq), None, Some(digest)) => Kept::Stub { seq, digest },
        (None, None, None) => Kept::Identity,
        _ => {
            let what = format!("the row at offset {offset} is neither an event nor what is left of one");
            return Err(Failure::corrupt(what));
        }
    };
    let has_source = payload.is_some() || scope == Scope::Source;
    Ok(StoredRow {
        topic,
        scope: Some(scope),
        event_id: get(row, 3)?,
        source: if has_source { Some(get(row, 8)?) } else { None },
        processed_at: Timestamp::from_micros(get(row, 4)?),
        released: get(row, 13)?,
        kept,
    })
}
