//! The PostgreSQL store against the contract, and against what happens to databases.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod conformance;
mod support;
