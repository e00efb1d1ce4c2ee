//! What shuttle lacks: time.

use std::cell::Cell;
use std::ops::Add;
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::sync::{Condvar, Mutex, MutexGuard};

std::thread_local! {
    /// Shuttle's threads are tasks of one real one.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// An instant of a clock that goes on when somebody has waited in vain, and at no other time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// How much the others do before it is over is the schedule's choice; a notification does not shorten it.
pub(crate) fn wait_for<'a, T>(
    _changed: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    drop(guard);
    NOW.set(NOW.get() + limit);
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
