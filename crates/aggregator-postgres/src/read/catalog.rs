//! The topics, and the totals over all of them.

use std::collections::HashMap;

use aggregator_core::store::{StoreStats, TopicInfo};
use aggregator_core::{Timestamp, Topic, TopicQuery};
use tokio_postgres::Row;

use crate::columns::{get, get_u64, scope, signed};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};

/// The most topics that one statement reads if every range of names fills the page.
const MAX_ROWS: usize = 4_000;

/// A page of topics in the order of their names.
pub(crate) async fn topics(
    session: &Session,
    query: &TopicQuery,
    has_forgotten: bool,
) -> Result<Vec<TopicInfo>> {
    let statements = session.statements.read();
    let statement = if query.times { &statements.topics_with_times } else { &statements.topics };
    let ranges: Vec<_> = query.ranges().map(|(_, range)| range).collect();
    let mut topics: Vec<TopicInfo> = Vec::new();
    // The ranges are in the order of the names, so later ones are read only if the page still has room.
    for ranges in ranges.chunks((MAX_ROWS / query.limit.max(1)).max(1)) {
        let left = query.limit - topics.len();
        if left == 0 {
            break;
        }
        let (low, high): (Vec<_>, Vec<_>) =
            ranges.iter().map(|(low, high)| (low.as_str(), high.as_str())).unzip();
        let rows = session.query(statement, &[&low, &high, &signed(left as u64)]).await?;
        for row in &rows {
            topics.push(info(row, query.times)?);
        }
    }
    if query.times && has_forgotten {
        add_forgotten_times(session, &mut topics).await?;
    }
    Ok(topics)
}

/// Adds the time of the last event to topics whose events were all forgotten.
async fn add_forgotten_times(session: &Session, topics: &mut [TopicInfo]) -> Result<()> {
    let may_be = |info: &&mut TopicInfo| {
        info.last_processed_at.is_none() && info.last_seq > 0 && info.purged_seq == info.last_seq
    };
    let named = topics.iter_mut().filter(may_be).map(|info| (info.topic.as_str().to_owned(), info));
    let mut timeless: HashMap<String, &mut TopicInfo> = named.collect();
    if timeless.is_empty() {
        return Ok(());
    }
    let (names, last_seqs): (Vec<_>, Vec<_>) =
        timeless.iter().map(|(name, info)| (name.as_str(), signed(info.last_seq))).unzip();
    let rows = session.query(&session.forgotten_reads().await?.times, &[&names, &last_seqs]).await?;
    for row in &rows {
        if let Some(info) = timeless.get_mut(get::<&str>(row, 0)?) {
            info.last_processed_at = Some(Timestamp::from_micros(get(row, 1)?));
        }
    }
    Ok(())
}

fn info(row: &Row, with_times: bool) -> Result<TopicInfo> {
    let slot: i32 = get(row, 2)?;
    let topic = Topic::new(get::<String>(row, 0)?)
        .map_err(|error| Failure::corrupt(format!("the name of a topic is invalid: {error}")))?;
    let mut info = TopicInfo::new(topic, scope(get(row, 1)?)?);
    info.slot = u16::try_from(slot).map_err(|_| Failure::corrupt(format!("a topic has the slot {slot}")))?;
    (info.last_seq, info.purged_seq) = (get_u64(row, 3)?, get_u64(row, 4)?);
    (info.duplicates, info.conflicts) = (get_u64(row, 5)?, get_u64(row, 6)?);
    if with_times {
        let time = |column| Ok::<_, Failure>(get::<Option<i64>>(row, column)?.map(Timestamp::from_micros));
        (info.first_processed_at, info.last_processed_at) = (time(7)?, time(8)?);
    }
    Ok(info)
}

/// The totals over all topics.
pub(crate) async fn stats(session: &Session, schema: &str) -> Result<StoreStats> {
    let rows = session.query(&session.statements.read().totals, &[]).await?;
    let [row] = rows.as_slice() else { return Err(Failure::corrupt("the totals are missing")) };
    // An engine that does not tell the size counts as 0 bytes.
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
