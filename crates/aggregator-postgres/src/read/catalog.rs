//! The topics, and the totals over all of them.

use aggregator_core::store::{StoreStats, TopicInfo};
use aggregator_core::{Timestamp, Topic};
use tokio_postgres::Row;

use crate::columns::{get, get_u64, scope, signed};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};

/// Topics by name.
pub(crate) async fn topics(session: &Session, after: Option<&Topic>, limit: usize) -> Result<Vec<TopicInfo>> {
    let after = after.map_or("", Topic::as_str);
    let rows = session.query(&session.statements.read().topics, &[&after, &signed(limit as u64)]).await?;
    let info = |row: &Row| {
        let slot: i32 = get(row, 2)?;
        Ok(TopicInfo {
            topic: Topic::new(get::<String>(row, 0)?)
                .map_err(|error| Failure::corrupt(format!("there is a topic whose name is none: {error}")))?,
            scope: scope(get(row, 1)?)?,
            slot: u16::try_from(slot)
                .map_err(|_| Failure::corrupt(format!("a topic has the slot {slot}")))?,
            last_seq: get_u64(row, 3)?,
            purged_seq: get_u64(row, 4)?,
            duplicates: get_u64(row, 5)?,
            conflicts: get_u64(row, 6)?,
        })
    };
    rows.iter().map(info).collect()
}

/// Totals.
pub(crate) async fn stats(session: &Session, schema: &str) -> Result<StoreStats> {
    let rows = session.query(&session.statements.read().totals, &[]).await?;
    let [row] = rows.as_slice() else { return Err(Failure::corrupt("the totals are missing")) };
    // Where the engine does not know, nobody does.
    let sizes = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relkind = 'r'";
    let bytes = match session.client.query_one(sizes, &[&schema]).await {
        Ok(row) => get_u64(&row, 0)?,
        Err(error) if error.as_db_error().is_some() => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(StoreStats {
        stored: get_u64(row, 0)?,
        duplicates: get_u64(row, 1)?,
        conflicts: get_u64(row, 2)?,
        topics: get_u64(row, 3)?,
        bytes,
        newest_processed_at: get::<Option<i64>>(row, 4)?
            .map(Timestamp::from_micros)
            .and_then(Timestamp::after_the_first),
    })
}
