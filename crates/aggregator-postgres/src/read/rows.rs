//! Reads everything that a partition keeps, row by row, for export and copying.

use aggregator_core::store::RowLimit;
use aggregator_core::{Kept, KeptEvent, Partition, Scope, StoredRow, Timestamp};
use tokio_postgres::Row;

use crate::columns::{details, digest_of, get, get_u64, scope, sequence, signed};
use crate::connection::pipeline::pipelined;
use crate::connection::session::Session;
use crate::fault::{Failure, Result};

/// The rows after the offset `after`. Fails if an offset has no row.
pub(crate) async fn rows(
    session: &Session,
    partition: Partition,
    after: u64,
    limit: RowLimit,
) -> Result<Vec<(u64, StoredRow)>> {
    let statements = session.statements.read();
    let number = i32::from(partition.0);
    let until = after.saturating_add(limit.rows.max(1) as u64);
    let bytes = signed(limit.payload_bytes.max(1) as u64);
    // The end is read first. Rows are only added after it and never removed, so every row up to it must be found.
    let (end, rows) = pipelined(
        session.query(&statements.end, &[&number]),
        session.query(&statements.rows, &[&number, &signed(after), &signed(until), &bytes]),
    )
    .await?;
    let [end] = end.as_slice() else {
        return Err(Failure::corrupt(format!("partition {number} has no row")));
    };
    let missing = |offset: u64| Failure::corrupt(format!("partition {number} has no row at offset {offset}"));
    let mut taken = Vec::with_capacity(rows.len());
    let mut payload_bytes = 0;
    for row in &rows {
        let (expected, offset) = (taken.last().map_or(after, |&(last, _)| last) + 1, get_u64(row, 0)?);
        if offset != expected {
            return Err(missing(expected));
        }
        let stored = stored_row(row, offset)?;
        payload_bytes += stored.payload_bytes();
        taken.push((offset, stored));
    }
    let last = taken.last().map_or(after, |&(offset, _)| offset);
    if payload_bytes < limit.payload_bytes.max(1) && last < until.min(get_u64(end, 0)?) {
        return Err(missing(last + 1));
    }
    Ok(taken)
}

fn stored_row(row: &Row, offset: u64) -> Result<StoredRow> {
    let (Some(topic), Some(scope_is)) = (get::<Option<String>>(row, 1)?, get::<Option<i32>>(row, 2)?) else {
        return Err(Failure::corrupt(format!("the event at offset {offset} has no topic")));
    };
    let scope = scope(scope_is)?;
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
