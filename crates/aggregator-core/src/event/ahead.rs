//! What a store finds out about an event before it is appended.

use std::num::NonZeroU64;

/// A note of one open store about an event, which travels with it: see [`crate::DedupStore::prepare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Which open store says so. It means nothing to others.
    pub(crate) by: NonZeroU64,
    pub(crate) topic_id: i64,
    /// Of its identity.
    pub(crate) fingerprint: u64,
    /// No row up to this offset has the fingerprint; 0 if one may.
    pub(crate) absent_through: u64,
}
