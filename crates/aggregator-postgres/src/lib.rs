//! The aggregator's store over PostgreSQL, and over engines that speak its protocol.
//!
//! Any number of processes (nodes) share one database and keep no lasting state outside it: a node may be killed, and
//! another one started, at any time. Nodes do not agree on who appends to which partition. Each append locks the
//! partition's row until it commits, so the commits of a partition are in the order of their offsets.
//!
//! ```no_run
//! use aggregator_core::{DedupStoreExt, Event};
//! use aggregator_postgres::PostgresStore;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = PostgresStore::open("postgres://me@localhost/events")?;
//! store.append_one(&Event::new("orders.created", "order-1")?)?;
//! # Ok(())
//! # }
//! ```
//!
//! The store runs an asynchronous client on its own runtime, which can send the statements of a transaction without
//! waiting for each answer. Every call still blocks until it is done, as the contract of
//! [`DedupStore`](aggregator_core::DedupStore) asks.

mod amend;
mod append;
mod citus;
mod columns;
mod commit_notifier;
mod connection;
mod fault;
mod forget;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod import;
mod partition_state;
mod purge;
mod read;
mod records;
mod schema;
mod store;
#[cfg(feature = "test-util")]
pub mod test_server;

pub use crate::connection::options::PostgresOptions;
pub use crate::connection::url::PostgresUrl;
pub use crate::store::PostgresStore;
