//! What a store notes about an event for itself, before the event is appended.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who notes and reads [`Hint`]s: one open store. Distinct within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintOwner(NonZeroU64);

impl HintOwner {
    /// An owner that differs from all others.
    ///
    /// # Panics
    /// After 2^64 calls.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        Self(NonZeroU64::new(number).expect("nobody opens 2^64 stores"))
    }
}

/// A store's note about an event, which travels with it: see [`DedupStore::prepare`](crate::DedupStore::prepare). It
/// means something to its owner alone, and a store must be right without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    owner: HintOwner,
    words: [u64; 3],
}

impl Hint {
    /// `words` mean what their owner wants.
    pub fn new(owner: HintOwner, words: [u64; 3]) -> Self {
        Self { owner, words }
    }

    /// The words, if `reader` is the owner.
    pub fn words(self, reader: HintOwner) -> Option<[u64; 3]> {
        (self.owner == reader).then_some(self.words)
    }
}
