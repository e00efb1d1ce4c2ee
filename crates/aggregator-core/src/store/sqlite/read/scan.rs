//! The rows of a page. A row that a damaged file has lost is noticed: the seqs of a topic are dense, and each offset has
//! an event or a stub.

mod expected;
mod spans;
mod times;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Params, Result};

use self::expected::Expected;
use self::spans::Topics;
use super::Memory;
use crate::cursor::{Anchor, Fingerprint, Position};
use crate::query::{Order, Query, StoredEvent};
use crate::store::page::{Scan, Scanner};
use crate::store::sqlite::catalog::snapshot::TopicSnapshot;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline};
use crate::store::sqlite::index;
use crate::store::sqlite::journal::Views;
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::{Partition, Scope, Timestamp, TopicSelector};

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
    memory: &Memory,
    query: &Query,
    from: Position,
) -> Result<Option<Scan>> {
    let mut scanner = Scanner::new(query, from);
    let partition = PartitionState::read(connection)?;
    let Some(name) = query.topics.exact() else {
        return several(connection, memory, scanner, &partition);
    };
    let Some(row) = TopicRow::named(connection, name)? else {
        return match TopicSnapshot::at(connection, &memory.names, &partition)?.get(name.as_str()) {
            None => Ok(Some(scanner.finish())),
            Some(_) => Err(Corruption::error(format!("the topic {name} is missing"))),
        };
    };
    // The index finds one event. But if the topic's scope includes the source and the query names no source, several events
    // may match, and the whole topic is scanned.
    if let Some(event_id) = &query.event_id
        && (row.scope == Scope::Topic || query.source.is_some())
    {
        let source = query.source.as_ref().map_or("", |source| row.scope.key(source.as_str()));
        let key = Key { topic_id: row.id, event_id: event_id.as_str(), source };
        let Some(found) = index::find(connection, &memory.index, &[key], partition.last_offset)? else {
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
    let views = Views::of(connection, &memory.tails, &partition);
    let Some(topic) = views.view(name.as_str(), row)? else { return Ok(None) };
    let start = times::start(connection, query, from.offset, &partition)?;
    let expected = Expected::of_topic(connection, &topic, query.order, start)?;
    let mut filling = Filling::new(connection, &mut scanner, expected);
    topic.each_event(connection, query.order, start, |event| filling.take(event))?;
    filling.end()?;
    Ok(Some(scanner.finish()))
}

/// The part of a page that is of all topics, or of some.
///
/// All rows are looked at, one after the other, as long as enough of them are of the query's topics. Where few are, the
/// rest comes by the spans of these topics, whatever lies between them.
fn several(
    connection: &Connection,
    memory: &Memory,
    mut scanner: Scanner<'_>,
    partition: &PartitionState,
) -> Result<Option<Scan>> {
    let query = scanner.query();
    let start = times::start(connection, query, scanner.position().offset, partition)?;
    let all = Expected::all(query.order, start, partition);
    let judged = query.topics != TopicSelector::All;
    let filled = fill(connection, &mut scanner, all, &select_all_sql(query.order), [signed(start)], judged)?;
    if filled == Filled::Wholly {
        return Ok(Some(scanner.finish()));
    }
    match spans::topics(connection, memory, query, partition)? {
        Topics::Few(topics) => spans::fill(connection, &mut scanner, topics, partition)?,
        Topics::TooMany => {
            let from = scanner.position().offset;
            let all = Expected::all(query.order, from, partition);
            fill(connection, &mut scanner, all, &select_all_sql(query.order), [signed(from)], false)?;
        }
        Topics::OfAnotherCommit => return Ok(None),
    }
    Ok(Some(scanner.finish()))
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
    expected: Expected,
    sql: &str,
    params: impl Params,
    judged: bool,
) -> Result<Filled> {
    let mut filling = Filling::new(connection, scanner, expected);
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params)?;
    loop {
        if judged && filling.looked_at == JUDGED {
            if filling.of_topics * WORTH < JUDGED {
                return Ok(Filled::Sparsely);
            }
            (filling.looked_at, filling.of_topics) = (0, 0);
        }
        let Some(row) = rows.next()? else { break };
        if filling.take(&EventRow::read(row)?)?.is_break() {
            break;
        }
    }
    filling.end()?;
    Ok(Filled::Wholly)
}

/// Rows that are taken one after the other.
struct Filling<'f, 's, 'q> {
    connection: &'f Connection,
    scanner: &'s mut Scanner<'q>,
    expected: Expected,
    names: HashMap<i64, String>,
    looked_at: usize,
    /// How many of these were of the query's topics.
    of_topics: usize,
    /// Whether the scanner has all it wants, although more rows may come.
    has_enough: bool,
}

impl<'f, 's, 'q> Filling<'f, 's, 'q> {
    fn new(connection: &'f Connection, scanner: &'s mut Scanner<'q>, expected: Expected) -> Self {
        let (names, looked_at, of_topics) = (HashMap::new(), 0, 0);
        Self { connection, scanner, expected, names, looked_at, of_topics, has_enough: false }
    }

    /// Takes the next row, and breaks if it is one more than the scanner wants.
    fn take(&mut self, event: &EventRow<'_>) -> Result<ControlFlow<()>> {
        check_deadline()?;
        if self.scanner.is_full() || self.scanner.is_past(Timestamp::from_micros(event.processed_at)) {
            self.has_enough = true;
            return Ok(ControlFlow::Break(()));
        }
        self.expected.row(self.connection, event)?;
        let name = match self.names.entry(event.topic_id) {
            Entry::Occupied(cached) => cached.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(topic_name(self.connection, event.topic_id)?),
        };
        let is_of_topics = self.scanner.query().topics.matches(name);
        take(self.scanner, event, name, is_of_topics);
        self.looked_at += 1;
        self.of_topics += usize::from(is_of_topics);
        Ok(ControlFlow::Continue(()))
    }

    /// To be called behind the last row.
    fn end(&self) -> Result<()> {
        if self.has_enough { Ok(()) } else { self.expected.end(self.connection) }
    }
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

fn topic_name(connection: &Connection, topic_id: i64) -> Result<String> {
    connection
        .prepare_cached(&format!("SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.topic_id = ?1"))?
        .query_row([topic_id], |row| TopicRow::read(row).map(|(name, _)| name.to_owned()))
        .optional()?
        .ok_or_else(|| Corruption::error(format!("topic {topic_id} of an event is missing")))
}
