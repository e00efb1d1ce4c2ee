//! The rows of a page. A row that a damaged file has lost is noticed: the seqs of a topic are dense, and each offset has
//! an event or a stub.

mod expected;
mod spans;
mod times;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{Connection, OptionalExtension, Params, Result};

use self::expected::Expected;
use crate::cursor::{Anchor, Fingerprint, Position};
use crate::query::{Order, Query, StoredEvent};
use crate::store::page::{Scan, Scanner};
use crate::store::sqlite::catalog::snapshot::TopicSnapshot;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicNames, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline};
use crate::store::sqlite::index::{self, Index};
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::{Partition, Scope, Timestamp, Topic, TopicSelector};

/// The only one.
const PARTITION: Partition = Partition(0);

/// The fingerprint of the row at `offset`, which has to be there; `None` if it was forgotten.
pub(super) fn fingerprint(connection: &Connection, offset: u64) -> Result<Option<Fingerprint>> {
    let mut rows = StoredIdentities::new(connection)?;
    let row = rows.at(offset, |row| match row {
        StoredIdentity::Event(event) => (event.topic_id, Some(event.seq), event.event_id.to_owned()),
        StoredIdentity::Stub(stub) => (stub.topic_id, stub.seq, stub.event_id.to_owned()),
    })?;
    let Some((topic_id, seq, event_id)) = row else {
        return match rows.is_forgotten(offset)? {
            true => Ok(None),
            false => Err(Corruption::error(format!("offset {offset} has neither an event nor a stub"))),
        };
    };
    let topic = topic_name(connection, topic_id)?;
    Ok(Some(Fingerprint::new(PARTITION, offset, &topic, seq, &event_id)))
}

/// One partition's part of a page; `None` if the index in memory belongs to another commit.
pub(crate) fn scan(
    connection: &Connection,
    index: &Index,
    names: &TopicNames,
    query: &Query,
    from: Position,
) -> Result<Option<Scan>> {
    let mut scanner = Scanner::new(query, from);
    let partition = PartitionState::read(connection)?;
    let Some(name) = query.topics.exact() else {
        return several(connection, names, scanner, &partition).map(Some);
    };
    let Some(topic) = topic(connection, name)? else {
        return match TopicSnapshot::at(connection, names, &partition)?.get(name.as_str()) {
            None => Ok(Some(scanner.finish())),
            Some(_) => Err(Corruption::error(format!("the topic {name} is missing"))),
        };
    };
    // The index finds one event. But if the topic's scope includes the source and the query names no source, several events
    // may match, and the whole topic is scanned.
    if let Some(event_id) = &query.event_id
        && (topic.scope == Scope::Topic || query.source.is_some())
    {
        let source = query.source.as_ref().map_or("", |source| topic.scope.key(source.as_str()));
        let key = Key { topic_id: topic.id, event_id: event_id.as_str(), source };
        let Some(found) = index::find(connection, index, &[key], partition.last_offset)? else {
            return Ok(None);
        };
        let rows = found.concat();
        let mut stored_identities = StoredIdentities::new(connection)?;
        for &row in &rows {
            stored_identities.find_released(key, row, |_| ())?;
        }
        let rows = serde_json::Value::from(rows).to_string();
        let sql = select_offsets_sql(query.order);
        fill(connection, &mut scanner, Expected::Anything, &sql, (signed(from.offset), rows), false)?;
        return Ok(Some(scanner.finish()));
    }
    let start = times::start(connection, query, from.offset, &partition)?;
    let expected = Expected::of_topic(connection, &topic, query.order, start)?;
    let sql = select_topic_sql(query.order);
    fill(connection, &mut scanner, expected, &sql, (signed(start), topic.id), false)?;
    Ok(Some(scanner.finish()))
}

/// The part of a page that is of all topics, or of some.
///
/// All rows are looked at, one after the other, as long as enough of them are of the query's topics. Where few are, the
/// rest comes by the spans of these topics, whatever lies between them.
fn several(
    connection: &Connection,
    names: &TopicNames,
    mut scanner: Scanner<'_>,
    partition: &PartitionState,
) -> Result<Scan> {
    let query = scanner.query();
    let start = times::start(connection, query, scanner.position().offset, partition)?;
    let all = Expected::all(query.order, start, partition);
    let judged = query.topics != TopicSelector::All;
    let filled = fill(connection, &mut scanner, all, &select_all_sql(query.order), [signed(start)], judged)?;
    if filled == Filled::Sparsely
        && let Some(topics) = spans::topics(connection, names, query, partition)?
    {
        spans::fill(connection, &mut scanner, topics, partition)?;
    } else if filled == Filled::Sparsely {
        let from = scanner.position().offset;
        let all = Expected::all(query.order, from, partition);
        fill(connection, &mut scanner, all, &select_all_sql(query.order), [signed(from)], false)?;
    }
    Ok(scanner.finish())
}

/// As a parameter: no offset is larger than SQLite's integers.
fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// All events beyond the offset ?1.
fn select_all_sql(order: Order) -> String {
    let (beyond, order) = direction_sql(order);
    format!("SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset {beyond} ?1 ORDER BY e.offset {order}")
}

/// The events at the offsets ?2 beyond the offset ?1.
fn select_offsets_sql(order: Order) -> String {
    let (beyond, order) = direction_sql(order);
    format!(
        "SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset IN (SELECT value FROM json_each(?2))
             AND e.offset {beyond} ?1 ORDER BY e.offset {order}"
    )
}

/// How an offset beyond another one compares with it, and the order, in SQL.
fn direction_sql(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::Ascending => (">", "ASC"),
        Order::Descending => ("<", "DESC"),
    }
}

/// The events of topic ?2 beyond the offset ?1: a nested loop over the topic's spans, in their order.
fn select_topic_sql(order: Order) -> String {
    // One bound on each side of the rowid: with two bounds on one side, SQLite would begin the scan of each span at the
    // farther one.
    match order {
        Order::Ascending => format!(
            "SELECT {EVENT_COLUMNS} FROM spans s
             CROSS JOIN events e ON e.offset >= max(s.first_offset, ?1 + 1) AND e.offset <= s.last_offset
             WHERE s.topic_id = ?2 AND s.first_offset >= coalesce(
                 (SELECT max(first_offset) FROM spans WHERE topic_id = ?2 AND first_offset <= ?1), 0)
             ORDER BY s.first_offset, e.offset"
        ),
        Order::Descending => format!(
            "SELECT {EVENT_COLUMNS} FROM spans s
             CROSS JOIN events e ON e.offset >= s.first_offset AND e.offset <= min(s.last_offset, ?1 - 1)
             WHERE s.topic_id = ?2 AND s.first_offset < ?1
             ORDER BY s.first_offset DESC, e.offset DESC"
        ),
    }
}

/// How [`fill`] ended.
#[derive(PartialEq, Eq)]
enum Filled {
    /// With the last row, or with the last one that the page may have.
    Wholly,
    /// Before that: of the last [`JUDGED`] rows, next to none was of the query's topics.
    Sparsely,
}

/// By how many rows it is judged whether to go on with a scan of all rows.
const JUDGED: usize = 500;
/// A row that is read for nothing costs about an eighth of finding one by its topic's spans.
const WORTH: usize = 8;

/// Takes rows until the scanner has enough.
fn fill(
    connection: &Connection,
    scanner: &mut Scanner<'_>,
    mut expected: Expected,
    sql: &str,
    params: impl Params,
    judged: bool,
) -> Result<Filled> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params)?;
    let mut names = HashMap::new();
    let (mut looked_at, mut of_topics) = (0, 0);
    loop {
        if judged && looked_at == JUDGED {
            if of_topics * WORTH < JUDGED {
                return Ok(Filled::Sparsely);
            }
            (looked_at, of_topics) = (0, 0);
        }
        let Some(row) = rows.next()? else {
            expected.end(connection)?;
            break;
        };
        check_deadline()?;
        let event = EventRow::read(row)?;
        if scanner.is_full() || scanner.is_past(Timestamp::from_micros(event.processed_at)) {
            break;
        }
        expected.row(connection, &event)?;
        let name = match names.entry(event.topic_id) {
            Entry::Occupied(cached) => cached.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(topic_name(connection, event.topic_id)?),
        };
        let is_of_topics = scanner.query().topics.matches(name);
        take(scanner, &event, name, is_of_topics);
        looked_at += 1;
        of_topics += usize::from(is_of_topics);
    }
    Ok(Filled::Wholly)
}

fn take(scanner: &mut Scanner<'_>, event: &EventRow<'_>, topic: &str, is_of_topics: bool) {
    let processed_at = Timestamp::from_micros(event.processed_at);
    let row = Anchor::new(PARTITION, event.offset, topic, Some(event.seq), event.event_id);
    if !is_of_topics {
        return scanner.passed_by(row);
    }
    let passes = scanner.query().admits(event.event_id, event.source, processed_at);
    scanner.looked_at(row, passes.then(|| stored_event(event, topic)));
}

fn stored_event(event: &EventRow<'_>, topic: &str) -> StoredEvent {
    StoredEvent {
        topic: topic.to_owned(),
        event_id: event.event_id.to_owned(),
        timestamp: event.timestamp.to_owned(),
        source: event.source.to_owned(),
        payload: event.payload.to_owned(),
        sequence: event.sequence,
        content_type: event.content_type.map(str::to_owned),
        attributes: event.attributes.map(str::to_owned),
        seq: event.seq,
        processed_at: Timestamp::from_micros(event.processed_at),
        partition: PARTITION,
        offset: event.offset,
    }
}

/// The topic's row.
fn topic(connection: &Connection, name: &Topic) -> Result<Option<TopicRow>> {
    connection
        .prepare_cached(&format!("SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name = ?1"))?
        .query_row([name.as_str()], |row| TopicRow::read(row).map(|(_, topic)| topic))
        .optional()
}

fn topic_name(connection: &Connection, topic_id: i64) -> Result<String> {
    connection
        .prepare_cached(&format!("SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.topic_id = ?1"))?
        .query_row([topic_id], |row| TopicRow::read(row).map(|(name, _)| name.to_owned()))
        .optional()?
        .ok_or_else(|| Corruption::error(format!("topic {topic_id} of an event is missing")))
}
