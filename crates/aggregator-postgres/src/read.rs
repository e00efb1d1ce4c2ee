//! Everything that reads events: pages, lookups, topics and totals, whole rows, and verification.

pub(crate) mod bytes;
pub(crate) mod catalog;
pub(crate) mod lookup;
pub(crate) mod pages;
pub(crate) mod rows;
mod scan;
pub(crate) mod verify;
