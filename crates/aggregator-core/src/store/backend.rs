//! What backends outside of this crate share with those in it: see [`super::DedupStore`] for what they have
//! to keep, and [`super::conformance`] (feature `test-util`) for how it is proved.
//!
//! A page is made in three steps. [`Query::positions`](crate::Query::positions) says where every partition
//! goes on, [`check_positions`] refuses what would skip events, then a [`Scanner`] per partition takes rows
//! until it is full, and [`merge`] makes the page. A backend that fetches payloads apart scans entries of its
//! own ([`Entry`]) and merges them with [`merge_entries`].

pub use super::memory::too_many_topics;
pub use super::page::{Ends, Entry, Merged, Scan, Scanner, check_positions, merge, merge_entries};
pub use super::records::{check_key, check_list, check_writes};
pub use super::{CommitNotifier, DEFAULT_MAX_TOPICS, check_partition};
pub use crate::cursor::Position;
