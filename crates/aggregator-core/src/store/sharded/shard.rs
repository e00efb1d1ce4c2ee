//! One shard: calls it, and keeps its failures from being those of the whole.
//!
//! Each partition of it fails alone, too: a part of a cluster can be out, or one row be locked. A partition whose append
//! failed is refused at once, until an append of its own succeeds. All of the shard is refused if it has stopped, if its
//! own check fails, or if it answers nobody.
//!
//! **What a server that is gone holds.** Its appends wait for a connection or an answer as long as the store lets them, each of
//! another partition, and never more of them than the shard's share of the workers. The first one that fails makes the shard
//! suspect. The next check, a second later, asks for its totals, for two seconds at most, and from then on all partitions
//! are refused at once. What began until then ends after one such wait. If a check finds nothing, because reads are answered
//! and commits are not, each partition waits once. Then one of them at a time tries again, which holds one worker,
//! whether the shard has 16 partitions or 64.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::breaker::{Breaker, Cause, Turn};
use super::writes::{LatestWrite, Try, WriteState};
use crate::store::{DedupStore, Outage};
use crate::{Deadline, Partition, StoreError};

/// A probe that would have less time than this is left for the next check.
const LEAST_PROBE: Duration = Duration::from_millis(500);
/// How many reads in a row fail before further ones are not let through. A single one may have come while all readers were
/// busy.
const FAILED_READS: u32 = 3;

pub(super) struct Shard {
    store: Arc<dyn DedupStore>,
    /// Its number and where it is.
    name: String,
    /// Whether it takes appends, by the number of the partition.
    partitions: Vec<Breaker>,
    /// Whether it takes writes of records.
    records: Breaker,
    /// Whether it takes any of these. Checks open and close it, and no calls, but for what stops the shard.
    whole: Breaker,
    reads: Breaker,
    /// Whether a partition is being tried again.
    is_trying: AtomicBool,
    latest_write: LatestWrite,
    /// A read was not done before the deadline of its caller, a write has failed, or another shard is out: this one may be
    /// slow, or gone.
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
            partitions: store.partitions().iter().map(|_| Breaker::new(1)).collect(),
            store,
            name,
            records: Breaker::new(1),
            whole: Breaker::new(1),
            reads: Breaker::new(FAILED_READS),
            is_trying: AtomicBool::new(false),
            latest_write: LatestWrite::default(),
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

    /// Why all of it takes no events, or cannot be read; `None` if neither is known of.
    pub(super) fn outage(&self) -> Option<String> {
        self.whole.outage().or_else(|| self.reads.outage()).map(|(_, reason)| reason)
    }

    /// What is out, by the shard's own numbers of partitions, and no partition twice.
    pub(super) fn outages(&self) -> Vec<Outage> {
        match self.outage() {
            Some(reason) => vec![Outage::new(self.store.partitions().iter().collect(), reason)],
            None => self.parts_out(),
        }
    }

    /// What the store says of its parts, and the partitions besides that took no event.
    fn parts_out(&self) -> Vec<Outage> {
        let mut told = self.store.outages();
        told.iter_mut().for_each(|outage| outage.reason = format!("{}: {}", self.name, outage.reason));
        let mut found: Vec<Outage> = Vec::new();
        for (partition, breaker) in self.store.partitions().iter().zip(&self.partitions) {
            let Some((_, reason)) = breaker.recent_outage() else { continue };
            if told.iter().any(|outage| outage.partitions.contains(&partition)) {
                continue;
            }
            match found.iter_mut().find(|outage| outage.reason == reason) {
                Some(outage) => outage.partitions.push(partition),
                None => found.push(Outage::new(vec![partition], reason)),
            }
        }
        told.append(&mut found);
        told
    }

    /// Has the next check read from it, even if nothing is known to be wrong.
    pub(super) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Stores events of a partition.
    pub(super) fn append<T>(
        &self,
        partition: Partition,
        call: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let is_told = || self.store.outages().iter().any(|outage| outage.partitions.contains(&partition));
        self.write(&self.partitions[usize::from(partition.0)], is_told, call)
    }

    pub(super) fn write_records<T>(
        &self,
        call: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write(&self.records, || false, call)
    }

    /// Stores something. If the store panics, nobody knows what it has left undone, and it takes nothing any more. `is_told`
    /// says whether the store knows by itself that this part is out.
    fn write<T>(
        &self,
        breaker: &Breaker,
        is_told: impl FnOnce() -> bool,
        call: impl FnOnce(&dyn DedupStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (turn, _try) = self.begin_write(breaker).map_err(StoreError::unavailable)?;
        let called = catch_unwind(AssertUnwindSafe(|| call(&*self.store)));
        let called = called.unwrap_or_else(|panic| {
            Err(StoreError::Poisoned { reason: format!("it panicked: {}", message(&*panic)) })
        });
        match called.as_ref().err().map(|error| (cause(error), error)) {
            // If it has refused the input, it answers.
            None | Some((None, _)) => {
                self.latest_write.note(WriteState::Answered);
                turn.succeeded();
            }
            Some((Some(Cause::Stopped), error)) => self.stop(error),
            // It refuses that part at once, and says itself when it is back.
            Some(_) if is_told() => {}
            Some((Some(cause), error)) => {
                if cause == Cause::Unavailable {
                    self.latest_write.note(WriteState::Failed);
                }
                turn.failed(cause, self.reason(error));
                self.suspect();
            }
        }
        called.map_err(|error| self.translate(error))
    }

    /// Lets a write through, or says why not.
    fn begin_write<'s>(&'s self, breaker: &'s Breaker) -> Result<(Turn<'s>, Option<Try<'s>>), String> {
        if let Some((_, reason)) = self.whole.outage() {
            return Err(reason);
        }
        let turn = breaker.enter()?;
        if !turn.is_probe() {
            return Ok((turn, None));
        }
        match Try::begin(&self.is_trying) {
            Some(one) => Ok((turn, Some(one))),
            None => Err(breaker.outage().map_or_else(|| self.name.clone(), |(_, reason)| reason)),
        }
    }

    /// It takes nothing any more, whatever happens.
    fn stop(&self, error: &StoreError) {
        self.whole.note_failure(Cause::Stopped, self.reason(error));
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
            Some(Cause::Stopped) => self.stop(&error),
            // It may have been slow alone, or have asked for a part that is out, as the store knows. The next check finds out.
            Some(_)
                if Deadline::current().is_some_and(Deadline::has_passed)
                    || !self.store.outages().is_empty() =>
            {
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
                self.stop(&error);
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
                self.whole.note_failure(cause(&error).unwrap_or(Cause::Unavailable), self.reason(&error));
            }
        }
        self.condition()
    }

    fn condition(&self) -> Condition {
        if let Some((cause, reason)) = self.whole.outage() {
            return Condition::Ill(cause, reason);
        }
        let outages = self.parts_out();
        let is_out =
            |partition: Partition| outages.iter().any(|outage| outage.partitions.contains(&partition));
        match outages.first() {
            // Even if they lack room: no check would find out that there is some again, but only an append.
            Some(first) if self.store.partitions().iter().all(is_out) => {
                Condition::Ill(Cause::Unavailable, first.reason.clone())
            }
            _ => Condition::Well,
        }
    }

    fn probe_if_due(&self, probes: Deadline) {
        // All shards share the time.
        if probes.remaining() < LEAST_PROBE {
            return;
        }
        let is_suspect = self.is_suspect.swap(false, Ordering::Relaxed) && self.whole.outage().is_none();
        if !(is_suspect || self.whole.is_due() || self.reads.is_due()) {
            return;
        }
        // A store of which a part is out has totals of the rest. A list of topics would fail as long as that part is out.
        match probes.scope(|| self.store.stats()) {
            Ok(_) => {
                self.latest_write.forget_failure();
                self.reads.close();
                self.reopen();
            }
            Err(error) => self.note_failed_probe(&error, probes.has_passed()),
        }
    }

    /// A probe is a read. Whether writes fail as well, the latest one says; without one, an answer that came in time.
    fn note_failed_probe(&self, error: &StoreError, is_late: bool) {
        let (cause, reason) = (cause(error).unwrap_or(Cause::Unavailable), self.reason(error));
        if cause == Cause::Stopped {
            return self.stop(error);
        }
        let is_gone =
            self.latest_write.is(WriteState::Failed) || self.latest_write.is(WriteState::Unknown) && !is_late;
        if is_late && !is_gone {
            // As any read, it may have found all readers busy.
            if let Ok(turn) = self.reads.enter() {
                turn.failed(cause, reason.clone());
            }
        } else {
            self.reads.note_failure(cause, reason.clone());
        }
        if is_gone {
            self.whole.note_failure(cause, reason);
        } else {
            self.reopen();
        }
    }

    /// Has all partitions tried that failed before the shard was out, or with it: it answers.
    fn reopen(&self) {
        if self.whole.outage().is_some() {
            self.whole.close();
            self.partitions.iter().chain([&self.records]).for_each(Breaker::close);
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
