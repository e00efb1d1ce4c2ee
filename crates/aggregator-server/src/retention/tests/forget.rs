//! Forgetting identities in slices: runs that have no time or no room for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aggregator_core::store::{Forget, Maintain, Receipt, Records, Seen, StoreInfo, StoreStats};
use aggregator_core::{
    AttemptId, DedupStore, DedupStoreExt as _, Event, EventRef, Identity, Import, Kept, MemoryStore, Page,
    Partition, Query, StoreError, StoredRow, Timestamp, Topic, TopicInfo, TopicQuery,
};

use super::{Engine, Stop, retention};
use crate::health::Health;
use crate::retention::Retention;

/// More than are counted.
const MANY: u64 = 11_000;

/// A store with so many purged events of each topic, and one more.
fn purged(topics: &[&str], events: u64) -> MemoryStore {
    let store = MemoryStore::default();
    for topic in topics {
        let all: Vec<_> = (0..events).map(|n| Event::new(*topic, n.to_string()).unwrap()).collect();
        for some in all.chunks(1_000) {
            store.append_all(&some.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        }
        Maintain::purge(&store, &Topic::new(*topic).unwrap(), events).unwrap();
    }
    store.append_one(&Event::new("last", "1").unwrap()).unwrap();
    // A store whose clock stands still would have nothing that is old.
    std::thread::sleep(Duration::from_millis(2));
    store
}

fn run(retention: &Retention, store: &dyn DedupStore) -> (u64, u64, bool) {
    let (health, stop) = (Health::default(), Stop::default());
    let tally = Engine::new(retention, store, &health).run_if_it_is_this_nodes_turn(&stop).unwrap().unwrap();
    let pending = retention.ledger().rules[0].pending_identities;
    assert_eq!(tally.rules[0].pending_identities, pending);
    (tally.rules[0].forgotten, pending, tally.is_unfinished)
}

fn stubs(store: &dyn DedupStore) -> u64 {
    let report = store.verify().unwrap();
    assert_eq!(report.faults, [""; 0]);
    report.stubs
}

#[test]
fn topics_take_turns_until_nothing_is_left() {
    // More than a turn has slices for.
    let store = purged(&["a", "b"], 2_500);
    let retention = retention(&["*=count:1,identities:1ms"], false);
    assert_eq!(run(&retention, &store), (5_000, 0, false));
    assert_eq!(stubs(&store), 0);
    assert_eq!(run(&retention, &store), (0, 0, false));
}

#[test]
fn a_run_that_has_no_time_counts_what_it_leaves_and_the_next_one_goes_on() {
    let store = purged(&["a", "b"], MANY);
    let mut retention = retention(&["*=count:1,identities:1ms"], false);
    retention.page_time = Duration::ZERO;
    let (forgotten, pending, is_unfinished) = run(&retention, &store);
    assert!(is_unfinished && (400..=MANY).contains(&forgotten), "{forgotten}");
    assert_eq!(stubs(&store), 2 * MANY - forgotten);
    let left = 10_000 + (MANY - forgotten).min(10_000);
    assert_eq!(pending, left, "10,000 of a topic are counted");
    retention.page_time = Duration::from_secs(60);
    assert_eq!(run(&retention, &store), (2 * MANY - forgotten, 0, false));
    assert_eq!(stubs(&store), 0);
}

#[test]
fn a_dry_run_counts_up_to_10_000_of_a_topic() {
    let store = purged(&["a", "b", "other"], MANY);
    let dry = retention(&["*=count:20000,identities:1ms", "other=count:1"], true);
    // Of the rules the exact one comes first.
    assert_eq!(dry.rules[0].identities, None);
    let (health, stop) = (Health::default(), Stop::default());
    let tally = Engine::new(&dry, &store, &health).run_if_it_is_this_nodes_turn(&stop).unwrap().unwrap();
    assert_eq!(tally.rules.iter().map(|rule| rule.pending_identities).collect::<Vec<_>>(), [0, 20_000]);
    assert_eq!(stubs(&store), 3 * MANY);
    let young = retention(&["*=count:1,identities:365d"], true);
    assert_eq!(run(&young, &store), (0, 0, false));
}

/// A memory store without room to forget, if it can forget at all.
#[derive(Default)]
struct Limited {
    inner: MemoryStore,
    can_forget: bool,
    /// How often it was asked to.
    asked: AtomicU64,
}

impl Forget for Limited {
    fn forget_identities(&self, _: &Topic, _: Timestamp, _: u64) -> Result<u64, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.check_health().map(|()| 0)
    }

    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        self.inner.forgettable_identities(topic, before, most)
    }
}

impl DedupStore for Limited {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }
    fn append(
        &self,
        p: Partition,
        a: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.inner.append(p, a, events)
    }
    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.inner.read(query)
    }
    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.inner.lookup(ids)
    }
    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.inner.topics(query)
    }
    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.inner.stats()
    }
    fn check_health(&self) -> Result<(), StoreError> {
        Err(StoreError::NoSpace { reason: "as planned".into(), source: None })
    }
    fn maintain(&self) -> Option<&dyn Maintain> {
        self.inner.maintain()
    }
    fn records(&self) -> Option<&dyn Records> {
        self.inner.records()
    }
    fn forget(&self) -> Option<&dyn Forget> {
        self.can_forget.then_some(self)
    }
}

/// What has no room is left for later: payloads, which make room, go all the same, on all pages.
#[tokio::test]
async fn a_store_without_room_to_forget_is_purged_all_the_same() {
    let topics: Vec<_> = (0..250).map(|n| format!("t{n:03}")).collect();
    let inner = purged(&topics.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    for topic in &topics {
        inner.append_one(&Event::new(&**topic, "3").unwrap()).unwrap();
        inner.append_one(&Event::new(&**topic, "4").unwrap()).unwrap();
    }
    let store = Arc::new(Limited { inner, can_forget: true, ..Limited::default() });
    let retention = retention(&["*=count:1,identities:1ms"], false);
    let (forgotten, pending, is_unfinished) = run(&retention, &*store);
    assert!(!is_unfinished, "the next run would begin at once, and find no room either");
    assert_eq!(forgotten, 0);
    assert!(pending >= 500, "{pending}");
    let infos = store.topics(&TopicQuery { limit: 1_000, ..TopicQuery::default() }).unwrap();
    assert!(infos.iter().all(|info| info.count() == 1), "{infos:?}");
    assert_eq!(store.asked.load(Ordering::SeqCst), 3, "once on each page");

    // Where it is known that there is no room, nobody asks.
    let (health, stop) = (Arc::new(Health::default()), Stop::default());
    let shared: Arc<dyn DedupStore> = store.clone();
    crate::health::check(&shared, &health).await;
    let mut engine = Engine::new(&retention, &*store, &health);
    let tally = engine.run_if_it_is_this_nodes_turn(&stop).unwrap().unwrap();
    assert!(tally.rules[0].pending_identities >= 500, "{tally:?}");
    assert_eq!(store.asked.load(Ordering::SeqCst), 3);
}

/// A topic that has nothing else, and one of which nothing was purged.
#[test]
fn identities_that_were_imported_alone_go_as_well() {
    let store = MemoryStore::default();
    let alone = |topic: &str, id: &str| StoredRow {
        topic: topic.into(),
        scope: None,
        event_id: id.into(),
        source: None,
        processed_at: Timestamp::from_micros(1),
        released: false,
        kept: Kept::Identity,
    };
    let rows = [alone("alone", "1"), alone("alone", "2"), alone("both", "1")];
    let rows = rows.map(|row| row.check().unwrap());
    store.import(Partition(0), Import::rows(&rows)).unwrap();
    store.append_one(&Event::new("both", "2").unwrap()).unwrap();
    let rules = ["*=count:5,identities:1h"];
    assert_eq!(run(&retention(&rules, true), &store), (0, 3, false));
    assert_eq!(run(&retention(&rules, false), &store), (3, 0, false));
    assert_eq!(store.append_one(&Event::new("alone", "1").unwrap()).unwrap().seq, Some(1));
}

#[test]
fn a_rule_that_the_store_cannot_follow_is_refused_by_its_name() {
    let config =
        |rule: &str| crate::Config { retain: vec![rule.parse().unwrap()], ..crate::Config::default() };
    let (with, without) = (config("a.*=age:1d,identities:2d"), config("a.*=age:1d"));
    let store = Limited::default();
    without.check_store(&store).unwrap();
    let refused = with.check_store(&store).unwrap_err();
    assert!(
        refused.starts_with("--retain a.*=age:1d,identities:2d says identities, and the store (memory)"),
        "{refused}"
    );
    with.check_store(&Limited { can_forget: true, ..store }).unwrap();
}
