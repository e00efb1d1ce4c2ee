//! The aggregator's store over PostgreSQL, and over engines that speak its protocol.
//!
//! Any number of processes (nodes) share one database, and keep nothing that matters outside of it: a node
//! may be killed, and another one started, at any time. Which partition a node appends to is not agreed on; the
//! row of the partition is locked for the length of an append, and so the commits of a partition are in the order
//! of their offsets.
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
//! Inside is an asynchronous client on a runtime of its own, so that the statements of a transaction can be sent
//! without waiting for each other; every call blocks until it is done, as [`DedupStore`](aggregator_core::DedupStore) has it.

mod append;
mod columns;
mod commit_notifier;
mod connection;
mod fault;
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
