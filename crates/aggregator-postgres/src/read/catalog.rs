//! The topics, and the totals over all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use aggregator_core::store::{StoreStats, TopicInfo};
use aggregator_core::{Partition, Partitions, Timestamp, Topic, TopicQuery, TopicSelector};
use tokio_postgres::Row;

use crate::citus::Cluster;
use crate::columns::{get, get_u64, partition_number, scope, signed};
use crate::connection::engine::Engine;
use crate::connection::pipeline::pipelined_all;
use crate::connection::session::Session;
use crate::fault::{Failure, Result, unavailable};

/// The most topics that one statement reads if every range of names fills the page.
const MAX_ROWS: usize = 4_000;

/// The names that a query asks for, by partition.
pub(crate) type Named<'q> = BTreeMap<Partition, Vec<&'q str>>;

/// Where the topics of a query are, if it names them.
pub(crate) fn named(partitions: Partitions, query: &TopicQuery) -> Option<Named<'_>> {
    let mut named = Named::new();
    for (selector, _) in query.ranges() {
        let TopicSelector::Exact(topic) = selector else { return None };
        named.entry(partitions.of(topic.as_str())).or_default().push(topic.as_str());
    }
    Some(named)
}

/// A page of topics in the order of their names.
pub(crate) async fn topics(
    session: &Session,
    partitions: Partitions,
    query: &TopicQuery,
    has_forgotten: bool,
) -> Result<Vec<TopicInfo>> {
    let mut topics = match session.engine {
        Engine::Citus => topics_of_shards(session, partitions, query).await?,
        Engine::Postgres | Engine::Other => topics_between(session, query).await?,
    };
    if query.times && has_forgotten {
        add_forgotten_times(session, partitions, &mut topics).await?;
    }
    Ok(topics)
}

/// Asks each partition for its own, or each shard for those in a range of names.
async fn topics_of_shards(
    session: &Session,
    partitions: Partitions,
    query: &TopicQuery,
) -> Result<Vec<TopicInfo>> {
    let statements = session.statements.read();
    if let Some(named) = named(partitions, query) {
        let mut topics = topics_named(session, query.times, &named).await?;
        topics.truncate(query.limit);
        return Ok(topics);
    }
    let mut topics = Vec::new();
    for (_, (low, high)) in query.ranges() {
        let left = signed(query.limit.saturating_sub(topics.len()) as u64);
        if left == 0 {
            break;
        }
        for row in session.query(&statements.topics_in_range, &[&low, &high, &left]).await? {
            topics.push(info(&row, false)?);
        }
    }
    if !query.times {
        return Ok(topics);
    }
    let mut names = Named::new();
    for topic in topics.iter().map(|info| info.topic.as_str()) {
        names.entry(partitions.of(topic)).or_default().push(topic);
    }
    topics_named(session, true, &names).await
}

/// Those topics in the order of their names.
async fn topics_named(session: &Session, times: bool, named: &Named<'_>) -> Result<Vec<TopicInfo>> {
    let statements = session.statements.read();
    let statement = if times { &statements.topics_of_with_times } else { &statements.topics_of };
    let ask = named.iter().map(|(&partition, names)| async move {
        let rows = session.query(statement, &[&partition_number(partition), names]).await?;
        rows.iter().map(|row| info(row, times)).collect::<Result<Vec<_>>>()
    });
    let mut topics: Vec<_> = pipelined_all(ask).await?.into_iter().flatten().collect();
    topics.sort_by(|a, b| a.topic.as_str().cmp(b.topic.as_str()));
    Ok(topics)
}

async fn topics_between(session: &Session, query: &TopicQuery) -> Result<Vec<TopicInfo>> {
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
    Ok(topics)
}

/// Adds the time of the last event to topics whose events were all forgotten.
async fn add_forgotten_times(
    session: &Session,
    partitions: Partitions,
    topics: &mut [TopicInfo],
) -> Result<()> {
    let may_be = |info: &&mut TopicInfo| {
        info.last_processed_at.is_none() && info.last_seq > 0 && info.purged_seq == info.last_seq
    };
    let named = topics.iter_mut().filter(may_be).map(|info| (info.topic.as_str().to_owned(), info));
    let mut timeless: HashMap<String, &mut TopicInfo> = named.collect();
    if timeless.is_empty() {
        return Ok(());
    }
    let mut names: BTreeMap<Partition, Vec<String>> = BTreeMap::new();
    timeless.keys().for_each(|name| names.entry(partitions.of(name)).or_default().push(name.clone()));
    let statement = &session.forgotten_reads().await?.times;
    let ask = names.iter().map(|(&partition, names)| async move {
        session.query(statement, &[&partition_number(partition), names]).await
    });
    for row in pipelined_all(ask).await?.iter().flatten() {
        let seq = get_u64(row, 2)?;
        if let Some(info) = timeless.get_mut(get::<&str>(row, 0)?).filter(|info| seq >= info.last_seq) {
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

/// The totals over all topics. Where partitions are on several servers, those that do not answer are left out.
/// `known_bytes` is how many bytes were measured before.
pub(crate) async fn stats(
    session: &Session,
    schema: &str,
    cluster: Option<&Cluster>,
    known_bytes: &AtomicU64,
) -> Result<StoreStats> {
    let statements = session.statements.read();
    let mut stats = StoreStats::default();
    match cluster {
        None => {
            let rows = session.query(&statements.totals, &[]).await?;
            let row = rows.first().ok_or_else(|| Failure::corrupt("the totals are missing"))?;
            add(&mut stats, row)?;
        }
        Some(cluster) => {
            let mut silent = BTreeSet::new();
            for partition in cluster.partitions().iter() {
                let address = cluster.address(partition);
                if !cluster.is_well(partition) || silent.contains(&address) {
                    stats.unavailable.push(partition);
                    continue;
                }
                match session.query(&statements.totals_of, &[&partition_number(partition)]).await {
                    Ok(rows) => rows.iter().try_for_each(|row| add(&mut stats, row))?,
                    Err(failure) if cluster.is_told_by(session, &failure) => {
                        stats.unavailable.push(partition);
                        silent.insert(address);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            if stats.unavailable.len() == usize::from(cluster.partitions().count()) {
                return Err(unavailable("no server of the cluster answers").into());
            }
        }
    }
    // An engine that does not tell the size counts as 0 bytes. While a table is locked, as by `VACUUM FULL`, what was
    // measured before is told.
    let sizes = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relkind = 'r'";
    let bytes = match session.client.query_one(sizes, &[&schema]).await {
        Ok(row) => {
            let bytes = get_u64(&row, 0)?;
            known_bytes.store(bytes, Ordering::Relaxed);
            bytes
        }
        Err(error) if error.as_db_error().is_some() => known_bytes.load(Ordering::Relaxed),
        Err(error) => return Err(error.into()),
    };
    stats.bytes = bytes.saturating_add(cluster.map_or(0, Cluster::bytes));
    Ok(stats)
}

/// Adds the totals of a row: of one partition, or of all.
fn add(stats: &mut StoreStats, row: &Row) -> Result<()> {
    stats.stored += get_u64(row, 0)?;
    stats.duplicates += get_u64(row, 1)?;
    stats.conflicts += get_u64(row, 2)?;
    stats.topics += get_u64(row, 3)?;
    let newest = get::<Option<i64>>(row, 4)?.map(Timestamp::from_micros);
    stats.newest_processed_at = stats.newest_processed_at.max(newest.and_then(Timestamp::after_the_first));
    Ok(())
}
