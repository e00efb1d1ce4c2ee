//! The thread that applies the rules, run after run.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aggregator_core::{DedupStore, StoreError, Timestamp};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::lease::Lease;
use super::pace::Pace;
use super::run::{RuleTally, Run, RunError, Tally, Throttle};
use super::sizes::Sizes;
use super::{Retention, keeper};
use crate::app::App;
use crate::health::{self, Health};

/// Ends the waits of the thread.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits for so long, or until it is stopped. Returns whether it is.
    pub(super) fn wait(&self, span: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(stopped, span, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

struct StopWhenDropped(Arc<Stop>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Applies the rules until the sender of `stopped` is dropped. Nothing holds the store afterwards.
pub(crate) async fn follow(app: Arc<App>, mut stopped: watch::Receiver<()>) {
    if app.retention.rules.is_empty() {
        return;
    }
    // Also if the server is dropped in the middle: a runtime waits for its threads.
    let stop = StopWhenDropped(Arc::default());
    let stopping = Arc::clone(&stop.0);
    let thread = tokio::task::spawn_blocking(move || {
        Engine::new(&app.retention, &*app.store, &app.health).follow(&stopping);
    });
    let _ = stopped.changed().await;
    stop.0.stop();
    if thread.await.is_err() {
        error!("the thread of retention panicked: no rule was applied since");
    }
}

/// What stays from run to run.
pub(super) struct Engine<'e> {
    retention: &'e Retention,
    store: &'e dyn DedupStore,
    health: &'e Health,
    sizes: Sizes,
    pace: Pace,
    fails: bool,
    /// Whether it was told that free space stays.
    keeps_space: bool,
}

impl<'e> Engine<'e> {
    pub(super) fn new(retention: &'e Retention, store: &'e dyn DedupStore, health: &'e Health) -> Self {
        Self {
            retention,
            store,
            health,
            sizes: Sizes::default(),
            pace: Pace::default(),
            fails: false,
            keeps_space: false,
        }
    }

    fn follow(&mut self, stop: &Stop) {
        let every = self.retention.every;
        // A server that begins has other things to do.
        let mut wait = every.min(Duration::from_secs(5));
        while !self.wait(stop, wait) {
            if matches!(self.health.state(), health::State::Failed(_)) {
                wait = every;
                continue;
            }
            let begun = Instant::now();
            let ran = self.run_if_it_is_this_nodes_turn(stop);
            let is_unfinished = matches!(&ran, Ok(Some(tally)) if tally.is_unfinished);
            if let Ok(Some(tally)) = &ran {
                let found = |rule: &RuleTally| rule.found + rule.forgotten + rule.pending_identities;
                let found = tally.rules.iter().map(found).sum();
                self.pace.ran(found, begun.elapsed() >= every);
            }
            let has_freed = matches!(&ran, Ok(Some(tally)) if tally.rules.iter().any(RuleTally::has_freed));
            self.note(ran);
            // Nothing more comes of the rules now. On a full disk, free pages are what events are taken with.
            if has_freed && !is_unfinished && self.health.no_space().is_none() {
                self.give_back(stop);
            }
            wait = if is_unfinished { Duration::ZERO } else { every.saturating_sub(begun.elapsed()) };
        }
    }

    /// Gives free space of the store's file back to the file system, if that is asked for.
    fn give_back(&mut self, stop: &Stop) {
        let (Some(keep), Some(maintain)) = (self.retention.free_space, self.store.maintain()) else { return };
        let mut on_turn =
            || if stop.wait(Duration::ZERO) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        match maintain.give_back(keep, &mut on_turn) {
            Ok(bytes) => {
                self.keeps_space = false;
                if bytes > 0 {
                    info!(bytes, "free space went back to the file system");
                }
            }
            Err(error) => {
                if error.is_fatal() {
                    self.health.fail(error.to_string());
                }
                if !std::mem::replace(&mut self.keeps_space, true) {
                    warn!(%error, "free space of the store cannot be given back to the file system now");
                }
            }
        }
    }

    /// Waits for so long, on a full disk for a second at most. Returns whether it is stopped.
    fn wait(&self, stop: &Stop, span: Duration) -> bool {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let until = Instant::now() + span;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if stop.wait(left.min(LOOK_EVERY)) {
                return true;
            }
            if left <= LOOK_EVERY || self.health.no_space().is_some() {
                return false;
            }
        }
    }

    /// Runs once; `None` where another node does it.
    pub(super) fn run_if_it_is_this_nodes_turn(&mut self, stop: &Stop) -> Result<Option<Tally>, RunError> {
        let (retention, store) = (self.retention, self.store);
        let records = store.records();
        let mut lease = None;
        // A store that one process uses at a time needs none. So retention does not have to write a record before it makes
        // room on a full disk.
        if let (true, Some(records)) = (store.info().shared, records) {
            match Lease::take(records, &retention.node, retention.every) {
                Ok(None) => return Ok(None),
                Ok(taken) => lease = taken,
                Err(StoreError::NoSpace { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let now = match records {
            Some(records) => records.now()?,
            None => Timestamp::now(),
        };
        let Some(maintain) = store.maintain() else {
            let kind = store.info().kind;
            return Err(StoreError::Unsupported { kind, operation: "purge" }.into());
        };
        let throttle =
            Throttle { pace: &mut self.pace, stop, health: self.health, lease, owed: Duration::ZERO };
        let saved = Instant::now();
        let mut run = Run { retention, store, maintain, records, sizes: &mut self.sizes, throttle, saved };
        let ran = run.run(now);
        let lease = run.throttle.lease.take();
        let topics =
            ran.as_ref().ok().map(|tally| tally.rules.iter().map(|rule| rule.topics).collect::<Vec<_>>());
        let error = match &ran {
            Err(RunError::Store(error)) => Some(error.to_string()),
            _ => None,
        };
        retention.ledger().ended(now, topics.as_deref(), error.as_deref());
        if let Some(records) = records
            && let Err(error) = keeper::save(records, retention)
        {
            // The next run saves it.
            debug!(%error, "the counts of retention cannot be written now");
        }
        if let Some(lease) = lease {
            lease.end();
        }
        ran.map(Some)
    }

    /// Logs what was purged and forgotten, that it fails, and that it works again.
    fn note(&mut self, ran: Result<Option<Tally>, RunError>) {
        match ran {
            Ok(Some(tally)) => {
                if std::mem::take(&mut self.fails) {
                    info!("the rules of retention are applied again");
                }
                for (rule, tally) in self.retention.rules.iter().zip(&tally.rules) {
                    if tally.purged > 0 {
                        info!(%rule, events = tally.purged, "purged");
                    }
                    if tally.forgotten > 0 {
                        info!(%rule, identities = tally.forgotten, "forgotten");
                    }
                }
            }
            Ok(None) => {}
            Err(RunError::Stopped | RunError::LeaseLost) => {}
            Err(RunError::Store(error)) => {
                if error.is_fatal() {
                    self.health.fail(error.to_string());
                }
                if !std::mem::replace(&mut self.fails, true) {
                    warn!(%error, "the rules of retention cannot be applied now");
                }
            }
        }
    }
}
