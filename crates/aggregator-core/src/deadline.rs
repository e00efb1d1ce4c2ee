//! How long the caller of a read waits for its answer.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::StoreError;

thread_local! {
    static CURRENT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// The instant after which nobody waits for the answer to a read.
///
/// A deadline belongs to a call and not to a store. The time that a request has waited for its turn counts, and
/// an export or a check, which reads everything on purpose, has no deadline. The caller opens a
/// [scope](Self::scope) around its call, and the store asks for the [current](Self::current) deadline on the
/// thread that called it.
///
/// ```
/// use std::time::Duration;
/// use aggregator_core::{Deadline, DedupStore, MemoryStore};
///
/// let store = MemoryStore::default();
/// assert!(Deadline::after(Duration::from_secs(10)).scope(|| store.stats()).is_ok());
/// let late = Deadline::after(Duration::ZERO).scope(|| store.stats());
/// assert!(late.unwrap_err().is_retryable());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// This long from now.
    pub fn after(time: Duration) -> Self {
        const FAR_AWAY: Duration = Duration::from_secs(30 * 365 * 86_400);
        let now = Instant::now();
        Self(now.checked_add(time).unwrap_or_else(|| now + FAR_AWAY))
    }

    /// The instant itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// How much time is left.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it is over.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs `call` with this deadline, in place of the one that the thread may have already.
    pub fn scope<T>(self, call: impl FnOnce() -> T) -> T {
        struct Restore(Option<Deadline>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self)));
        call()
    }

    /// The deadline of the call that this thread is in, if it has one.
    pub fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// For backends, between two pieces of work: refuses to go on once the current deadline has passed.
    ///
    /// # Errors
    /// [`Self::missed`].
    pub fn check(doing: &str) -> Result<(), StoreError> {
        match Self::current() {
            Some(deadline) if deadline.has_passed() => Err(Self::missed(doing)),
            _ => Ok(()),
        }
    }

    /// For backends: the error of a call that was not done in time.
    pub fn missed(doing: &str) -> StoreError {
        StoreError::unavailable(format!("{doing}: not done before the deadline of its caller"))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_deadline_holds_inside_its_scope_only() {
        let (outer, inner) =
            (Deadline::after(Duration::from_secs(60)), Deadline::after(Duration::from_secs(5)));
        assert_eq!(Deadline::current(), None);
        outer.scope(|| {
            assert_eq!(Deadline::current(), Some(outer));
            inner.scope(|| assert_eq!(Deadline::current(), Some(inner)));
            assert!(catch_unwind(|| inner.scope(|| panic!("on purpose"))).is_err());
            assert_eq!(Deadline::current(), Some(outer), "it is put back after a panic, too");
            std::thread::scope(|scope| scope.spawn(|| assert_eq!(Deadline::current(), None)).join().unwrap());
        });
        assert_eq!(Deadline::current(), None);
    }

    #[test]
    fn a_deadline_too_far_away_to_be_told_is_one_that_never_comes() {
        let never = Deadline::after(Duration::MAX);
        assert!(never.remaining() > Duration::from_secs(86_400));
        never.scope(|| Deadline::check("reading").unwrap());
    }
}
