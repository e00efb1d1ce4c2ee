//! The suite that every backend runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aggregator_core::store::conformance::{Backend, Capability, CaseOptions, run_all};
use aggregator_core::{DedupStore, Partitions, StoreId};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{new_schema, with};

struct Postgres {
    server: &'static TestServer,
    partitions: Partitions,
    schemas: Mutex<HashMap<StoreId, String>>,
}

impl Postgres {
    fn open_in(&self, schema: String, options: CaseOptions) -> Arc<dyn DedupStore> {
        let options =
            PostgresOptions { schema: schema.clone(), partitions: Some(self.partitions), ..with(options) };
        let store = PostgresStore::open_with(&self.server.url().parse().unwrap(), options).unwrap();
        self.schemas.lock().unwrap().insert(store.info().id, schema);
        Arc::new(store)
    }
}

impl Backend for Postgres {
    fn open(&self, options: CaseOptions) -> Arc<dyn DedupStore> {
        self.open_in(new_schema(), options)
    }

    fn reopen(&self, store: Arc<dyn DedupStore>, options: CaseOptions) -> Option<Arc<dyn DedupStore>> {
        let schema = self.schemas.lock().unwrap()[&store.info().id].clone();
        assert_eq!(Arc::strong_count(&store), 1, "the case kept a handle");
        drop(store);
        Some(self.open_in(schema, options))
    }

    /// Citus commits to one partition at a time.
    fn lacks(&self) -> &[Capability] {
        let citus = self.server.sql("SELECT count(*) FROM pg_extension WHERE extname = 'citus'");
        if citus == "0" { &[] } else { &[Capability::Across] }
    }

    /// Few, because each run creates the tables.
    fn model_runs(&self) -> u32 {
        24
    }
}

fn keeps_the_contract(partitions: u16) {
    let Some(server) = TestServer::shared() else { return };
    run_all(&Postgres {
        server,
        partitions: Partitions::new(partitions).unwrap(),
        schemas: Mutex::default(),
    });
}

#[test]
fn one_partition_keeps_the_contract() {
    keeps_the_contract(1);
}

#[test]
fn four_partitions_keep_the_contract() {
    keeps_the_contract(4);
}
