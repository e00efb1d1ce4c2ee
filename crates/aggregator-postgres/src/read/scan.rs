//! Finds where the events of a page are, in one partition.

use std::collections::HashMap;

use aggregator_core::store::backend::{Anchor, Entry, Fingerprint, Position, Scan, Scanner};
use aggregator_core::{Order, Partition, Query, Timestamp, TopicSelector};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::columns::{get, get_u64, partition_number, sequence, signed};
use crate::connection::session::Session;
use crate::fault::Result;

/// The number of rows in a slice, except in the first one of a page.
const SLICE: usize = 2_500;
/// Reading a row in vain costs about an eighth of finding a row by its topic.
const WORTH: usize = 8;
/// If the query matches more topics, all rows are scanned.
const MAX_TOPICS: usize = 1_000;
/// The fewest rows of each topic that are read at once.
const MIN_ROWS_OF_A_TOPIC: usize = 16;

/// The topic of a query for exactly one.
pub(super) struct ExactTopic {
    pub(super) id: i64,
    pub(super) purged_offset: u64,
}

/// Where an event of the page is.
pub(super) struct EventPosition {
    processed_at: Timestamp,
    pub(super) partition: Partition,
    pub(super) offset: u64,
    payload_bytes: usize,
    fingerprint: Fingerprint,
}

impl Entry for EventPosition {
    fn place(&self) -> (Timestamp, Partition, u64) {
        (self.processed_at, self.partition, self.offset)
    }

    fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    fn anchor(&self) -> Anchor {
        Anchor { offset: self.offset, fingerprint: self.fingerprint }
    }
}

/// Finds one partition's part of a page. `last_offset` is the partition's newest offset.
pub(super) async fn scan(
    session: &Session,
    query: &Query,
    topic: Option<&ExactTopic>,
    from: Position,
    last_offset: u64,
) -> Result<Scan<EventPosition>> {
    let mut scanner = Scanner::new(query, from);
    if query.topics.exact().is_some() && topic.is_none() {
        return Ok(scanner.finish());
    }
    let mut start = start_of_time(session, query, from, last_offset).await?;
    if query.order == Order::Ascending {
        start = start.max(topic.map_or(0, |topic| topic.purged_offset));
    }
    if let Some(start) = scan_rows(session, &mut scanner, topic, start).await? {
        match topics(session, query, from.partition).await? {
            Some(topics) => scan_topics(session, &mut scanner, &topics, start).await?,
            None => scan_all_rows(session, &mut scanner, start).await?,
        }
    }
    Ok(scanner.finish())
}

/// The offset at which the scan can begin: all rows before it are outside the query's times. The database finds it by
/// binary search.
async fn start_of_time(session: &Session, query: &Query, from: Position, last_offset: u64) -> Result<u64> {
    let (time, low, high) = match (query.order, query.since, query.until) {
        (Order::Ascending, Some(since), _) => (since, from.offset, last_offset),
        (Order::Descending, _, Some(until)) => (until, 0, last_offset.min(from.offset.saturating_sub(1))),
        _ => return Ok(from.offset),
    };
    if low >= high {
        return Ok(from.offset);
    }
    let parameters: [&(dyn ToSql + Sync); 4] =
        [&partition_number(from.partition), &signed(low), &signed(high), &time.as_micros()];
    let rows = session.query(&session.statements.read().before_time, &parameters).await?;
    let last = rows.first().map_or(Ok(low), |row| get_u64(row, 0))?;
    Ok(match query.order {
        Order::Ascending => last,
        Order::Descending => from.offset.min(last + 1),
    })
}

/// Scans rows in slices: first as many as the page shows, then more if the filters left some out. Stops if hardly any
/// row of a slice is of the query's topics, and returns the offset where it stopped.
async fn scan_rows(
    session: &Session,
    scanner: &mut Scanner<'_, EventPosition>,
    topic: Option<&ExactTopic>,
    start: u64,
) -> Result<Option<u64>> {
    let query = scanner.query();
    let partition = scanner.position().partition;
    let judged = topic.is_none() && query.topics != TopicSelector::All;
    let (id, purged_offset) = topic.map_or((0, 0), |topic| (topic.id, topic.purged_offset));
    let statement = statement(session, query);
    let mut offset = signed(start);
    let mut slice = query.limit + 1;
    loop {
        let event_id = query.event_id.as_ref().map_or("", |id| id.as_str());
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&partition_number(partition), &offset, &signed(slice as u64), &id, &event_id];
        let used = 3 + usize::from(topic.is_some()) + usize::from(query.event_id.is_some());
        let rows = session.query(statement, &parameters[..used]).await?;
        let mut of_topics = 0;
        for row in &rows {
            let name = get(row, 5)?;
            of_topics += usize::from(query.topics.matches(name));
            if !take(scanner, row, name, purged_offset)? {
                return Ok(None);
            }
        }
        let Some(last) = rows.last().filter(|_| rows.len() == slice) else { return Ok(None) };
        offset = get(last, 0)?;
        if judged && of_topics * WORTH < slice {
            return get_u64(last, 0).map(Some);
        }
        slice = SLICE;
    }
}

/// Scans all rows from `start` on in slices, whatever their topics.
async fn scan_all_rows(
    session: &Session,
    scanner: &mut Scanner<'_, EventPosition>,
    start: u64,
) -> Result<()> {
    let mut offset = signed(start);
    let number = partition_number(scanner.position().partition);
    loop {
        let parameters: [&(dyn ToSql + Sync); 3] = [&number, &offset, &signed(SLICE as u64)];
        let rows = session.query(statement(session, scanner.query()), &parameters).await?;
        for row in &rows {
            if !take(scanner, row, get(row, 5)?, 0)? {
                return Ok(());
            }
        }
        let Some(last) = rows.last().filter(|_| rows.len() == SLICE) else { return Ok(()) };
        offset = get(last, 0)?;
    }
}

/// The ids and names of the query's topics in a partition; `None` if there are too many.
async fn topics(
    session: &Session,
    query: &Query,
    partition: Partition,
) -> Result<Option<HashMap<i64, String>>> {
    let (low, high): (Vec<_>, Vec<_>) = query.topics.selectors().iter().map(TopicSelector::names).unzip();
    let limit = signed(MAX_TOPICS as u64 + 1);
    let parameters: [&(dyn ToSql + Sync); 4] = [&partition_number(partition), &low, &high, &limit];
    let rows = session.query(&session.statements.read().topics_named, &parameters).await?;
    if rows.len() > MAX_TOPICS {
        return Ok(None);
    }
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect::<Result<_>>().map(Some)
}

/// Scans the rows of some topics, and skips the rows between them. Each round reads some rows of each topic. It uses
/// them up to the first offset after which a topic may have more.
async fn scan_topics(
    session: &Session,
    scanner: &mut Scanner<'_, EventPosition>,
    topics: &HashMap<i64, String>,
    start: u64,
) -> Result<()> {
    let query = scanner.query();
    let statements = session.statements.read();
    let statement = match query.order {
        Order::Ascending => &statements.topics_up,
        Order::Descending => &statements.topics_down,
    };
    let number = partition_number(scanner.position().partition);
    let ids: Vec<_> = topics.keys().copied().collect();
    let of_each = (4 * query.limit).div_ceil(ids.len().max(1)).clamp(MIN_ROWS_OF_A_TOPIC, SLICE);
    let mut offset = signed(start);
    loop {
        let parameters: [&(dyn ToSql + Sync); 4] = [&number, &offset, &signed(of_each as u64), &ids];
        let rows = session.query(statement, &parameters).await?;
        let mut found: HashMap<i64, usize> = HashMap::new();
        for row in &rows {
            let id = get(row, 5)?;
            let name = topics.get(&id).map_or("", String::as_str);
            if !take(scanner, row, name, 0)? {
                return Ok(());
            }
            let found = found.entry(id).or_default();
            *found += 1;
            // The topic may have more rows before the next ones of the others.
            if *found == of_each {
                offset = get(row, 0)?;
                break;
            }
        }
        if !found.values().any(|&found| found == of_each) {
            return Ok(());
        }
    }
}

fn statement<'s>(session: &'s Session, query: &Query) -> &'s Statement {
    let statements = session.statements.read();
    let exact = query.topics.exact().is_some();
    match (exact, query.event_id.is_some(), query.order) {
        (false, _, Order::Ascending) => &statements.all_up,
        (false, _, Order::Descending) => &statements.all_down,
        (true, false, Order::Ascending) => &statements.topic_up,
        (true, false, Order::Descending) => &statements.topic_down,
        (true, true, Order::Ascending) => &statements.id_up,
        (true, true, Order::Descending) => &statements.id_down,
    }
}

/// Offers a row to the scanner. Returns whether to go on with the next one.
fn take(
    scanner: &mut Scanner<'_, EventPosition>,
    row: &Row,
    topic: &str,
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
    let (partition, event_id) = (scanner.position().partition, get(row, 3)?);
    let seq = sequence(row, 6)?;
    let anchor = Anchor::new(partition, offset, topic, seq, event_id);
    if !query.topics.matches(topic) {
        if scanner.is_past(processed_at) {
            return Ok(false);
        }
        scanner.passed_by(anchor);
        return Ok(true);
    }
    // A purged event counts as looked at, so that a page passes over a bounded number of them.
    let Some(payload_bytes) = get::<Option<i32>>(row, 2)? else {
        scanner.looked_at(anchor, None);
        return Ok(true);
    };
    if scanner.is_past(processed_at) {
        return Ok(false);
    }
    let passes = query.admits(event_id, get(row, 4)?, processed_at);
    let payload_bytes = usize::try_from(payload_bytes).unwrap_or(0);
    let fingerprint = anchor.fingerprint;
    let place = EventPosition { processed_at, partition, offset, payload_bytes, fingerprint };
    scanner.looked_at(anchor, passes.then_some(place));
    Ok(true)
}
