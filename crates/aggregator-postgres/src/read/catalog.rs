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
        let topic = Topic::new(get::<String>(row, 0)?)
            .map_err(|error| Failure::corrupt(format!("there is a topic whose name is none: {error}")))?;
        let mut info = TopicInfo::new(topic, scope(get(row, 1)?)?);
        info.slot =
            u16::try_from(slot).map_err(|_| Failure::corrupt(format!("a topic has the slot {slot}")))?;
        (info.last_seq, info.purged_seq) = (get_u64(row, 3)?, get_u64(row, 4)?);
        (info.duplicates, info.conflicts) = (get_u64(row, 5)?, get_u64(row, 6)?);
        Ok(info)
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
    let mut stats = StoreStats::default();
    (stats.stored, stats.topics, stats.bytes) = (get_u64(row, 0)?, get_u64(row, 3)?, bytes);
    (stats.duplicates, stats.conflicts) = (get_u64(row, 1)?, get_u64(row, 2)?);
    let newest = get::<Option<i64>>(row, 4)?.map(Timestamp::from_micros);
    stats.newest_processed_at = newest.and_then(Timestamp::after_the_first);
    Ok(stats)
}
