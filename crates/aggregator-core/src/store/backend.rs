//! What backends in other crates share with those in this one, and how to add one.
//!
//! # How to add a store
//!
//! 1. Implement the six methods of [`DedupStore`](super::DedupStore) that have no default. What it has to keep stands
//!    there, under *Contract*.
//! 2. Implement the traits of the capabilities it has, and hand them out: `fn watch(&self) -> Option<&dyn Watch>
//!    { Some(self) }`. Leave out the methods of all others.
//! 3. Implement [`Backend`](super::conformance::Backend) (feature `test-util`) in a test, say there what the store
//!    [lacks](super::conformance::Backend::lacks), and call [`run_all`](super::conformance::run_all).
//! 4. To serve it, call `aggregator_server::run` with it. To name it with `--store`, add a variant to `StoreLocation`
//!    of the server (`config/location.rs`), and its spelling to `FromStr` there: the compiler finds the other places.
//!
//! The crate `outside-backend` of this workspace does just that, with the traits in one file and the rows in two: copy
//! it. It depends on this crate without its default features, so it builds no SQLite.
//!
//! # What is here
//!
//! [`check_partition`], [`too_many_topics`], [`check_seqs`] and others of that name refuse what every store refuses. [`CommitNotifier`] is a whole
//! [`Watch`](super::Watch). [`transfer`](super::transfer) decides what an import may add.
//! [`Deadline::check`](crate::Deadline::check) ends a read whose caller waits no longer; call it when a read begins and
//! while it runs. A backend that the server's `kill` tests run over calls
//! [`fail_point::decided`](crate::fail_point::decided) with the receipts just before the commit; others leave it out.
//!
//! A page is made in three steps. [`Query::positions`](crate::Query::positions) says where every partition
//! goes on, [`check_positions`] refuses what would skip events, then a [`Scanner`] per partition takes rows
//! until it is full, and [`merge`] makes the page. A backend that fetches payloads apart scans entries of its
//! own ([`Entry`]) and merges them with [`merge_entries`]. All of it is of one snapshot, the [`Fingerprint`] of the row
//! that each position stands at as well.

pub use super::amend::check_amended;
pub use super::maintain::check_seqs;
pub use super::memory::too_many_topics;
pub use super::page::{Ends, Entry, Merged, Scan, Scanner, check_positions, merge, merge_entries};
pub use super::records::{check_key, check_list, check_writes};
pub use super::{CommitNotifier, DEFAULT_MAX_TOPICS, check_partition};
pub use crate::cursor::{Anchor, Fingerprint, Position};
