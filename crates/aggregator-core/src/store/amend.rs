//! Taking back, on purpose, what a store otherwise keeps for ever.

use std::ops::ControlFlow;

use crate::store::Seen;
use crate::{Identity, StoreError};

/// The most identities that one call of [`Amend`] takes.
pub const MAX_IDS_PER_AMEND: usize = 1_000;

/// What a store can take back of single events. See [`DedupStore::amend`](super::DedupStore::amend).
///
/// Both calls are one commit for each partition, and as durable as an append. They may be repeated.
pub trait Amend: Send + Sync {
    /// Removes the payloads of the events that are, or were, stored under these identities: `result[i]` is about
    /// `ids[i]`. An event keeps its place. Its payload is then [`ERASED_PAYLOAD`](crate::event::ERASED_PAYLOAD), and it
    /// has neither a content type nor attributes. Of a purged event, the digest of the payload goes. Its identity stays, so
    /// repeats are still found. None of them is a conflict any more, because there is nothing to compare them with.
    ///
    /// `Ok` means that the payloads are nowhere any more in what the store itself writes, as far as the store's
    /// documentation says. `on_progress` is told how far that is, because a store may have to look through all of its file. If
    /// it breaks, the rest is left undone.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for more than [`MAX_IDS_PER_AMEND`] identities; [`StoreError::Unavailable`] if something
    /// keeps the store from removing the last traces now, or `on_progress` broke. Otherwise whatever the backend meets.
    /// After any error, repeat the call: some payloads may be gone already, and traces of them may be left.
    fn erase(
        &self,
        ids: &[Identity],
        on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError>;

    /// Lets these identities come again: `result[i]` is what was known of `ids[i]`, and `None` if it was not seen or
    /// is released already. The event that has the identity so far stays in the stream with its payload, but the next event
    /// with the identity is no repeat of it: it is stored as a new one.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for more than [`MAX_IDS_PER_AMEND`] identities; otherwise whatever the backend meets.
    fn release(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError>;
}

/// What was erased under one identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Erased {
    /// The seqs of all events that are or were stored under the identity, ascending. None of them has its payload any more.
    /// Empty if the identity was never seen, or is all that was ever known.
    pub seqs: Vec<u64>,
}

impl Erased {
    /// Of the events with these seqs.
    pub fn new(seqs: Vec<u64>) -> Self {
        Self { seqs }
    }
}

/// How far an erasure is. See [`Amend::erase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EraseProgress {
    /// The payloads are gone from their events. Now the store looks through its files for what is left of them.
    Overwriting {
        /// How many bytes it has looked through.
        bytes: u64,
        /// How many bytes there are.
        total: u64,
    },
}

/// Refuses too many identities for a call of [`Amend`]. Every backend calls it first.
///
/// # Errors
/// [`StoreError::Invalid`] for the identities.
pub fn check_amended(ids: &[Identity]) -> Result<(), StoreError> {
    if ids.len() > MAX_IDS_PER_AMEND {
        return Err(StoreError::invalid("ids", format!("must be at most {MAX_IDS_PER_AMEND}")));
    }
    Ok(())
}
