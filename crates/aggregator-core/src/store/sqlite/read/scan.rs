//! The rows of a page. A row that a damaged file has lost is noticed: the seqs of a topic are dense, and each offset has
//! an event or a stub.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{Connection, OptionalExtension, Params, Result};

use crate::cursor::{Anchor, Fingerprint, Position};
use crate::query::{Order, Query, StoredEvent};
use crate::store::page::{Scan, Scanner};
use crate::store::sqlite::catalog::snapshot::TopicSnapshot;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicNames, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline};
use crate::store::sqlite::index::{self, Index};
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};
use crate::store::sqlite::row::stored_identity::{EVENT, StoredIdentities, StoredIdentity};
use crate::{Partition, Scope, Timestamp, Topic, TopicSelector};

/// The only one.
const PARTITION: Partition = Partition(0);

/// The fingerprint of the row at `offset`, which has to be there.
pub(super) fn fingerprint(connection: &Connection, offset: u64) -> Result<Fingerprint> {
    let row = StoredIdentities::new(connection)?.at(offset, |row| match row {
        StoredIdentity::Event(event) => (event.topic_id, Some(event.seq), event.event_id.to_owned()),
        StoredIdentity::Stub(stub) => (stub.topic_id, stub.seq, stub.event_id.to_owned()),
    })?;
    let (topic_id, seq, event_id) =
        row.ok_or_else(|| Corruption::error(format!("offset {offset} has neither an event nor a stub")))?;
    let topic = topic_name(connection, topic_id)?;
    Ok(Fingerprint::new(PARTITION, offset, &topic, seq, &event_id))
}

/// One partition's part of a page; `None` if the index in memory belongs to another commit.
pub(crate) fn scan(
    connection: &Connection,
    index: &Index,
    names: &TopicNames,
    query: &Query,
    from: Position,
) -> Result<Option<Scan>> {
    let scanner = Scanner::new(query, from);
    let partition = PartitionState::read(connection)?;
    // No offset is larger than SQLite's integers.
    let offset = i64::try_from(from.offset).unwrap_or(i64::MAX);
    let TopicSelector::Exact(name) = &query.topics else {
        let all = Expected::all(query.order, from.offset, &partition);
        return fill(connection, scanner, all, &select_all_sql(query.order), [offset]).map(Some);
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
            stored_identities.find(key, row, |_| ())?;
        }
        let rows = serde_json::Value::from(rows).to_string();
        let sql = select_offsets_sql(query.order);
        return fill(connection, scanner, Expected::Anything, &sql, (offset, rows)).map(Some);
    }
    let expected = Expected::of_topic(connection, &topic, query.order, from.offset)?;
    fill(connection, scanner, expected, &select_topic_sql(query.order), (offset, topic.id)).map(Some)
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

/// Takes rows until the scanner has enough.
fn fill(
    connection: &Connection,
    mut scanner: Scanner<'_>,
    mut expected: Expected,
    sql: &str,
    params: impl Params,
) -> Result<Scan> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params)?;
    let mut names = HashMap::new();
    loop {
        let Some(row) = rows.next()? else {
            expected.end(connection)?;
            break;
        };
        check_deadline()?;
        let event = EventRow::read(row)?;
        let processed_at = Timestamp::from_micros(event.processed_at);
        if scanner.is_full() || scanner.is_past(processed_at) {
            break;
        }
        expected.row(connection, &event)?;
        let name = match names.entry(event.topic_id) {
            Entry::Occupied(cached) => cached.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(topic_name(connection, event.topic_id)?),
        };
        let query = scanner.query();
        let passes = query.topics.matches(name) && query.admits(event.event_id, event.source, processed_at);
        let row = Anchor::new(PARTITION, event.offset, name, Some(event.seq), event.event_id);
        scanner.looked_at(row, passes.then(|| stored_event(&event, name)));
    }
    Ok(scanner.finish())
}

/// The next row that has to come, if no row is missing.
enum Expected {
    Anything,
    /// The event with the seq `next`, if that is known. The last one has the seq `last`.
    Seq {
        next: Option<u64>,
        last: u64,
        order: Order,
    },
    /// An event at the offset `next`, or stubs from there to the next event. The last row is at `last`.
    Offset {
        next: u64,
        last: u64,
        order: Order,
    },
}

impl Expected {
    fn all(order: Order, from: u64, partition: &PartitionState) -> Self {
        match order {
            Order::Ascending => {
                Self::Offset { next: from.saturating_add(1), last: partition.last_offset, order }
            }
            Order::Descending => {
                Self::Offset { next: from.saturating_sub(1).min(partition.last_offset), last: 1, order }
            }
        }
    }

    fn of_topic(connection: &Connection, topic: &TopicRow, order: Order, from: u64) -> Result<Self> {
        Ok(match order {
            Order::Ascending => {
                let next = Some(seq_at_or_before(connection, topic, from)? + 1);
                Self::Seq { next, last: topic.last_seq, order }
            }
            Order::Descending => {
                let next = (from > topic.last_offset).then_some(topic.last_seq);
                Self::Seq { next, last: topic.purged_seq + 1, order }
            }
        })
    }

    fn row(&mut self, connection: &Connection, event: &EventRow<'_>) -> Result<()> {
        match self {
            Self::Anything => {}
            Self::Seq { next, order, .. } => {
                if next.is_some_and(|next| next != event.seq) {
                    let place = (event.offset, event.seq);
                    let missing = format!("events are missing next to offset {} (seq {})", place.0, place.1);
                    return Err(Corruption::error(missing));
                }
                *next = Some(following(event.seq, *order));
            }
            Self::Offset { next, order, .. } => {
                check_gap(connection, *next, event.offset, *order)?;
                *next = following(event.offset, *order);
            }
        }
        Ok(())
    }

    /// Checks that no row is missing at the end.
    fn end(&self, connection: &Connection) -> Result<()> {
        match *self {
            Self::Seq { next: Some(next), last, order } if next != following(last, order) => {
                Err(Corruption::error(format!("events are missing from seq {next} on, up to {last}")))
            }
            Self::Offset { next, last, order } => check_gap(connection, next, following(last, order), order),
            _ => Ok(()),
        }
    }
}

fn following(number: u64, order: Order) -> u64 {
    match order {
        Order::Ascending => number + 1,
        Order::Descending => number - 1,
    }
}

/// Checks that all offsets from `next` on that come before `found` have stubs. Larger gaps are left to the check of the
/// whole file, because a page must not read all stubs of a large purge.
fn check_gap(connection: &Connection, next: u64, found: u64, order: Order) -> Result<()> {
    const LARGEST: u64 = 10_000;
    let gap = match order {
        Order::Ascending => next..found,
        Order::Descending => found + 1..next + 1,
    };
    let length = gap.end.saturating_sub(gap.start);
    if length == 0 || length > LARGEST {
        return Ok(());
    }
    let stubs: u64 = connection
        .prepare_cached("SELECT count(*) FROM stubs WHERE offset >= ?1 AND offset < ?2")?
        .query_row((gap.start, gap.end), |row| row.get(0))?;
    if stubs == length {
        return Ok(());
    }
    let (from, to) = (gap.start, gap.end - 1);
    Err(Corruption::error(format!("offsets {from} to {to} have {stubs} stubs and no event")))
}

/// The seq of the topic's last event up to `offset`, purged ones included.
fn seq_at_or_before(connection: &Connection, topic: &TopicRow, offset: u64) -> Result<u64> {
    if offset >= topic.last_offset {
        return Ok(topic.last_seq);
    }
    let place: Option<u64> = connection
        .prepare_cached(
            "SELECT min(last_offset, ?2) FROM spans WHERE topic_id = ?1 AND first_offset <= ?2
             ORDER BY first_offset DESC LIMIT 1",
        )?
        .query_row((topic.id, offset), |row| row.get(0))
        .optional()?;
    let Some(place) = place else { return Ok(topic.purged_seq) };
    let mut select = connection.prepare_cached(&EVENT)?;
    let found = select.query_row([place], |row| {
        let event = EventRow::read(row)?;
        Ok((event.topic_id == topic.id).then_some(event.seq))
    });
    found.optional()?.flatten().ok_or_else(|| {
        Corruption::error(format!("a span of a topic leads to offset {place}, where it has no event"))
    })
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
