//! The suite that every backend runs: [`DedupStore`]'s contract as tests.
//!
//! A backend says in a [`Backend`] how to open it, and calls [`run_all`]. No backend can leave out a case. A case that
//! is missing from the lists causes a compiler warning. Cases about a [`Capability`] run unless the backend
//! [lacks](Backend::lacks) it, and a store that has less or more than its backend says is a failure.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod across;
mod amend;
mod append;
mod attributes;
mod capability;
mod clock;
mod commits;
mod cursors;
mod deadline;
mod end;
mod forget;
mod model;
mod purge;
mod rare;
mod read;
mod records;
mod restart;
mod tail;
mod topics;
mod transfer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub use self::capability::Capability;
use crate::time::{Clock, system_clock};
use crate::{
    DedupStore, DedupStoreExt, Event, Identity, Outcome, Query, Receipt, StoreStats, StoredEvent, Topic,
    TopicInfo, TopicQuery, Topics,
};

/// How the suite gets at a backend.
pub trait Backend {
    /// A new, empty store.
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore>;

    /// Closes `store`, of which this is the only handle, and opens it again; `None` if a closed store keeps nothing.
    fn reopen(&self, store: Arc<dyn DedupStore>, options: CaseOptions) -> Option<Arc<dyn DedupStore>>;

    /// The capabilities that its stores lack. They must have all others.
    fn lacks(&self) -> &[Capability] {
        &[]
    }

    /// How many random runs are compared with the model. Return fewer if opening a store takes long.
    fn model_runs(&self) -> u32 {
        192
    }
}

/// What a case asks of a store.
#[derive(Clone)]
pub struct CaseOptions {
    /// Where `processed_at` comes from.
    pub clock: Clock,
    /// The most topics.
    pub max_topics: u64,
}

impl Default for CaseOptions {
    fn default() -> Self {
        Self { clock: system_clock(), max_topics: 1_000 }
    }
}

/// A case and its name.
type Case = (&'static str, fn(&dyn Backend));

/// Lists functions as cases under their own names.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => { &[$((stringify!($case), $case)),+] };
}
use cases;

/// The cases for a backend: those of every store, and those of the capabilities it has.
fn cases_for(backend: &dyn Backend) -> Vec<Case> {
    let mut cases = [
        append::CASES,
        attributes::CASES,
        capability::CASES,
        clock::CASES,
        cursors::CASES,
        deadline::CASES,
        end::CASES,
        model::CASES,
        rare::CASES,
        read::CASES,
        restart::CASES,
        tail::CASES,
        topics::CASES,
    ]
    .concat();
    let of_capabilities = [
        (&[Capability::Across][..], across::CASES),
        (&[Capability::Amend], amend::CASES),
        (&[Capability::Amend, Capability::Maintain], amend::PURGE_CASES),
        (&[Capability::Amend, Capability::Transfer], amend::TRANSFER_CASES),
        (&[Capability::Forget, Capability::Maintain], forget::CASES),
        (&[Capability::Forget, Capability::Maintain, Capability::Amend], forget::AMEND_CASES),
        (&[Capability::Forget, Capability::Maintain, Capability::Transfer], forget::TRANSFER_CASES),
        (&[Capability::Maintain], purge::CASES),
        (&[Capability::Maintain], tail::PURGE_CASES),
        (&[Capability::Maintain], topics::PURGE_CASES),
        (&[Capability::Transfer], topics::TRANSFER_CASES),
        (&[Capability::Transfer], transfer::CASES),
        (&[Capability::Transfer], transfer::refusal::CASES),
        (&[Capability::Transfer], transfer::random::CASES),
        (&[Capability::Watch], commits::CASES),
        (&[Capability::Records], records::CASES),
        (&[Capability::Records], records::lists::CASES),
        (&[Capability::Records], records::model::CASES),
        (&[Capability::Records], records::races::CASES),
        (&[Capability::Records], records::versions::CASES),
    ];
    for (capabilities, its_cases) in of_capabilities {
        if !capabilities.iter().any(|capability| backend.lacks().contains(capability)) {
            cases.extend(its_cases);
        }
    }
    cases
}

/// Runs every case against `backend`.
///
/// # Panics
/// With the names of the cases that failed, after all have run.
pub fn run_all(backend: &dyn Backend) {
    let mut failed = Vec::new();
    for (name, case) in cases_for(backend) {
        if catch_unwind(AssertUnwindSafe(|| case(backend))).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "the backend breaks the contract in: {failed:?}");
}

fn event(topic: &str, event_id: &str) -> Event {
    Event::new(topic, event_id).expect("the case names a good event")
}

fn with_payload(topic: &str, event_id: &str, payload: &str) -> Event {
    event(topic, event_id).with_payload(payload).expect("the case names a good payload")
}

fn append(store: &dyn DedupStore, events: &[Event]) -> Vec<Receipt> {
    let views: Vec<_> = events.iter().map(Event::view).collect();
    store.append_all(&views).expect("a healthy store takes events")
}

fn append_one(store: &dyn DedupStore, event: &Event) -> Receipt {
    append(store, std::slice::from_ref(event))[0]
}

fn outcomes(receipts: &[Receipt]) -> Vec<Outcome> {
    receipts.iter().map(|receipt| receipt.outcome).collect()
}

fn seqs(receipts: &[Receipt]) -> Vec<u64> {
    receipts.iter().map(|receipt| receipt.seq.expect("an appended event has a seq")).collect()
}

fn identity(topic: &str, event_id: &str) -> Identity {
    Identity {
        topic: Topic::new(topic).expect("the case names a good topic"),
        event_id: crate::EventId::new(event_id).expect("the case names a good id"),
        source: None,
    }
}

fn query(topics: &str) -> Query {
    Query::of(topics.parse::<Topics>().expect("the case names a good pattern"))
}

/// Topics that share a limit on their number: a store that is made of shards has one in each of them.
fn topics_of_one_shard(store: &dyn DedupStore) -> impl Iterator<Item = String> {
    let shards = Shards::of(store);
    let topics = (1..).map(|n| format!("t{n}"));
    topics.filter(move |topic| shards.shard_of(topic) == shards.shard_of("t1"))
}

/// Which shard a topic is in.
#[derive(Clone, Copy)]
struct Shards {
    partitions: crate::Partitions,
    partitions_per_shard: u16,
}

impl Shards {
    fn of(store: &dyn DedupStore) -> Self {
        let partitions = store.partitions();
        Self { partitions, partitions_per_shard: partitions.count() / store.info().shards }
    }

    fn shard_of(self, topic: &str) -> u16 {
        self.partitions.of(topic).0 / self.partitions_per_shard
    }
}

/// Every page of a query, one after the other.
fn read_all(store: &dyn DedupStore, query: Query) -> Vec<StoredEvent> {
    let (mut events, mut before) = (Vec::new(), query.after.clone());
    let limit = query.limit;
    for page in store.pages(query) {
        let page = page.expect("a healthy store reads");
        assert!(page.events.len() <= limit, "a page has at most as many events as asked for");
        events.extend(page.events);
        assert!(page.caught_up || before.as_ref() != Some(&page.next), "a page that is not the last gets on");
        before = Some(page.next);
    }
    events
}

/// Every way to ask for `event`: by its exact topic, by patterns, by id, by source, by time, in both orders.
/// Asserts that each way gives back the whole event.
fn assert_every_read_gives(store: &dyn DedupStore, event: &StoredEvent) {
    let topic = Topic::new(&*event.topic).expect("a stored event has a good topic");
    let (above, _) = event.topic.rsplit_once('.').expect("the case names a topic below another one");
    let exact = Query::topic(topic);
    let filtered = Query {
        event_id: Some(crate::EventId::new(&*event.event_id).expect("a stored event has a good id")),
        source: Some(crate::Source::new(&*event.source).expect("a stored event has a good source")),
        since: Some(event.processed_at),
        ..exact.clone()
    };
    for by in [exact, query("*"), query(&format!("{above}.*")), filtered] {
        for order in [crate::Order::Ascending, crate::Order::Descending] {
            let found = read_all(store, Query { order, limit: 2, ..by.clone() });
            let found = found.into_iter().find(|found| found.event_id == event.event_id);
            assert_eq!(found.as_ref(), Some(event), "{by:?} {order:?}");
        }
    }
}

/// What a test waits for takes nearly no time. If it takes this long, it is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn await_that(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        thread::yield_now();
    }
}

/// All topics, with the times of their events.
fn all_topics(store: &dyn DedupStore) -> Vec<TopicInfo> {
    store.topics(&TopicQuery { limit: 1_000, times: true, ..TopicQuery::default() }).unwrap()
}

fn ids(events: &[StoredEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event_id.as_str()).collect()
}

/// The totals that every store counts in the same way. Its size is not among them, nor its newest time, which may be
/// that of an append that stored nothing.
fn totals(store: &dyn DedupStore) -> StoreStats {
    StoreStats {
        bytes: 0,
        newest_processed_at: None,
        ..store.stats().expect("a healthy store has statistics")
    }
}

/// Purges if the store can. If it cannot, a case that is not about purging goes on without.
fn purge_if_able(store: &dyn DedupStore, topic: &str, through_seq: u64) {
    if store.maintain().is_some() {
        let topic = Topic::new(topic).expect("the case names a good topic");
        store.purge(&topic, through_seq).expect("a healthy store purges");
    }
}

/// Asserts that the store finds no contradiction in itself, if it can look for one.
fn assert_sound(store: &dyn DedupStore) {
    if store.maintain().is_none() {
        return;
    }
    assert_eq!(store.verify().expect("a healthy store can be verified").faults, Vec::<String>::new());
}
