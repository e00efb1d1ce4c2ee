//! Forgetting the identities of a page of topics, oldest first.

use std::collections::VecDeque;
use std::time::Instant;

use aggregator_core::store::Forget;
use aggregator_core::{StoreError, Timestamp, Topic};

use super::run::{Run, RunError, SLICES_PER_TURN, Tally};

/// So many identities of a topic are counted at most where they are only counted.
const MAX_COUNTED: u64 = 10_000;

/// A topic whose identities are forgotten that were stored before a time.
pub(super) struct Old {
    pub(super) topic: Topic,
    pub(super) rule: usize,
    pub(super) before: Timestamp,
}

/// What became of a turn of a topic.
enum Turn {
    Done,
    /// There may be more.
    Over,
    NoSpace,
}

impl Run<'_> {
    /// Forgets what is old in these topics, or counts it in a dry run and where there was no time or room.
    pub(super) fn forget(&mut self, mut old: VecDeque<Old>, tally: &mut Tally) -> Result<(), RunError> {
        if old.is_empty() {
            return Ok(());
        }
        let store = self.store;
        let Some(forget) = store.forget() else {
            let kind = store.info().kind;
            return Err(StoreError::Unsupported { kind, operation: "forget identities" }.into());
        };
        // On a full disk, purges make room; to forget needs some itself.
        if !self.retention.dry_run && self.throttle.health.no_space().is_none() {
            let until = Instant::now() + self.retention.page_time;
            while let Some(topic) = old.pop_front() {
                match self.take_turn(forget, &topic, tally)? {
                    Turn::Done => {}
                    Turn::Over => old.push_back(topic),
                    Turn::NoSpace => {
                        old.push_back(topic);
                        break;
                    }
                }
                self.save_once_in_a_while();
                if Instant::now() >= until && !old.is_empty() {
                    tally.is_unfinished = true;
                    break;
                }
            }
        }
        self.count(forget, &old, tally)?;
        self.show_pending_identities(tally);
        Ok(())
    }

    fn take_turn(&mut self, forget: &dyn Forget, old: &Old, tally: &mut Tally) -> Result<Turn, RunError> {
        for _ in 0..SLICES_PER_TURN {
            let slice = self.throttle.pace.forget.size();
            let retention = self.retention;
            let done = self.throttle.timed(|| {
                let forgotten = forget.forget_identities(&old.topic, old.before, slice)?;
                // Counted before anything else can end the run.
                retention.ledger().forgot(old.rule, forgotten);
                Ok(forgotten)
            });
            let (forgotten, took) = match done {
                Err(RunError::Store(StoreError::NoSpace { .. })) => return Ok(Turn::NoSpace),
                done => done?,
            };
            tally.rules[old.rule].forgotten += forgotten;
            if forgotten < slice {
                return Ok(Turn::Done);
            }
            self.throttle.pace.forget.took(took);
        }
        Ok(Turn::Over)
    }

    fn count(
        &mut self,
        forget: &dyn Forget,
        left: &VecDeque<Old>,
        tally: &mut Tally,
    ) -> Result<(), RunError> {
        for old in left {
            let count = || forget.forgettable_identities(&old.topic, old.before, MAX_COUNTED);
            tally.rules[old.rule].pending_identities += self.throttle.work(count)?;
        }
        Ok(())
    }

    fn show_pending_identities(&self, tally: &Tally) {
        let mut ledger = self.retention.ledger();
        for (state, tally) in ledger.rules.iter_mut().zip(&tally.rules) {
            state.pending_identities = tally.pending_identities;
        }
    }
}
