//! The store against the contract, with its capabilities and without.
#![expect(clippy::unwrap_used, reason = "this is test code")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aggregator_core::store::conformance::{Backend, Capability, CaseOptions, run_all};
use aggregator_core::{
    AttemptId, DedupStore, DedupStoreExt, Event, EventId, EventRef, Identity, Import, MemoryStore, Outcome,
    Page, Partition, Partitions, Query, Receipt, RowLimit, Seen, StoreError, StoreId, StoreInfo, StoreStats,
    Timestamp, Topic, TopicInfo, TopicQuery,
};
use outside_backend::{Disk, ListStore};

/// Stores of lists, and what makes the contract's stores of them.
struct Lists {
    partitions: Partitions,
    disks: Mutex<HashMap<StoreId, Disk>>,
    lacks: &'static [Capability],
    finish: fn(ListStore) -> Arc<dyn DedupStore>,
}

impl Lists {
    fn open_on(&self, disk: &Disk, options: CaseOptions) -> Arc<dyn DedupStore> {
        (self.finish)(ListStore::open(disk).with(options.clock, options.max_topics))
    }
}

impl Backend for Lists {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        let disk = Disk::new(self.partitions);
        let store = self.open_on(&disk, options);
        self.disks.lock().unwrap().insert(store.info().id, disk);
        store
    }

    fn reopen(&self, store: Arc<dyn DedupStore>, options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        assert_eq!(Arc::strong_count(&store), 1, "the case kept a handle");
        Some(self.open_on(&self.disks.lock().unwrap()[&store.info().id], options))
    }

    fn lacks(&self) -> &[Capability] {
        self.lacks
    }
}

fn run(partitions: u16, lacks: &'static [Capability], finish: fn(ListStore) -> Arc<dyn DedupStore>) {
    let partitions = Partitions::new(partitions).unwrap();
    run_all(&Lists { partitions, disks: Mutex::default(), lacks, finish });
}

const LACKS: &[Capability] =
    &[Capability::Across, Capability::Amend, Capability::Forget, Capability::Records];

#[test]
fn a_store_from_outside_the_core_keeps_the_contract() {
    run(1, LACKS, |store| Arc::new(store));
}

#[test]
fn a_store_from_outside_the_core_keeps_the_contract_with_four_partitions() {
    run(4, LACKS, |store| Arc::new(store));
}

/// What every store has to have, and nothing else.
struct Bare(ListStore);

impl DedupStore for Bare {
    fn info(&self) -> &StoreInfo {
        self.0.info()
    }

    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.0.append(partition, attempt, events)
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.0.read(query)
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.0.lookup(ids)
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.0.topics(query)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.0.stats()
    }
}

#[test]
fn a_store_without_any_capability_keeps_the_contract() {
    use Capability::{Across, Amend, Forget, Maintain, Records, Transfer, Watch};
    run(4, &[Across, Amend, Forget, Maintain, Records, Transfer, Watch], |store| Arc::new(Bare(store)));
}

/// It is no mistake that shows in another case: those of a capability are left out where it is lacking.
#[test]
#[should_panic(expected = "a_store_has_every_capability_but_those_its_backend_lacks")]
fn a_capability_that_vanished_is_noticed() {
    use Capability::{Across, Amend, Forget, Records, Transfer, Watch};
    run(1, &[Across, Amend, Forget, Records, Transfer, Watch], |store| Arc::new(Bare(store)));
}

/// Otherwise the identity would be refused when it comes again, or the row that had it would count as its repeat.
#[test]
fn released_rows_of_other_stores_are_refused() {
    let origin = MemoryStore::new(Partitions::ONE);
    let event = Event::new("t", "1").unwrap();
    origin.append_one(&event).unwrap();
    let id = Identity { topic: Topic::new("t").unwrap(), event_id: EventId::new("1").unwrap(), source: None };
    origin.release(&[id]).unwrap();
    let rows = origin.rows(Partition(0), 0, RowLimit::default()).unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row.check().unwrap()).collect();
    let store = ListStore::open(&Disk::new(Partitions::ONE));
    let refused = store.import(Partition(0), Import::rows(&rows)).unwrap_err();
    assert_eq!(refused.to_string(), "the list store cannot keep released identities");
    assert_eq!(store.append_one(&event).unwrap().outcome, Outcome::Stored);
}

/// Otherwise the topic would begin with a seq that nobody gave out.
#[test]
fn marks_of_forgotten_rows_of_other_stores_are_refused() {
    let origin = MemoryStore::new(Partitions::ONE);
    for id in ["1", "2", "3"] {
        origin.append_one(&Event::new("t", id).unwrap()).unwrap();
    }
    let topic = Topic::new("t").unwrap();
    origin.purge(&topic, 2).unwrap();
    assert_eq!(origin.forget_identities(&topic, Timestamp::from_micros(i64::MAX), 1).unwrap(), 1);
    let rows = origin.rows(Partition(0), 0, RowLimit::default()).unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row.check().unwrap()).collect();
    let store = ListStore::open(&Disk::new(Partitions::ONE));
    let refused = store.import(Partition(0), Import::rows(&rows)).unwrap_err().to_string();
    assert_eq!(refused, "the list store cannot go on behind events that another store has forgotten");
    assert_eq!(store.stats().unwrap().stored, 0);
}
