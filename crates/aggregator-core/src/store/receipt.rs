//! What a store answers about single events.

use ulid::Ulid;

use crate::Timestamp;

/// What became of an event. There will never be a fourth outcome: a caller that acknowledges events has to handle each
/// of them, and a new one would be a new promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was new.
    Stored,
    /// It repeats an event that is stored. As good as stored.
    Duplicate,
    /// It repeats an identity with another payload; the first payload stays.
    Conflict,
}

/// What became of an event, and of the first one with its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// What became of it.
    pub outcome: Outcome,
    /// The seq of the event that is stored under the identity; `None` where only the identity was
    /// ever known.
    pub seq: Option<u64>,
    /// When that event was stored.
    pub processed_at: Timestamp,
}

impl Receipt {
    /// `seq` and `processed_at` are those of the first event with the identity.
    pub fn new(outcome: Outcome, seq: Option<u64>, processed_at: Timestamp) -> Self {
        Self { outcome, seq, processed_at }
    }
}

/// What is known of an identity that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// The seq of its event; `None` where only the identity was ever known.
    pub seq: Option<u64>,
    /// When it was stored.
    pub processed_at: Timestamp,
    /// Whether its payload has been removed.
    pub purged: bool,
}

impl Seen {
    /// For an event that was stored at `processed_at`.
    pub fn new(seq: Option<u64>, processed_at: Timestamp, purged: bool) -> Self {
        Self { seq, processed_at, purged }
    }
}

/// Names one try of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId(u128);

impl AttemptId {
    /// A new name.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        Self(Ulid::generate().0)
    }

    /// The name as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_attempts_have_two_numbers() {
        assert_ne!(AttemptId::new().as_u128(), AttemptId::new().as_u128());
    }
}
