//! One run: through all topics that a rule means, in pages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aggregator_core::store::Records;
use aggregator_core::{DedupStore, Maintain, StoreError, Timestamp, Topic, TopicQuery, Topics};

use super::cut::{Cutter, before};
use super::follow::Stop;
use super::forget::Old;
use super::lease::Lease;
use super::pace::Pace;
use super::sizes::Sizes;
use super::{Retention, keeper};
use crate::health::Health;

/// Topics of a page, which are worked out before any of them is purged.
const PAGE_TOPICS: usize = 100;

/// Slices of a topic, before the next topic of the page has its turn.
pub(super) const SLICES_PER_TURN: usize = 20;

/// How often the records are written while a run is under way: so much a crash can cost the count of what was purged.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Pauses are gathered up to this one.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("the server ends")]
    Stopped,
    #[error("another node has the lease")]
    LeaseLost,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a run has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    /// For each rule.
    pub(super) rules: Vec<RuleTally>,
    /// Whether events or identities are left that it had no time for.
    pub(super) is_unfinished: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RuleTally {
    pub(super) topics: u64,
    /// Events beyond the limits, when their topic was looked at.
    pub(super) found: u64,
    pub(super) purged: u64,
    pub(super) forgotten: u64,
    /// Identities that are to be forgotten and were not, as far as they were counted.
    pub(super) pending_identities: u64,
}

impl RuleTally {
    /// Whether space has become free.
    pub(super) fn has_freed(&self) -> bool {
        self.purged > 0 || self.forgotten > 0
    }
}

/// A topic that has events beyond its limits.
struct Cut {
    topic: Topic,
    rule: usize,
    purged_seq: u64,
    through_seq: u64,
}

/// Uses the store piece by piece, with pauses, for as long as it may.
pub(super) struct Throttle<'r> {
    pub(super) pace: &'r mut Pace,
    pub(super) stop: &'r Stop,
    pub(super) health: &'r Health,
    pub(super) lease: Option<Lease<'r>>,
    pub(super) owed: Duration,
}

impl Throttle<'_> {
    pub(super) fn work<T>(&mut self, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, RunError> {
        self.timed(act).map(|(done, _)| done)
    }

    /// Does a piece of work, pauses, and says how long the work took.
    pub(super) fn timed<T>(
        &mut self,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<(T, Duration), RunError> {
        let begun = Instant::now();
        let done = act()?;
        let took = begun.elapsed();
        // On a full disk no appends are taken, so there are none to give way to.
        if self.health.no_space().is_none() {
            self.owed += self.pace.pause(took);
        }
        let pause = if self.owed >= LEAST_PAUSE { std::mem::take(&mut self.owed) } else { Duration::ZERO };
        if self.stop.wait(pause) {
            return Err(RunError::Stopped);
        }
        match self.lease.as_mut().map(Lease::keep) {
            // A full disk takes no records, and purges are what makes room.
            None | Some(Ok(true) | Err(StoreError::NoSpace { .. })) => Ok((done, took)),
            Some(Ok(false)) => Err(RunError::LeaseLost),
            Some(Err(error)) => Err(error.into()),
        }
    }
}

/// What a run uses.
pub(super) struct Run<'r> {
    pub(super) retention: &'r Retention,
    pub(super) store: &'r dyn DedupStore,
    pub(super) maintain: &'r dyn Maintain,
    pub(super) records: Option<&'r dyn Records>,
    pub(super) sizes: &'r mut Sizes,
    pub(super) throttle: Throttle<'r>,
    pub(super) saved: Instant,
}

impl Run<'_> {
    /// Applies the rules at this time, once.
    pub(super) fn run(&mut self, now: Timestamp) -> Result<Tally, RunError> {
        let rules = vec![RuleTally::default(); self.retention.rules.len()];
        let mut tally = Tally { rules, is_unfinished: false };
        let patterns = self.retention.rules.iter().map(|rule| rule.pattern.clone());
        let topics = Topics::new(patterns).map_err(|error| StoreError::invalid("topic", error.reason))?;
        let mut query = TopicQuery { limit: PAGE_TOPICS, times: true, ..TopicQuery::of(topics) };
        loop {
            let store = self.store;
            let page = self.throttle.work(|| store.topics(&query))?;
            let is_last = page.len() < PAGE_TOPICS;
            query.after = page.last().map(|info| info.topic.clone());
            let (mut cuts, mut old) = (VecDeque::new(), VecDeque::new());
            for info in page {
                let Some(rule) = self.retention.rule_of(info.topic.as_str()) else { continue };
                tally.rules[rule].topics += 1;
                let limits = &self.retention.rules[rule];
                if let Some(identities) = limits.identities {
                    // Also where nothing was purged: identities may have been imported alone.
                    old.push_back(Old { topic: info.topic.clone(), rule, before: before(now, identities) });
                }
                if info.count() == 0 {
                    continue;
                }
                let cutter = Cutter { store, maintain: self.maintain, now };
                let through_seq = cutter.cut(&info, limits, self.sizes, &mut self.throttle)?;
                if through_seq > info.purged_seq {
                    tally.rules[rule].found += through_seq - info.purged_seq;
                    cuts.push_back(Cut { topic: info.topic, rule, purged_seq: info.purged_seq, through_seq });
                }
            }
            self.show_pending(&tally);
            if !self.retention.dry_run {
                self.purge(cuts, &mut tally)?;
            }
            self.forget(old, &mut tally)?;
            if is_last {
                return Ok(tally);
            }
        }
    }

    fn purge(&mut self, mut cuts: VecDeque<Cut>, tally: &mut Tally) -> Result<(), RunError> {
        let until = Instant::now() + self.retention.page_time;
        while let Some(mut cut) = cuts.pop_front() {
            for _ in 0..SLICES_PER_TURN {
                let slice = self.throttle.pace.purge.size();
                let through = cut.through_seq.min(cut.purged_seq + slice);
                let (maintain, retention, rule) = (self.maintain, self.retention, cut.rule);
                let (purged, took) = self.throttle.timed(|| {
                    let purged = maintain.purge(&cut.topic, through)?;
                    // Counted before anything else can end the run.
                    retention.ledger().purged(rule, purged);
                    Ok(purged)
                })?;
                tally.rules[rule].purged += purged;
                if purged == slice {
                    self.throttle.pace.purge.took(took);
                }
                cut.purged_seq = through;
                if through == cut.through_seq {
                    break;
                }
            }
            if cut.purged_seq < cut.through_seq {
                cuts.push_back(cut);
            }
            self.save_once_in_a_while();
            if Instant::now() >= until && !cuts.is_empty() {
                tally.is_unfinished = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn show_pending(&self, tally: &Tally) {
        let mut ledger = self.retention.ledger();
        for (state, tally) in ledger.rules.iter_mut().zip(&tally.rules) {
            state.pending_events = tally.found.saturating_sub(tally.purged);
        }
    }

    /// What cannot be saved now is saved later.
    pub(super) fn save_once_in_a_while(&mut self) {
        if let Some(records) = self.records
            && self.saved.elapsed() >= SAVE_EVERY
        {
            self.saved = Instant::now();
            if let Err(error) = keeper::save(records, self.retention) {
                tracing::debug!(%error, "the counts of retention cannot be written now");
            }
        }
    }
}
