//! What requests and workers are joined with: the standard library's parts, or, under `--cfg shuttle`, parts
//! whose every schedule the tests can explore (`worker/shuttle_tests.rs`).

#[cfg(shuttle)]
mod explored;

#[cfg(shuttle)]
pub(crate) use explored::{Instant, mpsc, thread};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic, mpsc};
#[cfg(not(shuttle))]
pub(crate) use std::thread;
#[cfg(not(shuttle))]
pub(crate) use std::time::Instant;
