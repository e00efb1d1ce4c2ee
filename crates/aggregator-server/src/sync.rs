//! The locks, atomics, threads and clock that join requests and workers. They are the standard library's, or shuttle's
//! under `--cfg shuttle`, so that tests can explore their schedules (`publish/shuttle_tests.rs`). No schedule
//! depends on plain counters and measured times, so these use `std`.

#[cfg(shuttle)]
mod explored;

#[cfg(shuttle)]
pub(crate) use explored::{Instant, wait_for};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(shuttle)]
pub(crate) use shuttle::thread;
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(shuttle))]
pub(crate) use std::thread;
#[cfg(not(shuttle))]
pub(crate) use std::time::Instant;

/// Waits until it is notified, or for so long. `mutex` is that of the guard.
#[cfg(not(shuttle))]
pub(crate) fn wait_for<'a, T>(
    changed: &Condvar,
    _mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    limit: std::time::Duration,
) -> MutexGuard<'a, T> {
    changed.wait_timeout(guard, limit).unwrap_or_else(std::sync::PoisonError::into_inner).0
}
