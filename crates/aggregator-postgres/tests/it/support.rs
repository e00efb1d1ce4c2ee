//! Stores for single tests on the server that all tests share, and publishers that use them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aggregator_core::store::conformance::CaseOptions;
use aggregator_core::{
    CheckedRow, DedupStore, DedupStoreExt, Event, Kept, Order, Outcome, Partitions, Query, Receipt,
    StoredRow, Timestamp, Topic,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

/// A schema nobody has used.
pub(crate) fn new_schema() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}", TestServer::schemas(), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// Options for a store with one partition in its own schema. Its sessions have the schema's name.
pub(crate) fn options() -> PostgresOptions {
    let schema = new_schema();
    PostgresOptions {
        application_name: schema.clone(),
        schema,
        partitions: Some(Partitions::ONE),
        ..PostgresOptions::default()
    }
}

pub(crate) fn open(url: &str, options: &PostgresOptions) -> PostgresStore {
    PostgresStore::open_with(&url.parse().unwrap(), options.clone()).unwrap()
}

/// Options for a case of the conformance suite.
pub(crate) fn with(options: CaseOptions) -> PostgresOptions {
    PostgresOptions {
        clock: Some(options.clock),
        max_topics: options.max_topics,
        ..PostgresOptions::default()
    }
}

pub(crate) fn events(topic: &str, ids: impl IntoIterator<Item = u32>) -> Vec<Event> {
    ids.into_iter().map(|id| Event::new(topic, id.to_string()).unwrap()).collect()
}

pub(crate) fn append(store: &PostgresStore, events: &[Event]) -> Vec<Receipt> {
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap()
}

/// An identity without an event.
pub(crate) fn alone(topic: &str, event_id: &str) -> CheckedRow {
    let record = StoredRow {
        topic: topic.into(),
        scope: None,
        event_id: event_id.into(),
        source: None,
        processed_at: Timestamp::from_micros(1),
        released: false,
        kept: Kept::Identity,
    };
    record.check().unwrap()
}

pub(crate) fn outcomes(receipts: &[Receipt]) -> Vec<Outcome> {
    receipts.iter().map(|receipt| receipt.outcome).collect()
}

pub(crate) fn stored(receipts: &[Receipt]) -> usize {
    receipts.iter().filter(|receipt| receipt.outcome == Outcome::Stored).count()
}

/// Waits until `done` holds, up to [`PATIENCE`].
pub(crate) fn await_that(what: &str, mut done: impl FnMut() -> bool) {
    await_some(what, || done().then_some(()));
}

/// Waits until there is something, up to [`PATIENCE`].
pub(crate) fn await_some<T>(what: &str, mut something: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(something) = something() {
            return something;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Far longer than anything here takes: a wait of this length is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many events publishers send in [`publish_all`].
pub(crate) const PUBLISHED: u32 = 600;

/// Runs one publisher for each store. All send the same events in batches, and send a batch again after an error that
/// passes. Every event must be reported as `stored` exactly once, to any of them. `disturb` is called all the while.
/// Until it returns that it has disturbed enough, publishers repeat what they have sent.
pub(crate) fn publish_all(stores: &[&PostgresStore], mut disturb: impl FnMut() -> bool + Send) {
    const BATCH: u32 = 10;
    let (mut was_enough, enough) = (false, AtomicBool::new(false));
    let told = Mutex::new(Vec::new());
    let left = AtomicU32::new(u32::try_from(stores.len()).unwrap());
    std::thread::scope(|scope| {
        for (publisher, store) in (0..).zip(stores) {
            let (told, left, enough) = (&told, &left, &enough);
            scope.spawn(move || {
                let _done = Countdown(left);
                for batch in 0.. {
                    if batch >= PUBLISHED / BATCH && enough.load(Ordering::SeqCst) {
                        break;
                    }
                    let first = batch % (PUBLISHED / BATCH) * BATCH + publisher * PUBLISHED / 3;
                    let events = events("t", (first..first + BATCH).map(|id| id % PUBLISHED));
                    let views: Vec<_> = events.iter().map(Event::view).collect();
                    // Long enough for a disturbance in between.
                    std::thread::sleep(Duration::from_millis(15));
                    let receipts = loop {
                        match store.append_all(&views) {
                            Ok(receipts) => break receipts,
                            Err(error) => assert!(error.is_retryable(), "{error}"),
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    };
                    let new = receipts.iter().zip(&events).filter(|(r, _)| r.outcome == Outcome::Stored);
                    told.lock().unwrap().extend(new.map(|(_, e)| e.view().event_id().to_owned()));
                }
            });
        }
        let until = Instant::now() + PATIENCE;
        while left.load(Ordering::SeqCst) > 0 {
            was_enough |= disturb();
            enough.store(was_enough || Instant::now() > until, Ordering::SeqCst);
            // Long enough for some batches to get through.
            std::thread::sleep(Duration::from_millis(150));
        }
    });
    assert!(was_enough, "not disturbed enough within {PATIENCE:?}");
    let told = told.into_inner().unwrap();
    assert_eq!(told.len(), PUBLISHED as usize, "events told `stored`");
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), PUBLISHED as usize, "of which different");
    assert_complete(stores[0], PUBLISHED);
}

/// Counts down when dropped, even if its thread panics.
struct Countdown<'a>(&'a AtomicU32);

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Checks that the topic `t` has `count` events with the ids from 0 on, each once, with dense seqs.
pub(crate) fn assert_complete(store: &PostgresStore, count: u32) {
    let (mut seqs, mut ids) = (Vec::new(), BTreeSet::new());
    let query = Query { limit: Query::MAX_LIMIT, ..Query::topic(Topic::new("t").unwrap()) };
    for page in store.pages(query) {
        let page = page.unwrap();
        seqs.extend(page.events.iter().map(|event| event.seq));
        ids.extend(page.events.iter().map(|event| event.event_id.parse::<u32>().unwrap()));
    }
    assert!(seqs.iter().copied().eq(1..=u64::from(count)), "seqs: {seqs:?}");
    assert!(ids.iter().copied().eq(0..count), "ids: {ids:?}");
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
    let newest = Query { order: Order::Descending, limit: 1, ..Query::topic(Topic::new("t").unwrap()) };
    assert_eq!(store.read(&newest).unwrap().events[0].seq, u64::from(count));
}

/// A session of another client.
pub(crate) struct OtherSession {
    psql: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl OtherSession {
    pub(crate) fn new(server: &TestServer) -> Self {
        let mut psql = server.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(psql.stdout.take().unwrap()).lines();
        Self { psql, lines }
    }

    /// A session that has locked the store's one partition.
    pub(crate) fn with_lock(server: &TestServer, schema: &str) -> Self {
        let mut session = Self::new(server);
        session.sql(&format!("BEGIN; SELECT FROM {schema}.partitions FOR UPDATE;"));
        session
    }

    pub(crate) fn sql(&mut self, sql: &str) {
        writeln!(self.psql.stdin.as_mut().unwrap(), "{sql}\n\\echo done").unwrap();
        while self.lines.next().unwrap().unwrap() != "done" {}
    }
}

impl Drop for OtherSession {
    fn drop(&mut self) {
        drop(self.psql.stdin.take());
        self.psql.wait().unwrap();
    }
}
