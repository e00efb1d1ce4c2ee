//! What a shard remembers of its writes, for all its partitions together.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What became of the latest append or write of records: of writes, it says more than any read.
#[derive(Default)]
pub(super) struct LatestWrite(AtomicU8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum WriteState {
    Unknown,
    Answered,
    Failed,
}

impl LatestWrite {
    pub(super) fn is(&self, state: WriteState) -> bool {
        self.0.load(Ordering::Relaxed) == state as u8
    }

    pub(super) fn note(&self, state: WriteState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    /// The shard answers now, so a failure of before says nothing of what comes.
    pub(super) fn forget_failure(&self) {
        let [failed, unknown] = [WriteState::Failed, WriteState::Unknown].map(|state| state as u8);
        let _ = self.0.compare_exchange(failed, unknown, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The one try of a shard that is under way. Another one waits until this is dropped.
pub(super) struct Try<'s>(&'s AtomicBool);

impl<'s> Try<'s> {
    /// `None` if there is one already.
    pub(super) fn begin(is_trying: &'s AtomicBool) -> Option<Self> {
        (!is_trying.swap(true, Ordering::AcqRel)).then(|| Self(is_trying))
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
