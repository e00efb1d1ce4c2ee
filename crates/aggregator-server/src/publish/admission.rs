//! Limits how many events and bytes may wait for their commit, over all partitions together.

use std::ops::{Add, AddAssign, SubAssign};
use std::sync::{Arc, PoisonError};

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

/// Hands out reservations up to a capacity.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Weight,
    used: Mutex<Weight>,
    /// Requests that found no room, since the start.
    refused: AtomicU64,
}

impl Admission {
    pub(crate) fn new(events: usize, bytes: usize) -> Self {
        Self { capacity: Weight { events, bytes }, used: Mutex::default(), refused: AtomicU64::new(0) }
    }

    pub(crate) fn capacity(&self) -> Weight {
        self.capacity
    }

    pub(crate) fn used(&self) -> Weight {
        *self.lock()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Reserves all of `parts`, one reservation each, or nothing.
    pub(crate) fn reserve(self: &Arc<Self>, parts: &[Weight]) -> Result<Vec<Reservation>, Refused> {
        let total = parts.iter().fold(Weight::default(), |total, &part| total + part);
        if !total.fits(self.capacity) {
            return Err(Refused::TooLarge);
        }
        let mut used = self.lock();
        let after = *used + total;
        if !after.fits(self.capacity) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        *used = after;
        drop(used);
        let reservation = |&weight| Reservation { admission: Arc::clone(self), weight };
        Ok(parts.iter().map(reservation).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Weight> {
        // A panic cannot leave the two numbers half-changed.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room in the queue, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    weight: Weight,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.admission.lock() -= self.weight;
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
}
