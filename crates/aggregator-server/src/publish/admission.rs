//! Limits how many events and bytes may wait for their commit, over all partitions together.
//!
//! A request takes its room before its body is decoded ([`Admission::enter`]), because decoding is most of its work: a
//! server with more requests than it can do would be busy with those that it refuses. It waits a while for room, in a line
//! with the others of its sender, and the senders take turns. What it takes then is an estimate, which it exchanges for
//! what it needs ([`Reservation::split`]).

use std::ops::{Add, AddAssign, SubAssign};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::fair::Flow;
use crate::fair::queue::{FairQueue, Waiter};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Events and bytes, as they count against the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Weight {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

impl Weight {
    fn fits(self, capacity: Self) -> bool {
        self.events <= capacity.events && self.bytes <= capacity.bytes
    }

    fn at_most(self, limit: Self) -> Self {
        Self { events: self.events.min(limit.events), bytes: self.bytes.min(limit.bytes) }
    }
}

impl Add for Weight {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { events: self.events + other.events, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Weight {
    fn sub_assign(&mut self, other: Self) {
        *self = Self { events: self.events - other.events, bytes: self.bytes - other.bytes };
    }
}

/// Why nothing was reserved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no room now.
    Full,
    /// There will never be room.
    TooLarge,
}

/// How many requests may wait for room. Each waits with its body in memory, so that `--request-bytes` is the limit where
/// bodies are large.
const MAX_WAITING: usize = 10_000;

/// Hands out reservations up to a capacity.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Weight,
    state: Mutex<State>,
    /// Requests that found no room, since the start.
    refused: AtomicU64,
}

#[derive(Debug)]
struct State {
    used: Weight,
    /// How much of it is of estimates.
    estimated: Weight,
    waiting: FairQueue<Weight, Reservation>,
}

type Waiting = Waiter<Weight, Reservation>;

impl State {
    fn enter(&mut self, estimate: Weight) {
        self.used += estimate;
        self.estimated += estimate;
    }

    fn leave(&mut self, weight: Weight, is_estimate: bool) {
        self.used -= weight;
        if is_estimate {
            self.estimated -= weight;
        }
    }
}

impl Admission {
    pub(crate) fn new(events: usize, bytes: usize) -> Self {
        let state = State {
            used: Weight::default(),
            estimated: Weight::default(),
            waiting: FairQueue::new(MAX_WAITING),
        };
        Self { capacity: Weight { events, bytes }, state: Mutex::new(state), refused: AtomicU64::new(0) }
    }

    pub(crate) fn capacity(&self) -> Weight {
        self.capacity
    }

    /// What waits for its commit.
    pub(crate) fn used(&self) -> Weight {
        let state = self.lock();
        let mut queued = state.used;
        queued -= state.estimated;
        queued
    }

    /// How many requests wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits for room of about this weight, at most for so long.
    ///
    /// # Errors
    /// [`Refused::Full`] if there was none in this time.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        flow: Flow,
        estimate: Weight,
        patience: Duration,
    ) -> Result<Reservation, Refused> {
        let weight = estimate.at_most(self.capacity);
        let granted = {
            let mut state = self.lock();
            if state.waiting.is_empty() && (state.used + weight).fits(self.capacity) {
                state.enter(weight);
                return Ok(self.estimate(weight));
            }
            state.waiting.join(flow, weight)
        };
        let granted = granted.ok_or_else(|| self.refuse())?;
        // Those before it may have given up.
        self.grant();
        match tokio::time::timeout(patience, granted).await {
            Ok(Ok(reservation)) => Ok(reservation),
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    /// Reserves all of `parts`, one reservation each, or nothing. Waits for nothing.
    pub(crate) fn reserve(self: &Arc<Self>, parts: &[Weight]) -> Result<Vec<Reservation>, Refused> {
        self.estimate(Weight::default()).split(parts)
    }

    fn estimate(self: &Arc<Self>, weight: Weight) -> Reservation {
        Reservation { admission: Arc::clone(self), weight, is_estimate: true }
    }

    fn refuse(&self) -> Refused {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Refused::Full
    }

    /// Hands room to those who wait, as far as there is any.
    fn grant(self: &Arc<Self>) {
        // Outside the lock: one that has given up in this moment gives its room back at once.
        while let Some(Waiting { need, grant }) = self.next() {
            let _ = grant.send(self.estimate(need));
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut state = self.lock();
        let used = state.used;
        let next = state.waiting.next(|&need| (used + need).fits(self.capacity))?;
        state.enter(next.need);
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics, so the numbers are whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room in the queue, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    weight: Weight,
    is_estimate: bool,
}

impl Reservation {
    /// Exchanges it for one of each of these weights, which may be more or less together; or for nothing.
    pub(crate) fn split(mut self, parts: &[Weight]) -> Result<Vec<Self>, Refused> {
        let admission = Arc::clone(&self.admission);
        let total = parts.iter().fold(Weight::default(), |total, &part| total + part);
        if !total.fits(admission.capacity) {
            return Err(Refused::TooLarge);
        }
        {
            let mut state = admission.lock();
            let mut after = state.used + total;
            after -= self.weight;
            if !after.fits(admission.capacity) {
                drop(state);
                return Err(admission.refuse());
            }
            state.leave(self.weight, self.is_estimate);
            state.used += total;
            self.weight = Weight::default();
        }
        // It may be less than was estimated. Dropped, it hands the rest to others.
        drop(self);
        let part = |&weight| Self { admission: Arc::clone(&admission), weight, is_estimate: false };
        Ok(parts.iter().map(part).collect())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let nobody_waits = {
            let mut state = self.admission.lock();
            state.leave(self.weight, self.is_estimate);
            state.waiting.is_empty()
        };
        if !nobody_waits {
            self.admission.grant();
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_reserved_or_none() {
        let admission = Arc::new(Admission::new(10, 100));
        let part = |events, bytes| Weight { events, bytes };
        let held = admission.reserve(&[part(4, 10), part(4, 10)]).unwrap();
        assert_eq!(admission.used(), part(8, 20));
        assert_eq!(admission.reserve(&[part(1, 1), part(2, 1)]).unwrap_err(), Refused::Full);
        assert_eq!(admission.reserve(&[part(1, 81)]).unwrap_err(), Refused::Full);
        assert_eq!(admission.reserve(&[part(11, 1)]).unwrap_err(), Refused::TooLarge);
        assert_eq!(admission.reserve(&[part(1, 101)]).unwrap_err(), Refused::TooLarge);
        assert_eq!(admission.used(), part(8, 20), "a refusal leaves nothing behind");
        assert_eq!(admission.refused(), 2);
        drop(held);
        assert_eq!(admission.used(), part(0, 0));
        admission.reserve(&[part(10, 100)]).unwrap();
    }
    const LONG: Duration = Duration::from_secs(60);

    fn weight(events: usize) -> Weight {
        Weight { events, bytes: events }
    }

    /// With what requests have entered with.
    fn all(admission: &Admission) -> Weight {
        admission.lock().used
    }

    #[tokio::test]
    async fn who_waits_gets_room_when_it_is_given_back_and_gives_back_what_it_does_not_need() {
        let admission = Arc::new(Admission::new(10, 10));
        let held = admission.reserve(&[weight(8)]).unwrap();
        let enter = |events| {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move { admission.enter(Flow::EVERYBODY, weight(events), LONG).await })
        };
        let (first, second) = (enter(9), enter(2));
        while admission.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        drop(held);
        let first = first.await.unwrap().unwrap();
        assert_eq!(all(&admission), weight(9), "the second one does not fit beside the first");
        assert_eq!((admission.used(), admission.waiting()), (weight(0), 1), "nothing waits for its commit");
        let parts = first.split(&[weight(3), weight(2)]).unwrap();
        let second = second.await.unwrap().unwrap();
        assert_eq!((all(&admission), admission.used()), (weight(7), weight(5)));
        drop((parts, second));
        assert_eq!((all(&admission), admission.used(), admission.refused()), (weight(0), weight(0), 0));
    }

    #[tokio::test]
    async fn who_waits_for_nothing_is_refused() {
        let admission = Arc::new(Admission::new(10, 10));
        let held = admission.enter(Flow::EVERYBODY, weight(20), LONG).await.unwrap();
        assert_eq!(all(&admission), weight(10), "an estimate may be larger than what there is");
        for patience in [Duration::ZERO, Duration::from_millis(1)] {
            let refused = admission.enter(Flow::EVERYBODY, weight(1), patience).await;
            assert_eq!(refused.unwrap_err(), Refused::Full);
        }
        assert_eq!(admission.refused(), 2);
        assert_eq!(held.split(&[weight(11)]).unwrap_err(), Refused::TooLarge);
        // Who has given up holds up nobody.
        admission.enter(Flow::EVERYBODY, weight(10), Duration::ZERO).await.unwrap();
        assert_eq!((all(&admission), admission.used()), (weight(0), weight(0)));
    }

    #[tokio::test]
    async fn an_estimate_that_was_too_low_is_mended_if_there_is_room() {
        let admission = Arc::new(Admission::new(10, 10));
        let [one, other] = [3, 5].map(|events| admission.enter(Flow::EVERYBODY, weight(events), LONG));
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        let one = one.split(&[weight(5)]).unwrap();
        assert_eq!(other.split(&[weight(6)]).unwrap_err(), Refused::Full);
        assert_eq!(admission.used(), weight(5));
        drop(one);
    }
}
