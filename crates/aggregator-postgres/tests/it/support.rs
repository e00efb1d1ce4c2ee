//! A store of a test's own on the server all tests share.

use std::sync::atomic::{AtomicU32, Ordering};

use aggregator_core::store::conformance::Options;
use aggregator_core::{Event, Partitions};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

/// A schema nobody has used.
pub(crate) fn new_schema() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::SeqCst))
}

/// Options for a store with one partition in a schema of its own.
pub(crate) fn options() -> PostgresOptions {
    PostgresOptions { schema: new_schema(), partitions: Some(Partitions::ONE), ..PostgresOptions::default() }
}

pub(crate) fn open(server: &TestServer, options: &PostgresOptions) -> PostgresStore {
    PostgresStore::open_with(&server.url().parse().unwrap(), options.clone()).unwrap()
}

/// What the conformance suite asks for.
pub(crate) fn with(options: Options) -> PostgresOptions {
    PostgresOptions {
        clock: Some(options.clock),
        max_topics: options.max_topics,
        ..PostgresOptions::default()
    }
}

pub(crate) fn events(topic: &str, ids: impl IntoIterator<Item = u32>) -> Vec<Event> {
    ids.into_iter().map(|id| Event::new(topic, id.to_string()).unwrap()).collect()
}
