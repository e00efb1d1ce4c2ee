//! Fails calls at once while a shard does not answer, so that it does not hold the threads of all callers.
//!
//! After failures, one call at a time is let through to try, after a pause that doubles from 250 ms to 5 s. Its success
//! lets all calls through again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long an outage is told of after the time to try has come. A caller who looks at outages before it calls would never
/// try: a balancer that sends nothing, or a publisher who is told that nothing is queued.
const TOLD_FOR: Duration = Duration::from_secs(15);

/// Why calls are not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The shard does not answer.
    Unavailable,
    /// Its disk is full.
    NoSpace,
    /// It has stopped by itself, until it is opened again.
    Stopped,
}

pub(super) struct Breaker {
    /// How many failures in a row open it.
    after_failures: u32,
    /// Whether `state` has an opening, or failures that are counted. Spares the usual call the lock.
    is_troubled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    open: Option<Open>,
}

struct Open {
    cause: Cause,
    reason: String,
    pause: Duration,
    probe_at: Instant,
    /// Whether a call is under way that tries.
    probing: bool,
}

/// A call that was let through. Whoever drops it without a word says that the call told nothing about the shard.
pub(super) struct Turn<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
}

impl Breaker {
    pub(super) fn new(after_failures: u32) -> Self {
        Self { after_failures, is_troubled: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Lets a call through.
    ///
    /// # Errors
    /// The reason why it is not let through.
    pub(super) fn enter(&self) -> Result<Turn<'_>, String> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return Ok(Turn { breaker: self, is_probe: false });
        }
        let mut state = self.lock();
        let Some(open) = &mut state.open else { return Ok(Turn { breaker: self, is_probe: false }) };
        if !open.may_probe() {
            return Err(open.reason.clone());
        }
        open.probing = true;
        Ok(Turn { breaker: self, is_probe: true })
    }

    /// Why calls are not let through; `None` while they are.
    pub(super) fn outage(&self) -> Option<(Cause, String)> {
        if !self.is_troubled.load(Ordering::Acquire) {
            return None;
        }
        self.lock().open.as_ref().map(|open| (open.cause, open.reason.clone()))
    }

    /// The same, unless nobody has tried for so long that it says little.
    pub(super) fn recent_outage(&self) -> Option<(Cause, String)> {
        let state = self.lock_if_troubled()?;
        state.open.as_ref().filter(|open| open.is_recent()).map(|open| (open.cause, open.reason.clone()))
    }

    /// Whether it is time to try.
    pub(super) fn is_due(&self) -> bool {
        self.is_troubled.load(Ordering::Acquire) && self.lock().open.as_ref().is_some_and(Open::may_probe)
    }

    /// Notes what somebody found out who was not let through here.
    pub(super) fn note_failure(&self, cause: Cause, reason: String) {
        let mut state = self.lock();
        state.fail(cause, reason, true);
        self.is_troubled.store(true, Ordering::Release);
    }

    /// Lets all calls through again, unless the shard has stopped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.open.as_ref().is_none_or(|open| open.cause != Cause::Stopped) {
            *state = State::default();
            self.is_troubled.store(false, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Whether the call tries, and no others are let through.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The shard has answered.
    pub(super) fn succeeded(self) {
        // A call that began before the failure of another one says nothing about what comes after that.
        let may_close =
            self.is_probe || self.breaker.lock_if_troubled().is_some_and(|state| state.open.is_none());
        if may_close {
            self.breaker.close();
        }
    }

    /// The shard has not answered.
    pub(super) fn failed(self, cause: Cause, reason: String) {
        let mut state = self.breaker.lock();
        state.failures += 1;
        let opens = state.failures >= self.breaker.after_failures || cause == Cause::Stopped;
        if self.is_probe || opens && state.open.is_none() || cause == Cause::Stopped {
            state.fail(cause, reason, self.is_probe);
        }
        self.breaker.is_troubled.store(true, Ordering::Release);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(open) = &mut self.breaker.lock().open
        {
            open.probing = false;
        }
    }
}

impl Breaker {
    fn lock_if_troubled(&self) -> Option<MutexGuard<'_, State>> {
        self.is_troubled.load(Ordering::Acquire).then(|| self.lock())
    }
}

impl State {
    /// `has_tried` says whether the failure is that of a try, which makes the pause longer.
    fn fail(&mut self, cause: Cause, reason: String, has_tried: bool) {
        let now = Instant::now();
        match &mut self.open {
            Some(open) if open.cause == Cause::Stopped => {}
            Some(open) => {
                (open.cause, open.reason) = (cause, reason);
                if has_tried && open.probe_at <= now {
                    open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                    open.probe_at = now + open.pause;
                }
            }
            None => {
                let probe_at = now + FIRST_PAUSE;
                self.open = Some(Open { cause, reason, pause: FIRST_PAUSE, probe_at, probing: false });
            }
        }
    }
}

impl Open {
    fn may_probe(&self) -> bool {
        self.cause != Cause::Stopped && !self.probing && self.probe_at <= Instant::now()
    }

    fn is_recent(&self) -> bool {
        self.cause == Cause::Stopped || self.probing || self.probe_at.elapsed() < TOLD_FOR
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn fail(breaker: &Breaker, cause: Cause) {
        breaker.enter().ok().unwrap().failed(cause, "as planned".to_owned());
    }

    fn await_probe(breaker: &Breaker) -> Turn<'_> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match breaker.enter() {
                Ok(turn) => return turn,
                Err(_) => assert!(Instant::now() < until, "nobody may try"),
            }
            thread::yield_now();
        }
    }

    #[test]
    fn one_call_at_a_time_tries_and_its_success_lets_all_through() {
        let breaker = Breaker::new(1);
        fail(&breaker, Cause::Unavailable);
        assert_eq!(breaker.outage(), Some((Cause::Unavailable, "as planned".to_owned())));
        assert!(breaker.enter().is_err(), "the first pause is not over");
        let probe = await_probe(&breaker);
        assert!(breaker.enter().is_err(), "another call tries already");
        // One that ends in a panic does not hold the place for ever.
        drop(probe);
        await_probe(&breaker).succeeded();
        assert_eq!(breaker.outage(), None);
        let (one, other) = (breaker.enter(), breaker.enter());
        assert!(one.is_ok() && other.is_ok());
    }

    #[test]
    fn the_pause_doubles_with_every_try_that_fails() {
        let breaker = Breaker::new(1);
        fail(&breaker, Cause::Unavailable);
        for pause in [500, 1_000] {
            await_probe(&breaker).failed(Cause::NoSpace, "again".to_owned());
            assert_eq!(breaker.lock().open.as_ref().unwrap().pause, Duration::from_millis(pause));
        }
        assert_eq!(breaker.outage(), Some((Cause::NoSpace, "again".to_owned())));
    }

    #[test]
    fn an_outage_is_told_of_until_nobody_has_tried_for_long() {
        let breaker = Breaker::new(1);
        fail(&breaker, Cause::Unavailable);
        assert!(breaker.recent_outage().is_some());
        let long_ago = Instant::now().checked_sub(TOLD_FOR).unwrap();
        breaker.lock().open.as_mut().unwrap().probe_at = long_ago;
        assert!(breaker.recent_outage().is_none() && breaker.outage().is_some());
        let probe = breaker.enter().ok().unwrap();
        assert!(breaker.enter().is_err(), "one call at a time tries, as before");
        probe.failed(Cause::Unavailable, "again".to_owned());
        assert!(breaker.recent_outage().is_some());
        assert_eq!(
            breaker.lock().open.as_ref().unwrap().pause,
            FIRST_PAUSE * 2,
            "its pause was not forgotten"
        );
    }

    #[test]
    fn what_has_stopped_is_never_tried_again() {
        let breaker = Breaker::new(3);
        fail(&breaker, Cause::Stopped);
        breaker.close();
        breaker.note_failure(Cause::Unavailable, "later".to_owned());
        assert_eq!(breaker.outage(), Some((Cause::Stopped, "as planned".to_owned())));
        breaker.lock().open.as_mut().unwrap().probe_at = Instant::now();
        assert!(breaker.enter().is_err() && !breaker.is_due(), "not after its pause, either");
    }

    #[test]
    fn failures_count_that_come_in_a_row() {
        let breaker = Breaker::new(3);
        for _ in 0..3 {
            fail(&breaker, Cause::Unavailable);
            fail(&breaker, Cause::Unavailable);
            breaker.enter().ok().unwrap().succeeded();
        }
        assert_eq!(breaker.outage(), None);
        (0..3).for_each(|_| fail(&breaker, Cause::Unavailable));
        assert!(breaker.outage().is_some());
    }

    #[test]
    fn a_call_that_began_before_a_failure_ends_no_outage() {
        let breaker = Breaker::new(1);
        let early = breaker.enter().ok().unwrap();
        fail(&breaker, Cause::Unavailable);
        early.succeeded();
        assert!(breaker.outage().is_some());
    }
}
