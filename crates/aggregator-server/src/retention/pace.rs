//! How much is purged or forgotten at a time, and how long the pauses are.
//!
//! An append that comes while a slice is worked on waits for its end, so slices are short. Between two slices appends have the
//! store for themselves.

use std::time::Duration;

/// The most events or identities of a slice.
const MAX_SLICE: u64 = 1_000;

/// The fewest of a slice, but for the last one of a topic.
const MIN_SLICE: u64 = 20;

/// How long a slice should take. An append that meets one waits for so long, and one in five does, so this is what is added to
/// the slowest hundredth of all.
const SLICE_TIME: Duration = Duration::from_millis(1);

/// A pause is at first as long as the work before it so many times over.
const MAX_PAUSE_FACTOR: u32 = 4;

/// No pause is longer.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How much of one kind of work makes a slice.
#[derive(Debug)]
pub(super) struct Slice(u64);

impl Default for Slice {
    fn default() -> Self {
        Self(200)
    }
}

impl Slice {
    /// How much the next slice has.
    pub(super) fn size(&self) -> u64 {
        self.0
    }

    /// Learns how long a whole slice took.
    pub(super) fn took(&mut self, took: Duration) {
        if took > SLICE_TIME * 2 {
            self.0 = (self.0 / 2).max(MIN_SLICE);
        } else if took < SLICE_TIME / 2 {
            self.0 = (self.0 * 2).min(MAX_SLICE);
        }
    }
}

#[derive(Debug)]
pub(super) struct Pace {
    /// Events to purge.
    pub(super) purge: Slice,
    /// Identities to forget: they take another time than events.
    pub(super) forget: Slice,
    /// In quarters.
    pause_quarters: u32,
    found_before: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            purge: Slice::default(),
            forget: Slice::default(),
            pause_quarters: 4 * MAX_PAUSE_FACTOR,
            found_before: 0,
        }
    }
}

impl Pace {
    /// The pause after work that took so long.
    pub(super) fn pause(&self, took: Duration) -> Duration {
        (took * self.pause_quarters / 4).min(MAX_PAUSE)
    }

    /// Learns from a whole run how many events and identities it found, and whether the next one was due before it ended. If more and more
    /// is found although no time is left, events come faster than they go: then pauses become shorter, down to a
    /// quarter of the work. They become longer again once a run ends in time.
    pub(super) fn ran(&mut self, found: u64, is_late: bool) {
        if !is_late {
            self.pause_quarters = (self.pause_quarters * 2).min(4 * MAX_PAUSE_FACTOR);
        } else if found >= self.found_before && self.found_before > 0 {
            self.pause_quarters = (self.pause_quarters / 2).max(1);
        }
        self.found_before = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slices_become_as_large_as_their_time_allows() {
        let mut slice = Slice::default();
        for _ in 0..10 {
            slice.took(SLICE_TIME / 4);
        }
        assert_eq!(slice.size(), MAX_SLICE);
        slice.took(SLICE_TIME);
        assert_eq!(slice.size(), MAX_SLICE);
        for _ in 0..10 {
            slice.took(100 * MS);
        }
        assert_eq!(slice.size(), MIN_SLICE);
    }

    #[test]
    fn pauses_are_long_unless_events_come_faster_than_they_go() {
        let mut pace = Pace::default();
        assert_eq!([pace.pause(5 * MS), pace.pause(5_000 * MS)], [20 * MS, MAX_PAUSE]);
        // Much to do after a rule is new, and less and less of it.
        for found in [1_000_000, 900_000, 500_000] {
            pace.ran(found, true);
        }
        assert_eq!(pace.pause(5 * MS), 20 * MS);
        for _ in 0..10 {
            pace.ran(600_000, true);
        }
        assert_eq!(pace.pause(8 * MS), 2 * MS);
        pace.ran(10, false);
        assert_eq!(pace.pause(8 * MS), 4 * MS);
    }
}
