//! One store over databases of several servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aggregator_core::store::conformance::{Backend, Capability, CaseOptions, run_all};
use aggregator_core::store::sharded::{NamedStore, refuse_lone_shard};
use aggregator_core::{
    DedupStore, DedupStoreExt as _, Event, Outcome, Partitions, Query, Sharded, StoreError, StoreId,
    TopicSelector,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{OtherSession, await_that, new_schema, options, with};

/// Two servers that the tests here share.
fn servers() -> Option<[&'static TestServer; 2]> {
    static OTHER: OnceLock<Option<TestServer>> = OnceLock::new();
    let one = TestServer::shared()?;
    Some([one, OTHER.get_or_init(|| TestServer::start(&[])).as_ref()?])
}

/// A shard in the same schema of each of these servers.
fn open<'s>(
    servers: impl IntoIterator<Item = &'s TestServer>,
    options: &PostgresOptions,
) -> Result<Sharded, StoreError> {
    let mut shards = Vec::new();
    for server in servers {
        let url = server.url();
        let store = PostgresStore::open_with(&url.parse().unwrap(), options.clone())?;
        shards.push(NamedStore::new(url, Arc::new(store)));
    }
    Sharded::open(shards)
}

struct Shards {
    servers: [&'static TestServer; 2],
    schemas: Mutex<HashMap<StoreId, String>>,
}

impl Shards {
    fn open_in(&self, schema: String, options: CaseOptions) -> Arc<dyn DedupStore> {
        let options =
            PostgresOptions { schema: schema.clone(), partitions: Partitions::new(2), ..with(options) };
        let store = open(self.servers, &options).unwrap();
        self.schemas.lock().unwrap().insert(store.info().id, schema);
        Arc::new(store)
    }
}

impl Backend for Shards {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        self.open_in(new_schema(), options)
    }

    fn reopen(&self, store: Arc<dyn DedupStore>, options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        let schema = self.schemas.lock().unwrap()[&store.info().id].clone();
        assert_eq!(Arc::strong_count(&store), 1, "the case kept a handle");
        drop(store);
        Some(self.open_in(schema, options))
    }

    fn lacks(&self) -> &[Capability] {
        &[Capability::Across]
    }

    /// Few, because each run creates the tables twice.
    fn model_runs(&self) -> u32 {
        12
    }
}

#[test]
fn databases_of_two_servers_keep_the_contract_as_one_store() {
    let Some(servers) = servers() else { return };
    run_all(&Shards { servers, schemas: Mutex::default() });
}

#[test]
fn nodes_agree_on_one_store_whoever_is_first() {
    let Some(servers) = servers() else { return };
    let options = options();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let nodes: Vec<_> =
            (0..3).map(|_| scope.spawn(|| open(servers, &options).unwrap().info().id)).collect();
        nodes.into_iter().map(|node| node.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let swapped = open([servers[1], servers[0]], &options).err().unwrap().to_string();
    assert!(swapped.contains("shard 0") && swapped.contains("is shard 1 of the store"), "{swapped}");
    let alone = PostgresStore::open_with(&servers[1].url().parse().unwrap(), options).unwrap();
    let refused = refuse_lone_shard(&alone).unwrap_err().to_string();
    assert!(refused.contains("shard 1 of the 2 shards"), "{refused}");
}

#[test]
fn a_server_that_is_gone_takes_its_own_partitions_with_it_and_no_others() {
    let (Some(one), Some(mut other)) = (TestServer::start(&[]), TestServer::start(&[])) else { return };
    let options = PostgresOptions {
        deadline: Duration::from_secs(2),
        read_timeout: Duration::from_secs(2),
        ..options()
    };
    let store = open([&one, &other], &options).unwrap();
    let of = |shard| (0..).map(|n| format!("t{n}")).find(|t| store.partitions().of(t).0 == shard).unwrap();
    let (well, gone) = (of(0), of(1));
    let append = |topic: &str, id: u32| store.append_one(&Event::new(topic, id.to_string()).unwrap());
    append(&well, 0).unwrap();
    append(&gone, 0).unwrap();
    other.stop("QUIT");
    for id in 1..20 {
        let error = append(&gone, id).unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("shard 1"), "{error}");
        assert_eq!(append(&well, id).unwrap().outcome, Outcome::Stored);
        store.check_health().unwrap();
    }
    let all = Query::of(TopicSelector::All);
    let error = store.read(&all).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("shard 1"), "{error}");
    let stats = store.stats().unwrap();
    assert_eq!((stats.stored, stats.unavailable.len()), (20, 1));
    let outages = store.outages();
    assert_eq!(outages[0].partitions.iter().map(|partition| partition.0).collect::<Vec<_>>(), [1]);

    other.launch();
    await_that("it is back", || store.check_health().is_ok() && store.outages().is_empty());
    append(&gone, 1).unwrap();
    assert_eq!(append(&gone, 0).unwrap().outcome, Outcome::Duplicate);
    assert_eq!(store.read(&all).unwrap().events.len(), 22);
}

/// As by a transaction that somebody has left open.
#[test]
fn a_partition_whose_row_is_locked_takes_no_other_one_of_its_server_with_it() {
    let Some(servers) = servers() else { return };
    let options = PostgresOptions {
        lock_timeout: Duration::from_millis(50),
        partitions: Partitions::new(2),
        ..options()
    };
    let store = open(servers, &options).unwrap();
    let of =
        |partition| (0..).map(|n| format!("t{n}")).find(|t| store.partitions().of(t).0 == partition).unwrap();
    let (free, locked) = (of(2), of(3));
    let append = |topic: &str, id: u32| store.append_one(&Event::new(topic, id.to_string()).unwrap());
    let mut holder = OtherSession::new(servers[1]);
    holder.sql(&format!("BEGIN; SELECT FROM {}.partitions WHERE partition = 1 FOR UPDATE;", options.schema));
    for id in 0..20 {
        assert!(append(&locked, id).unwrap_err().is_retryable());
        assert_eq!(append(&free, id).unwrap().outcome, Outcome::Stored);
        store.check_health().unwrap();
        assert_eq!(store.outages()[0].partitions.iter().map(|it| it.0).collect::<Vec<_>>(), [3]);
    }
    holder.sql("ROLLBACK;");
    await_that("it takes events", || append(&locked, 0).is_ok());
    assert!(store.outages().is_empty());
}

/// Nothing is refused there, and nothing answered.
#[test]
fn a_server_that_does_not_move_is_refused_whole_once_an_append_and_a_check_were_late() {
    let (Some(one), Some(mut other)) = (TestServer::start(&[]), TestServer::start(&[])) else { return };
    let options = PostgresOptions {
        deadline: Duration::from_secs(2),
        connection_wait: Duration::from_secs(1),
        partitions: Partitions::new(4),
        ..options()
    };
    let store = open([&one, &other], &options).unwrap();
    let of =
        |partition| (0..).map(|n| format!("t{n}")).find(|t| store.partitions().of(t).0 == partition).unwrap();
    let append = |topic: &str, id: u32| store.append_one(&Event::new(topic, id.to_string()).unwrap());
    append(&of(4), 0).unwrap();
    other.freeze();
    assert!(append(&of(4), 1).unwrap_err().is_retryable());
    let out = || store.outages().into_iter().flat_map(|outage| outage.partitions).count();
    assert_eq!(out(), 1);
    store.check_health().unwrap();
    assert_eq!(out(), 4, "nobody has to wait for the others");
    assert!(append(&of(5), 1).unwrap_err().is_retryable());
    append(&of(0), 0).unwrap();
    other.thaw();
    await_that("it is back", || store.check_health().is_ok() && out() == 0);
    (4..8).for_each(|partition| _ = append(&of(partition), 2).unwrap());
}
