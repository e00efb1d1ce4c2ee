//! What a read may cost: it ends at its deadline, and it does no work for what it does not ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use aggregator_core::store::TestHooks;
use aggregator_core::{
    Clock, Deadline, DedupStore, DedupStoreExt, Event, EventId, Identity, Order, Query, Source,
    SqliteOptions, SqliteStore, StoreError, Timestamp, Topic, TopicQuery, TopicSelector, Topics,
};
use tempfile::TempDir;

use crate::index::without_journal;

/// Counts what SQLite does for readers, and makes it slow on demand.
#[derive(Default)]
struct Work {
    /// In calls of [`TestHooks::on_read_steps`].
    done: AtomicU64,
    slow: AtomicBool,
}

impl Work {
    /// No call takes less while it is slow.
    const SLOW: Duration = Duration::from_millis(1);

    fn reader(self: &Arc<Self>) -> SqliteOptions {
        let work = Arc::clone(self);
        let on_read_steps = move || {
            work.done.fetch_add(1, Ordering::SeqCst);
            if work.slow.load(Ordering::SeqCst) {
                std::thread::sleep(Self::SLOW);
            }
        };
        let test_hooks =
            TestHooks { on_read_steps: Some(Arc::new(on_read_steps)), ..TestHooks::default() }.into();
        SqliteOptions { readers: 1, test_hooks, ..SqliteOptions::default() }
    }

    /// How much of it `read` takes.
    fn of<T>(&self, read: impl FnOnce() -> T) -> (T, u64) {
        let before = self.done.load(Ordering::SeqCst);
        let read = read();
        (read, self.done.load(Ordering::SeqCst) - before)
    }
}

fn append(store: &SqliteStore, topic: &str, numbers: std::ops::Range<u32>) {
    let events: Vec<_> = numbers.map(|n| Event::new(topic, n.to_string()).unwrap()).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

/// The second one spends all its time in one statement, which counts what was purged.
#[test]
fn a_read_ends_at_its_deadline_and_its_connection_serves_the_next_one() {
    /// In calls that are slow.
    const WAIT: u32 = 20;
    let directory = TempDir::new().unwrap();
    let work = Arc::<Work>::default();
    let store = SqliteStore::open_with(directory.path().join("events.db"), work.reader()).unwrap();
    append(&store, "many", 0..9_000);
    append(&store, "purged", 0..9_000);
    append(&store, "last", 0..1);
    store.purge(&Topic::new("purged").unwrap(), 9_000).unwrap();
    let nobody =
        Query { source: Some(Source::new("nobody").unwrap()), ..Query::topic(Topic::new("many").unwrap()) };
    let behind = store.read(&Query { limit: 1_000, ..Query::of(TopicSelector::All) }).unwrap();
    let mut gap = Query { limit: 1_000, after: Some(behind.next), ..Query::of(TopicSelector::All) };
    for _ in 0..8 {
        gap.after = Some(store.read(&gap).unwrap().next);
    }
    for (what, query) in [("many rows", nobody), ("one long statement", gap)] {
        let (whole, whole_work) = work.of(|| store.read(&query).unwrap());
        work.slow.store(true, Ordering::SeqCst);
        let (cut, cut_work) = work.of(|| Deadline::after(Work::SLOW * WAIT).scope(|| store.read(&query)));
        let error = cut.expect_err(what);
        assert!(matches!(error, StoreError::Unavailable { .. }), "{what}: {error}");
        assert!(
            error.to_string().contains("reading events: not done before the deadline"),
            "{what}: {error}"
        );
        // By then the deadline is over, whatever else the machine does.
        let most = u64::from(WAIT) + 1;
        assert!(cut_work <= most && most < whole_work / 4, "{what}: {cut_work} of {whole_work}");
        work.slow.store(false, Ordering::SeqCst);
        assert_eq!(store.read(&query).unwrap(), whole, "{what}: without a deadline, on the same connection");
    }
}

fn id(topic: &str, event_id: &str) -> Identity {
    Identity { topic: Topic::new(topic).unwrap(), event_id: EventId::new(event_id).unwrap(), source: None }
}

/// Counted, not timed: what a read of an unknown topic costs does not depend on how many topics there are.
#[test]
fn what_is_not_there_costs_no_more_in_a_store_of_many_topics() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let work = Arc::<Work>::default();
    let mut store = SqliteStore::open_with(&path, work.reader()).unwrap();
    let topics: Vec<_> = (0..3_000).map(|n| Event::new(format!("topic-{n}"), "1").unwrap()).collect();
    store.append_all(&topics.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    for state in ["written by this process", "opened again"] {
        let unknown: Vec<_> = (0..500).map(|n| id(&format!("unknown-{n}"), "1")).collect();
        let (seen, work_done) = work.of(|| store.lookup(&unknown).unwrap());
        assert_eq!(seen, vec![None; 500]);
        assert!(work_done <= 2, "{state}: a lookup took {work_done} times 200 steps");
        let known: Vec<_> = (0..500).map(|n| id(&format!("topic-{n}"), "unknown")).collect();
        let (seen, work_done) = work.of(|| store.lookup(&known).unwrap());
        assert_eq!(seen, vec![None; 500]);
        assert!(work_done <= 2, "{state}: a lookup in known topics took {work_done} times 200 steps");
        let query = Query::topic(Topic::new("unknown").unwrap());
        let (page, work_done) = work.of(|| store.read(&query).unwrap());
        assert!(page.events.is_empty() && page.caught_up);
        assert!(work_done <= 2, "{state}: a page took {work_done} times 200 steps");
        drop(store);
        store = SqliteStore::open_with(&path, work.reader()).unwrap();
    }
}

fn rare_topics() -> Query {
    Query::of("rare.*".parse::<TopicSelector>().unwrap())
}

#[test]
fn a_page_of_rare_topics_or_of_a_late_time_takes_the_same_work_whatever_lies_before() {
    let now = Arc::new(AtomicI64::new(1));
    let clock = Arc::clone(&now);
    let clock: Clock = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)));
    let directory = TempDir::new().unwrap();
    let work = Arc::<Work>::default();
    let options = SqliteOptions { clock, ..work.reader() };
    let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
    append(&store, "rare.a", 0..5);
    let late = Query { since: Some(Timestamp::from_micros(2)), ..Query::of(TopicSelector::All) };
    let mut before = None;
    for many in [0..2_000, 2_000..30_000] {
        append(&store, "noise", many.clone());
        let (page, rare) = work.of(|| store.read(&rare_topics()).unwrap());
        assert!(page.events.len() == 5 && page.caught_up);
        let (page, late) = work.of(|| store.read(&late).unwrap());
        assert!(page.events.is_empty() && page.caught_up);
        let (rare_before, late_before) = *before.get_or_insert((rare, late));
        // To look at all rows takes a call for a few of them.
        assert!(rare <= rare_before + 2 && late <= late_before + 2, "{rare}, {late} after {before:?}");
    }
    now.store(2, Ordering::SeqCst);
    append(&store, "noise", 40_000..40_003);
    assert_eq!(store.read(&late).unwrap().events.len(), 3);
}

#[test]
fn a_page_of_rare_topics_notices_an_event_that_the_file_has_lost() {
    for lost in [
        "DELETE FROM events WHERE offset = 2",
        "DELETE FROM spans WHERE first_offset > 3",
        "UPDATE spans SET last_offset = last_offset + 1 WHERE first_offset = 1",
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open_with(&path, without_journal(SqliteOptions::default())).unwrap();
        // Looked at from the end, where there is no other topic for long.
        for n in 0..3 {
            append(&store, "rare.a", n * 3..n * 3 + 3);
            append(&store, "noise", n * 1_000..n * 1_000 + 1_000);
        }
        let down = Query { order: Order::Descending, ..rare_topics() };
        assert_eq!(store.read(&down).unwrap().events.len(), 9);
        rusqlite::Connection::open(&path).unwrap().execute(lost, []).unwrap();
        let error = store.read(&down).map(|page| page.events.len());
        assert!(matches!(error, Err(StoreError::Corrupt { .. })), "{lost}: {error:?}");
    }
}

#[test]
fn a_page_of_topics_costs_no_more_where_there_are_many_others_and_many_events() {
    let mut costs = Vec::new();
    for others in [10, 10_000] {
        let directory = TempDir::new().unwrap();
        let work = Arc::<Work>::default();
        let store = SqliteStore::open_with(directory.path().join("events.db"), work.reader()).unwrap();
        for name in ["a", "z"] {
            let events: Vec<_> =
                (0..others).map(|n| Event::new(format!("{name}.{n}"), "1").unwrap()).collect();
            store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        }
        for topic in ["rare.a", "rare.b"] {
            (0..others / 10).for_each(|n| append(&store, topic, n..n + 1));
        }
        append(&store, "rare.a", others..others + 1);
        let rare: Topics = "rare.*,rare".parse().unwrap();
        let query = TopicQuery { times: true, ..TopicQuery::of(rare) };
        let (infos, cost) = work.of(|| (0..100).map(|_| store.topics(&query).unwrap().len()).sum::<usize>());
        assert_eq!(infos, 200);
        costs.push(cost);
    }
    assert!(costs[1] <= costs[0] + costs[0] / 2 + 2, "{costs:?}");
}

/// A page that skips what was purged tells from where to where something is missing that was not.
#[test]
fn an_event_that_is_gone_is_told_by_its_offset() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    append(&store, "t", 0..9);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("DELETE FROM events WHERE offset IN (4, 5)").unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let error = store.read(&Query { order, ..Query::of(TopicSelector::All) }).unwrap_err().to_string();
        assert!(error.contains("offsets 4 to 5 have 0 stubs and no event"), "{error}");
    }
}
