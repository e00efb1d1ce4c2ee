//! Events of some topics, in the order of their offsets, by the spans of these topics. What lies between is not read.

use std::collections::BinaryHeap;

use rusqlite::{Connection, Result};

use super::expected::following;
use super::{fingerprint, take};
use crate::cursor::Anchor;
use crate::query::{Order, Query};
use crate::store::page::Scanner;
use crate::store::sqlite::catalog::snapshot::TopicSnapshot;
use crate::store::sqlite::catalog::{PartitionState, TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::{Corruption, check_deadline};
use crate::store::sqlite::journal::{Span, TopicView, Views};
use crate::store::sqlite::read::Memory;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};
use crate::{Timestamp, TopicSelector};

/// For more topics, all rows are looked at.
const MAX_TOPICS: usize = 1_000;

/// A topic of the query.
pub(super) struct Merged {
    name: String,
    topic: TopicView,
    /// That of its next event, where it is known.
    seq: Option<u64>,
}

impl Merged {
    fn begin(&mut self, from: u64, order: Order) {
        let begins = order == Order::Descending && from > self.topic.row.last_offset;
        self.seq = begins.then_some(self.topic.row.last_seq);
    }

    /// Checks that no event is missing behind its last span. It was read from `from` on.
    fn end(&self, from: u64, order: Order) -> Result<()> {
        let TopicRow { last_seq, last_offset, purged_seq, .. } = self.topic.row;
        let whole = match (self.seq, order) {
            (Some(next), Order::Ascending) => next == last_seq + 1,
            (None, Order::Ascending) => last_offset <= from || last_seq == purged_seq,
            (Some(next), Order::Descending) => next == purged_seq,
            (None, Order::Descending) => true,
        };
        if whole {
            Ok(())
        } else {
            Err(Corruption::error(format!("events of topic {} are missing", self.name)))
        }
    }
}

/// The topics of a query.
pub(super) enum Topics {
    Few(Vec<Merged>),
    TooMany,
    /// What is in memory is not of the snapshot's commit.
    OfAnotherCommit,
}

pub(super) fn topics(
    connection: &Connection,
    memory: &Memory,
    query: &Query,
    partition: &PartitionState,
) -> Result<Topics> {
    let snapshot = TopicSnapshot::at(connection, &memory.names, partition)?;
    let mut select = connection.prepare_cached(&format!(
        "SELECT {TOPIC_COLUMNS} FROM topics t WHERE t.name >= ?1 AND t.name < ?2 ORDER BY t.name LIMIT ?3"
    ))?;
    let views = Views::of(connection, &memory.tails, partition);
    let mut found = Vec::new();
    for selector in query.topics.selectors() {
        let before = found.len();
        let (low, high) = selector.names();
        let mut rows = select.query((low, high, MAX_TOPICS + 1 - before))?;
        while let Some(row) = rows.next()? {
            let (name, row) = TopicRow::read(row)?;
            let Some(topic) = views.view(name, row)? else {
                return Ok(Topics::OfAnotherCommit);
            };
            found.push(Merged { name: name.to_owned(), topic, seq: None });
        }
        if found.len() > MAX_TOPICS {
            return Ok(Topics::TooMany);
        }
        if let TopicSelector::Exact(name) = selector
            && found.len() == before
            && snapshot.get(name.as_str()).is_some()
        {
            return Err(Corruption::error(format!("the topic {name} is missing")));
        }
    }
    Ok(Topics::Few(found))
}

/// The next events of one topic. Ordered by where a reader meets them: the greatest is the next one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    /// Ascending: how far it is before the greatest number there is.
    rank: u64,
    topic: usize,
    first: u64,
    last: u64,
}

/// Takes events until the scanner has enough.
pub(super) fn fill(
    connection: &Connection,
    scanner: &mut Scanner<'_>,
    mut topics: Vec<Merged>,
    partition: &PartitionState,
) -> Result<()> {
    let order = scanner.query().order;
    let from = scanner.position().offset;
    let mut heap = BinaryHeap::with_capacity(topics.len());
    for (index, topic) in topics.iter_mut().enumerate() {
        check_deadline()?;
        topic.begin(from, order);
        match first_span(connection, &topic.topic, from, order)? {
            Some(span) => heap.push(next(index, span, order)),
            None => topic.end(from, order)?,
        }
    }
    while let Some(span) = heap.pop() {
        let topic = &mut topics[span.topic];
        if !fill_span(connection, scanner, topic, &span)? {
            return Ok(());
        }
        match next_span(connection, &topic.topic, &span, order)? {
            Some(found) => heap.push(next(span.topic, found, order)),
            None => topic.end(from, order)?,
        }
    }
    // The next page need not look for what is not there.
    let last = partition.last_offset;
    if order == Order::Ascending
        && !scanner.is_full()
        && scanner.position().offset < last
        && let Some(fingerprint) = fingerprint(connection, last)?
    {
        scanner.passed_by(Anchor { offset: last, fingerprint });
    }
    Ok(())
}

fn next(topic: usize, Span { first, last }: Span, order: Order) -> Next {
    let rank = match order {
        Order::Ascending => u64::MAX - first,
        Order::Descending => last,
    };
    Next { rank, topic, first, last }
}

/// The first span that has offsets beyond `from`, without the others.
fn first_span(connection: &Connection, topic: &TopicView, from: u64, order: Order) -> Result<Option<Span>> {
    if order == Order::Descending {
        let span = topic.span_before(connection, from)?;
        return Ok(span.map(|span| Span { last: span.last.min(from - 1), ..span }));
    }
    match topic.span_before(connection, from.saturating_add(1))? {
        Some(Span { last, .. }) if last > from => Ok(Some(Span { first: from + 1, last })),
        _ => topic.span_after(connection, from),
    }
}

fn next_span(
    connection: &Connection,
    topic: &TopicView,
    before: &Next,
    order: Order,
) -> Result<Option<Span>> {
    match order {
        Order::Ascending => topic.span_after(connection, before.last),
        Order::Descending => topic.span_before(connection, before.first),
    }
}

/// Takes the events of a span. Returns whether to go on behind it.
fn fill_span(
    connection: &Connection,
    scanner: &mut Scanner<'_>,
    topic: &mut Merged,
    span: &Next,
) -> Result<bool> {
    let order = scanner.query().order;
    let (direction, mut next, end) = match order {
        Order::Ascending => ("ASC", span.first, following(span.last, order)),
        Order::Descending => ("DESC", span.last, following(span.first, order)),
    };
    let mut select = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset >= ?1 AND e.offset <= ?2 ORDER BY e.offset {direction}"
    ))?;
    let mut rows = select.query((span.first, span.last))?;
    while let Some(row) = rows.next()? {
        check_deadline()?;
        let event = EventRow::read(row)?;
        if scanner.is_full() || scanner.is_past(Timestamp::from_micros(event.processed_at)) {
            return Ok(false);
        }
        let of_span = event.offset == next && event.topic_id == topic.topic.row.id;
        if !of_span || topic.seq.is_some_and(|seq| seq != event.seq) {
            break;
        }
        take(scanner, &event, &topic.name, true);
        (next, topic.seq) = (following(next, order), Some(following(event.seq, order)));
    }
    if next == end {
        return Ok(true);
    }
    let Merged { name, .. } = topic;
    Err(Corruption::error(format!("the event of topic {name} at offset {next} is missing, or one before it")))
}
