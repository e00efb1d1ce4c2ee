//! Looks up which identities are stored.

use std::collections::HashMap;

use aggregator_core::event::DEFAULT_SOURCE;
use aggregator_core::store::StoreInfo;
use aggregator_core::{Identity, Partition, Seen, Source, Timestamp};
use tokio_postgres::Row;

use crate::columns::{get, get_u64, sequence};
use crate::connection::pipeline::pipelined_all;
use crate::connection::session::Session;
use crate::fault::Result;

/// What is stored under each of `ids`.
pub(crate) async fn lookup(
    session: &Session,
    info: &StoreInfo,
    ids: &[Identity],
) -> Result<Vec<Option<Seen>>> {
    let mut parts: HashMap<Partition, Vec<usize>> = HashMap::new();
    for (position, id) in ids.iter().enumerate() {
        parts.entry(info.partitions.of(id.topic.as_str())).or_default().push(position);
    }
    let statement = &session.statements.read().seen;
    let ask = parts.into_iter().map(|(partition, positions)| async move {
        let part = || positions.iter().map(|&position| &ids[position]);
        let topics: Vec<_> = part().map(|id| id.topic.as_str()).collect();
        let event_ids: Vec<_> = part().map(|id| id.event_id.as_str()).collect();
        let sources: Vec<_> =
            part().map(|id| id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str)).collect();
        let rows =
            session.query(statement, &[&i32::from(partition.0), &topics, &event_ids, &sources]).await?;
        let seen = |row: &Row| {
            let at = usize::try_from(get_u64(row, 0)?).unwrap_or(usize::MAX) - 1;
            let processed_at = Timestamp::from_micros(get(row, 2)?);
            let seen = Seen::new(sequence(row, 1)?, processed_at, get(row, 3)?);
            Ok((positions[at], seen))
        };
        rows.iter().map(seen).collect::<Result<Vec<_>>>()
    });
    let mut answers = vec![None; ids.len()];
    for (position, seen) in pipelined_all(ask).await?.into_iter().flatten() {
        answers[position] = Some(seen);
    }
    Ok(answers)
}
