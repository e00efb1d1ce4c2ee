//! Purge: removes payloads, and keeps a digest of each.

use aggregator_core::Partition;
use aggregator_core::event::digest;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::PostgresOptions;
use crate::columns::{get, get_u64, partition_number, signed};
use crate::connection::pipeline::{pipelined, pipelined3};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};
use crate::partition_state::PartitionState;

/// The most events that one transaction purges, so that appends get their turn.
const SLICE: u64 = 1_000;
/// A slice ends with the event at which its payloads reach this many bytes, since they are fetched to be hashed.
const SLICE_BYTES: u64 = 8 << 20;

/// Removes the payloads of a slice of the topic's oldest events, up to `through_seq`, and returns how many. After an
/// error the session may still be inside the transaction.
pub(crate) async fn purge_slice(
    session: &Session,
    options: &PostgresOptions,
    partition: Partition,
    topic: &str,
    through_seq: u64,
) -> Result<u64> {
    let statements = session.statements.append();
    let partition = &partition_number(partition);
    session.forget_warnings();
    let ((), state, topics) = pipelined3(
        session.begin(),
        session.query(&statements.lock, &[partition]),
        session.query(&statements.purgeable, &[partition, &topic]),
    )
    .await?;
    PartitionState::one(*partition, &state, options)?;
    let Some(topic) = topics.first() else {
        session.run("ROLLBACK").await?;
        return Ok(0);
    };
    let (id, last_seq, purged_seq) = (get::<i64>(topic, 0)?, get_u64(topic, 1)?, get_u64(topic, 2)?);
    // Seqs are dense, so they give the number of rows to find.
    let count = through_seq.min(last_seq).saturating_sub(purged_seq).min(SLICE);
    let after = get::<i64>(topic, 3)?;
    if count == 0 {
        // An earlier try may have purged the last slice and lost its answer. This commit writes, so it waits for the
        // disk and the standbys, as that one should have.
        let parameters: [&(dyn ToSql + Sync); 4] = [partition, &id, &signed(purged_seq), &after];
        let written = session.execute(&statements.purge_topic, &parameters);
        pipelined(written, session.run("COMMIT")).await?;
        session.check_warnings()?;
        return Ok(0);
    }
    let oldest = session.query(&statements.oldest, &[partition, &id, &after, &signed(count)]).await?;
    let offsets = slice(&oldest, purged_seq, count)?;
    let payloads = session.query(&statements.payloads, &[partition, &offsets]).await?;
    let mut at = Vec::with_capacity(payloads.len());
    let mut digests = Vec::with_capacity(payloads.len());
    for row in &payloads {
        at.push(get::<i64>(row, 0)?);
        digests.push(digest(get(row, 1)?));
    }
    let digests: Vec<&[u8]> = digests.iter().map(<[u8; 16]>::as_slice).collect();
    let purged = offsets.len() as u64;
    let (seq, last) = (signed(purged_seq + purged), offsets.last());
    let (changed, _, ()) = pipelined3(
        session.execute(&statements.purge_events, &[partition, &at, &digests]),
        session.execute(&statements.purge_topic, &[partition, &id, &seq, &last]),
        session.run("COMMIT"),
    )
    .await?;
    session.check_warnings()?;
    debug_assert_eq!(changed, purged);
    Ok(purged)
}

/// The offsets of the first events, as many as fit into a slice.
fn slice(oldest: &[Row], purged_seq: u64, count: u64) -> Result<Vec<i64>> {
    let mut offsets = Vec::new();
    let mut bytes = 0;
    for (expected, row) in (purged_seq + 1..).zip(oldest) {
        let (offset, seq, length) = (get::<i64>(row, 0)?, get_u64(row, 1)?, get::<Option<i32>>(row, 2)?);
        let Some(length) = length.filter(|_| seq == expected) else {
            let what = format!("the event at offset {offset} is not the one after seq {}", expected - 1);
            return Err(Failure::corrupt(what));
        };
        offsets.push(offset);
        bytes += u64::try_from(length).unwrap_or(0);
        if bytes >= SLICE_BYTES {
            return Ok(offsets);
        }
    }
    if offsets.len() as u64 == count {
        return Ok(offsets);
    }
    Err(Failure::corrupt(format!("events are missing after seq {purged_seq}")))
}
