//! One shard: calls it, and keeps its failures from being those of the whole.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::breaker::{Breaker, Cause};
use crate::store::{DedupStore, TopicQuery};
use crate::{Deadline, StoreError};

/// A probe that would have less time than this is left for the next check.
const LEAST_PROBE: Duration = Duration::from_millis(500);
/// How many reads in a row fail before further ones are not let through. A single one may have come while all readers were
/// busy.
const FAILED_READS: u32 = 3;

pub(super) struct Shard {
    store: Arc<dyn DedupStore>,
    /// Its number and where it is.
    name: String,
    /// Whether it takes appends and writes of records.
    writes: Breaker,
    reads: Breaker,
    /// A read was not done before the deadline of its caller, or another shard is out: this one may be slow, or gone.
    is_suspect: AtomicBool,
}

/// Whether a shard takes events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Well,
    Ill(Cause, String),
}

impl Shard {
    pub(super) fn new(store: Arc<dyn DedupStore>, name: String) -> Self {
        Self {
            store,
            name,
            writes: Breaker::new(1),
            reads: Breaker::new(FAILED_READS),
            is_suspect: AtomicBool::new(false),
        }
    }

    /// For what asks nobody: what the store says of itself, and its capabilities.
    pub(super) fn store(&self) -> &dyn DedupStore {
        &*self.store
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Why it takes no events, or cannot be read; `None` if neither is known of.
    pub(super) fn outage(&self) -> Option<String> {
        self.writes.outage().or_else(|| self.reads.outage()).map(|(_, reason)| reason)
    }

    /// Has the next check read from it, even if nothing is known to be wrong.
    pub(super) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Stores something. If the store panics, nobody knows what it has left undone, and it takes nothing any more.
    pub(super) fn write<T>(
        &self,
        call: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let turn = self.writes.enter().map_err(StoreError::unavailable)?;
        let called = catch_unwind(AssertUnwindSafe(|| call(&*self.store)));
        let error = match called {
            Ok(Ok(done)) => {
                turn.succeeded();
                return Ok(done);
            }
            Ok(Err(error)) => error,
            Err(panic) => StoreError::Poisoned { reason: format!("it panicked: {}", message(&*panic)) },
        };
        match cause(&error) {
            Some(cause) => turn.failed(cause, self.reason(&error)),
            // It has refused the input, so it answers.
            None => turn.succeeded(),
        }
        Err(self.translate(error))
    }

    /// Reads something, until the deadline of the caller.
    pub(super) fn read<T>(
        &self,
        call: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let turn = self.reads.enter().map_err(StoreError::unavailable)?;
        let error = match call(&*self.store) {
            Ok(read) => {
                turn.succeeded();
                return Ok(read);
            }
            Err(error) => error,
        };
        match cause(&error) {
            // Whatever a read finds damaged, the dedup index cannot be trusted either. Other reads may go on.
            Some(Cause::Stopped) => self.writes.note_failure(Cause::Stopped, self.reason(&error)),
            Some(_) if Deadline::current().is_some_and(Deadline::has_passed) => {
                self.suspect();
            }
            Some(cause) => turn.failed(cause, self.reason(&error)),
            None => turn.succeeded(),
        }
        Err(self.translate(error))
    }

    /// Does what an operator or a timer asks for. A failure of it says little about whether the store takes events: erasing,
    /// for example, waits for readers. But a store that does not answer is not asked.
    pub(super) fn maintain<T>(
        &self,
        call: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some((_, reason)) = self.reads.outage() {
            return Err(StoreError::unavailable(reason));
        }
        call(&*self.store).map_err(|error| {
            if cause(&error) == Some(Cause::Stopped) {
                self.writes.note_failure(Cause::Stopped, self.reason(&error));
            }
            self.translate(error)
        })
    }

    /// Looks whether it takes events. If it did not, it is read from, when it is time to try.
    pub(super) fn check(&self, probes: Deadline) -> Condition {
        let checked = catch_unwind(AssertUnwindSafe(|| self.store.check_health()));
        let checked = checked.unwrap_or_else(|panic| {
            Err(StoreError::Poisoned { reason: format!("its check panicked: {}", message(&*panic)) })
        });
        match checked {
            Ok(()) => self.probe_if_due(probes),
            Err(error) => {
                self.writes.note_failure(cause(&error).unwrap_or(Cause::Unavailable), self.reason(&error));
            }
        }
        self.writes.outage().map_or(Condition::Well, |(cause, reason)| Condition::Ill(cause, reason))
    }

    fn probe_if_due(&self, probes: Deadline) {
        // All shards share the time.
        if probes.remaining() < LEAST_PROBE {
            return;
        }
        let is_suspect = self.is_suspect.swap(false, Ordering::Relaxed) && self.outage().is_none();
        if !(is_suspect || self.writes.is_due() || self.reads.is_due()) {
            return;
        }
        let one = TopicQuery { limit: 1, ..TopicQuery::default() };
        match probes.scope(|| self.store.topics(&one)) {
            Ok(_) => {
                self.writes.close();
                self.reads.close();
            }
            Err(error) => {
                let (cause, reason) = (cause(&error).unwrap_or(Cause::Unavailable), self.reason(&error));
                self.writes.note_failure(cause, reason.clone());
                if cause != Cause::Stopped {
                    self.reads.note_failure(cause, reason);
                }
            }
        }
    }

    /// What is told of a failure, with the way out.
    fn reason(&self, error: &StoreError) -> String {
        let name = &self.name;
        match error {
            StoreError::Unavailable { reason, .. } => format!("{name}: {reason}"),
            StoreError::NoSpace { reason, .. } => {
                format!("{name}: no space left: {reason}; make room on its disk, and it goes on by itself")
            }
            error if error.is_fatal() => {
                format!("{name} takes no events until a restart: {error}; the other shards go on")
            }
            error => format!("{name}: {error}"),
        }
    }

    /// Of the whole, what a shard cannot do now is unavailable, and nothing else: the other shards go on.
    fn translate(&self, error: StoreError) -> StoreError {
        if cause(&error).is_none() {
            return error;
        }
        let reason = self.reason(&error);
        let source = match error {
            StoreError::Unavailable { source, .. }
            | StoreError::NoSpace { source, .. }
            | StoreError::Corrupt { source, .. } => source,
            _ => None,
        };
        StoreError::Unavailable { reason, source }
    }
}

/// What an error says of the shard that it comes from; `None` if it is about the input.
fn cause(error: &StoreError) -> Option<Cause> {
    match error {
        StoreError::Unavailable { .. } => Some(Cause::Unavailable),
        StoreError::NoSpace { .. } => Some(Cause::NoSpace),
        error if error.is_fatal() => Some(Cause::Stopped),
        _ => None,
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}
