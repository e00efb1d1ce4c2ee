//! Everything that reads events: pages, lookups, topics and totals, whole rows, and verification.

pub(crate) mod bytes;
pub(crate) mod catalog;
pub(crate) mod lookup;
pub(crate) mod pages;
pub(crate) mod rows;
mod scan;
pub(crate) mod verify;

/// Begins a transaction in which all statements see the same state.
pub(crate) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
