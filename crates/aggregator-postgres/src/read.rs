//! Everything that reads. A page is one snapshot: first which events it has, partition by partition, then
//! their bodies, so that no more payloads are moved than it shows.

use std::collections::HashMap;

use aggregator_core::event::DEFAULT_SOURCE;
use aggregator_core::store::backend::{
    Ends, Entry, Merged, Position, Scan, Scanner, check_positions, merge_entries,
};
use aggregator_core::store::{StoreInfo, StoreStats, TopicInfo};
use aggregator_core::{
    Identity, Order, Page, Partition, Query, Seen, Source, StoredEvent, Timestamp, Topic, TopicSelector,
};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::details::sequence;
use crate::fault::{Failure, Result, get, get_u64, signed};
use crate::group::scope;
use crate::pipeline::{pipelined, pipelined_all, pipelined4};
use crate::session::Session;

/// One statement sees one state.
pub(crate) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A page. After an error the session may be inside a transaction.
pub(crate) async fn read(session: &Session, info: &StoreInfo, query: &Query) -> Result<Page> {
    let mut positions = query.positions(info)?;
    let (ends, topic) = begin(session, info, query).await?;
    check_positions(query, info, &mut positions, |partition| {
        Ok(ends.get(&partition).map_or(
            Ends { purged_offset: 0, last_offset: 0 },
            |&(purged_offset, last_offset)| Ends { purged_offset, last_offset },
        ))
    })?;
    let scans = positions.into_iter().map(|from| scan(session, query, topic.as_ref(), from));
    let merged = merge_entries(query, info, pipelined_all(scans).await?);
    let (events, ()) = pipelined(bodies(session, &merged), session.run("COMMIT")).await?;
    Ok(Page::new(events, merged.next, merged.caught_up))
}

/// The topic of a query for one.
struct ExactTopic {
    id: i64,
    purged_offset: u64,
}

/// Per partition: up to where topics of the query were purged, and the last offset.
type AllEnds = HashMap<Partition, (u64, u64)>;

async fn begin(session: &Session, info: &StoreInfo, query: &Query) -> Result<(AllEnds, Option<ExactTopic>)> {
    let statements = session.statements.read();
    let (low, high) = names(&query.topics);
    let exact = async {
        let TopicSelector::Exact(name) = &query.topics else { return Ok(None) };
        let partition = i32::from(info.partitions.of(name.as_str()).0);
        let rows = session.query(&statements.topic, &[&partition, &name.as_str()]).await?;
        let topic =
            |row: &Row| Ok::<_, Failure>(ExactTopic { id: get(row, 0)?, purged_offset: get_u64(row, 1)? });
        rows.first().map(topic).transpose()
    };
    let ((), last_offsets, purged, topic) = pipelined4(
        session.run(SNAPSHOT),
        session.query(&statements.ends, &[]),
        session.query(&statements.purged, &[&low, &high]),
        exact,
    )
    .await?;
    let mut ends = AllEnds::new();
    for row in &last_offsets {
        ends.insert(partition(row, 0)?, (0, get_u64(row, 1)?));
    }
    for row in &purged {
        ends.entry(partition(row, 0)?).or_default().0 = get_u64(row, 1)?;
    }
    Ok((ends, topic))
}

/// The names a selector means, as a range in the order of their bytes: all that a name may hold lies between
/// a space and a tilde.
fn names(topics: &TopicSelector) -> (String, String) {
    match topics {
        TopicSelector::All => (String::new(), "~".into()),
        TopicSelector::Exact(topic) => (topic.to_string(), format!("{topic} ")),
        TopicSelector::Below(topic) => (format!("{topic}."), format!("{topic}/")),
    }
}

fn partition(row: &Row, column: usize) -> Result<Partition> {
    let number: i32 = get(row, column)?;
    let number =
        u16::try_from(number).map_err(|_| Failure::corrupt(format!("there is a partition {number}")))?;
    Ok(Partition(number))
}

/// Where an event of the page is.
struct Place {
    processed_at: Timestamp,
    partition: Partition,
    offset: u64,
    payload_bytes: usize,
}

impl Entry for Place {
    fn place(&self) -> (Timestamp, Partition, u64) {
        (self.processed_at, self.partition, self.offset)
    }

    fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }
}

/// One partition's part of a page, in slices: as many rows as the page shows, then more if the filters left
/// some of them out.
async fn scan(
    session: &Session,
    query: &Query,
    topic: Option<&ExactTopic>,
    from: Position,
) -> Result<Scan<Place>> {
    const SLICE: usize = 2_500;
    let mut scanner = Scanner::new(query, from);
    let exact = matches!(query.topics, TopicSelector::Exact(_));
    if exact && topic.is_none() {
        return Ok(scanner.finish());
    }
    let purged_offset = topic.map_or(0, |topic| topic.purged_offset);
    let statement = statement(session, query);
    let number = i32::from(from.partition.0);
    let mut offset = signed(from.offset);
    if query.order == Order::Ascending {
        offset = offset.max(signed(purged_offset));
    }
    let mut slice = query.limit + 1;
    loop {
        let limit = signed(slice as u64);
        let id = topic.map_or(0, |topic| topic.id);
        let event_id = query.event_id.as_ref().map_or("", |id| id.as_str());
        let parameters: [&(dyn ToSql + Sync); 5] = [&number, &offset, &limit, &id, &event_id];
        let used = 3 + usize::from(exact) + usize::from(query.event_id.is_some());
        let rows = session.query(statement, &parameters[..used]).await?;
        for row in &rows {
            if !take(&mut scanner, row, from.partition, purged_offset)? {
                return Ok(scanner.finish());
            }
        }
        let Some(last) = rows.last().filter(|_| rows.len() == slice) else { return Ok(scanner.finish()) };
        offset = get(last, 0)?;
        slice = SLICE;
    }
}

fn statement<'s>(session: &'s Session, query: &Query) -> &'s tokio_postgres::Statement {
    let statements = session.statements.read();
    let exact = matches!(query.topics, TopicSelector::Exact(_));
    match (exact, query.event_id.is_some(), query.order) {
        (false, _, Order::Ascending) => &statements.all_up,
        (false, _, Order::Descending) => &statements.all_down,
        (true, false, Order::Ascending) => &statements.topic_up,
        (true, false, Order::Descending) => &statements.topic_down,
        (true, true, Order::Ascending) => &statements.id_up,
        (true, true, Order::Descending) => &statements.id_down,
    }
}

/// Whether to go on behind this row.
fn take(
    scanner: &mut Scanner<'_, Place>,
    row: &Row,
    partition: Partition,
    purged_offset: u64,
) -> Result<bool> {
    let (offset, processed_at) = (get_u64(row, 0)?, Timestamp::from_micros(get(row, 1)?));
    let query = scanner.query();
    if query.order == Order::Descending && offset <= purged_offset {
        return Ok(false);
    }
    if scanner.is_full() {
        return Ok(false);
    }
    // What is left of purged events was looked at, so that a page does not look at them without end.
    let Some(payload_bytes) = get::<Option<i32>>(row, 2)? else {
        scanner.looked_at(offset, None);
        return Ok(true);
    };
    if scanner.is_past(processed_at) {
        return Ok(false);
    }
    let passes = query.topics.matches(get(row, 5)?) && query.admits(get(row, 3)?, get(row, 4)?, processed_at);
    let payload_bytes = usize::try_from(payload_bytes).unwrap_or(0);
    let place = Place { processed_at, partition, offset, payload_bytes };
    scanner.looked_at(offset, passes.then_some(place));
    Ok(true)
}

/// The events at the places of a page, in its order.
async fn bodies(session: &Session, page: &Merged<Place>) -> Result<Vec<StoredEvent>> {
    let mut offsets: HashMap<Partition, Vec<i64>> = HashMap::new();
    for place in &page.entries {
        offsets.entry(place.partition).or_default().push(signed(place.offset));
    }
    let statement = &session.statements.read().bodies;
    let fetch = offsets.into_iter().map(|(partition, offsets)| async move {
        let rows = session.query(statement, &[&i32::from(partition.0), &offsets]).await?;
        rows.iter().map(|row| event(row, partition)).collect::<Result<Vec<_>>>()
    });
    let fetched = pipelined_all(fetch).await?.into_iter().flatten();
    let mut events: HashMap<_, _> = fetched.map(|event| ((event.partition, event.offset), event)).collect();
    let at = |place: &Place| {
        let event = events.remove(&(place.partition, place.offset));
        event.ok_or_else(|| {
            Failure::corrupt(format!("the event at offset {} cannot be read twice", place.offset))
        })
    };
    page.entries.iter().map(at).collect()
}

fn event(row: &Row, partition: Partition) -> Result<StoredEvent> {
    Ok(StoredEvent {
        offset: get_u64(row, 0)?,
        topic: get(row, 1)?,
        event_id: get(row, 2)?,
        timestamp: get(row, 3)?,
        source: get(row, 4)?,
        payload: get(row, 5)?,
        sequence: sequence(row, 6)?,
        content_type: get(row, 7)?,
        attributes: get(row, 8)?,
        seq: get_u64(row, 9)?,
        processed_at: Timestamp::from_micros(get(row, 10)?),
        partition,
    })
}

/// Which of `ids` were seen.
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
