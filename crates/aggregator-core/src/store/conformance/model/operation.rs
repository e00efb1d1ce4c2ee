//! What a run is made of, and how it is drawn: few names, so that everything meets everything.

use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::{Event, EventId, Identity, Order, Query, Scope, Source, Timestamp, Topic, Topics};

/// Nested names, and neighbours that sort around the dot.
pub(in crate::store::conformance) const TOPICS: [&str; 6] = ["a", "a.b", "a.b.c", "a-b", "a/b", "b"];
const SELECTORS: [&str; 12] =
    ["*", "a", "a.b", "a-b", "b", "a.*", "a.b.*", "b.*", "nobody", "a,b,nobody", "b,a.b.*,a.b.c", "a.*,b.*"];
const EVENT_IDS: [&str; 5] = ["1", "2", "3", "4", "5"];
const SOURCES: [&str; 3] = ["x", "y", "z"];

/// Payloads as they are sent, and as they are kept.
const PAYLOADS: [(&str, &str); 4] = [
    (r#"{"n":1}"#, r#"{"n":1}"#),
    (" {\t\"n\" : 1\n}", r#"{"n":1}"#),
    (r#"{"n":1.0}"#, r#"{"n":1.0}"#),
    (r#"{"n": "1 "}"#, r#"{"n":"1 "}"#),
];
const TIMESTAMPS: [&str; 2] = ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00.5+01:00"];

/// One step of a run.
#[derive(Debug, Clone)]
pub(in crate::store::conformance) enum Operation {
    Append(Vec<Draft>),
    /// The clock says this from now on, in microseconds.
    Clock(i64),
    /// The first pages of a query. Its cursor is kept.
    Read {
        filters: Filters,
        limit: usize,
        pages: usize,
    },
    /// Further pages of one of the queries before.
    ReadOn {
        walk: prop::sample::Index,
        limit: usize,
        pages: usize,
    },
    Lookup(Vec<Name>),
    Topics {
        topics: &'static str,
        after: Option<&'static str>,
        limit: usize,
        times: bool,
    },
    Purge {
        topic: &'static str,
        through_seq: u64,
    },
    /// Purged events that were stored before this time are forgotten, at most so many.
    Forget {
        topic: &'static str,
        before: i64,
        most: u64,
    },
    Erase(Vec<Name>),
    Release(Vec<Name>),
    Reopen,
}

/// An event to be published.
#[derive(Debug, Clone)]
pub(in crate::store::conformance) struct Draft {
    pub(in crate::store::conformance) topic: &'static str,
    pub(in crate::store::conformance) event_id: &'static str,
    pub(in crate::store::conformance) timestamp: &'static str,
    pub(in crate::store::conformance) source: &'static str,
    pub(in crate::store::conformance) payload: (&'static str, &'static str),
    pub(in crate::store::conformance) sequence: Option<u64>,
    pub(in crate::store::conformance) scope: Scope,
}

impl Draft {
    pub(in crate::store::conformance) fn event(&self) -> Event {
        let event = Event::new(self.topic, self.event_id).unwrap();
        let event = event.with_timestamp(self.timestamp).unwrap().with_source(self.source).unwrap();
        let event = event.with_payload(self.payload.0).unwrap().with_scope(self.scope);
        self.sequence.map_or(event.clone(), |sequence| event.with_sequence(sequence))
    }
}

/// An identity to be looked up.
#[derive(Debug, Clone)]
pub(in crate::store::conformance) struct Name {
    pub(in crate::store::conformance) topic: &'static str,
    pub(in crate::store::conformance) event_id: &'static str,
    pub(in crate::store::conformance) source: Option<&'static str>,
}

impl Name {
    pub(in crate::store::conformance) fn identity(&self) -> Identity {
        Identity {
            topic: Topic::new(self.topic).unwrap(),
            event_id: EventId::new(self.event_id).unwrap(),
            source: self.source.map(|source| Source::new(source).unwrap()),
        }
    }
}

/// What a reader asks for.
#[derive(Debug, Clone)]
pub(in crate::store::conformance) struct Filters {
    pub(in crate::store::conformance) topics: &'static str,
    pub(in crate::store::conformance) event_id: Option<&'static str>,
    pub(in crate::store::conformance) source: Option<&'static str>,
    pub(in crate::store::conformance) since: Option<i64>,
    pub(in crate::store::conformance) until: Option<i64>,
    pub(in crate::store::conformance) order: Order,
}

impl Filters {
    pub(in crate::store::conformance) fn query(&self) -> Query {
        Query {
            event_id: self.event_id.map(|id| EventId::new(id).unwrap()),
            source: self.source.map(|source| Source::new(source).unwrap()),
            since: self.since.map(Timestamp::from_micros),
            until: self.until.map(Timestamp::from_micros),
            order: self.order,
            ..Query::of(self.topics.parse::<Topics>().unwrap())
        }
    }
}

pub(in crate::store::conformance) fn any() -> impl Strategy<Value = Operation> {
    let pages = (1..=5_usize, 1..=3_usize);
    let on = (prop::sample::Index::arbitrary(), 1..=5_usize, 1..=3_usize);
    prop_oneof![
        9 => prop::collection::vec(draft(), 1..=8).prop_map(Operation::Append),
        4 => time().prop_map(Operation::Clock),
        6 => (filters(), pages).prop_map(|(filters, (limit, pages))| Operation::Read { filters, limit, pages }),
        8 => on.prop_map(|(walk, limit, pages)| Operation::ReadOn { walk, limit, pages }),
        2 => prop::collection::vec(name(), 1..=4).prop_map(Operation::Lookup),
        1 => topics(),
        4 => (select(&TOPICS), 0..=6_u64).prop_map(|(topic, through_seq)| Operation::Purge { topic, through_seq }),
        3 => (select(&TOPICS), 1..=6_i64, 1..=4_u64)
            .prop_map(|(topic, before, most)| Operation::Forget { topic, before, most }),
        1 => prop::collection::vec(name(), 1..=4).prop_map(Operation::Erase),
        2 => prop::collection::vec(name(), 1..=4).prop_map(Operation::Release),
        1 => Just(Operation::Reopen),
    ]
}

fn topics() -> impl Strategy<Value = Operation> {
    (select(&SELECTORS), option::of(select(&TOPICS)), 1..=4_usize, prop::bool::ANY)
        .prop_map(|(topics, after, limit, times)| Operation::Topics { topics, after, limit, times })
}

/// Few instants, back and forth.
fn time() -> impl Strategy<Value = i64> {
    0..6_i64
}

fn draft() -> impl Strategy<Value = Draft> {
    let sequence = prop_oneof![2 => Just(None), 1 => (0..3_u64).prop_map(Some)];
    let scope = prop_oneof![2 => Just(Scope::Topic), 1 => Just(Scope::Source)];
    let names = (topic(), select(&EVENT_IDS), select(&SOURCES[..2]));
    (names, select(&TIMESTAMPS), payload(), sequence, scope).prop_map(
        |((topic, event_id, source), timestamp, payload, sequence, scope)| Draft {
            topic,
            event_id,
            timestamp,
            source,
            payload,
            sequence,
            scope,
        },
    )
}

/// A topic. The last one is rare: once the store has as many topics as it takes, a further one makes it refuse the whole
/// append.
fn topic() -> impl Strategy<Value = &'static str> {
    let (last, others) = TOPICS.split_last().expect("there are some");
    prop_oneof![40 => select(others), 1 => Just(*last)]
}

/// Mostly the same, in two spellings: repeats, and now and then a conflict.
fn payload() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![3 => select(&PAYLOADS[..2]), 1 => select(&PAYLOADS[2..])]
}

fn name() -> impl Strategy<Value = Name> {
    (select(&TOPICS), select(&EVENT_IDS), option::of(select(&SOURCES)))
        .prop_map(|(topic, event_id, source)| Name { topic, event_id, source })
}

fn filters() -> impl Strategy<Value = Filters> {
    let some = |time| option::weighted(0.3, time);
    let order = select(&[Order::Ascending, Order::Descending]);
    let fields = (option::weighted(0.3, select(&EVENT_IDS)), option::weighted(0.3, select(&SOURCES)));
    (select(&SELECTORS), fields, some(time()), some(time()), order).prop_map(
        |(topics, (event_id, source), since, until, order)| Filters {
            topics,
            // An id is asked for in one exact topic only.
            event_id: event_id.filter(|_| !topics.contains(['*', ','])),
            source,
            since,
            until,
            order,
        },
    )
}
