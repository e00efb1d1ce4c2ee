//! The PostgreSQL store against the contract, and against what happens to databases.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod across;
mod amend;
mod attempts;
mod citus;
mod conformance;
mod edges;
mod forget;
mod golden;
mod injected;
mod limits;
mod listener;
mod moving;
mod nodes;
mod opening;
mod outages;
mod plans;
mod proxy;
mod records;
mod restored;
mod sharded;
mod skipped;
mod standby;
mod support;
mod tls;
mod topics;
