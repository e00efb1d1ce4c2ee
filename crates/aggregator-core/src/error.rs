//! What can go wrong, named by what the caller has to do about it.

use std::error::Error;
use std::fmt;

use crate::Cursor;

type Cause = Box<dyn Error + Send + Sync>;

/// A value that one field of an event or a query cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidField {
    /// The field as publishers spell it, `event_id` for example.
    pub field: &'static str,
    /// What is wrong, which limit it broke and what would be right.
    pub reason: String,
}

impl InvalidField {
    /// A fault of `field`.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// An [`InvalidField`] and, in a batch, the event it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Index into the batch that was given; `None` when the fault is not one event's.
    pub index: Option<usize>,
    /// What is wrong.
    pub error: InvalidField,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "event {index}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

/// Why a store did not do what it was asked. An `Err` promises nothing about what was stored: retry
/// it with the same identities, which is always safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Not now: try again later.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What stood in the way.
        reason: String,
        /// The backend's own error.
        #[source]
        source: Option<Cause>,
    },
    /// The disk is full: make room, then try again.
    #[error("no space left for the store: {reason}")]
    NoSpace {
        /// What could not grow.
        reason: String,
        /// The backend's own error.
        #[source]
        source: Option<Cause>,
    },
    /// What is stored contradicts itself: stop, and restore or repair.
    #[error("the store is corrupt: {what}")]
    Corrupt {
        /// What is corrupt.
        what: String,
        /// The backend's own error.
        #[source]
        source: Option<Cause>,
    },
    /// The caller's input cannot be taken; nothing of it was stored. Mend it, do not retry it.
    #[error("invalid input: {}", list(.0))]
    Invalid(
        /// Everything that is wrong, at least one.
        Vec<Fault>,
    ),
    /// The store has a format that this program does not open, and was left as it is. If `found` is above `known`, a newer
    /// program wrote the store: use that one. If it is below, upgrade the store, or use the program that wrote it.
    #[error("{store} has format {found}, this program knows format {known}: {way_out}")]
    Format {
        /// Which store.
        store: String,
        /// Its format.
        found: u32,
        /// The format that this program writes.
        known: u32,
        /// What to do.
        way_out: &'static str,
    },
    /// The cursor says nothing about this query of this store. Begin anew without one, or ask for what it was
    /// made for. If it is the store whose history is another one, the reason says where to begin anew.
    #[error("the cursor {0}")]
    WrongCursor(WrongCursor),
    /// The cursor stands before events that retention has removed. Go on from `oldest`, knowing that
    /// what lay between is gone.
    #[error("the cursor stands before events that retention has removed")]
    Expired {
        /// The same position with the removal acknowledged; it skips nothing that is still stored.
        oldest: Cursor,
    },
    /// An earlier failure left it unknown what is on disk: no append is taken until a restart.
    #[error("the store stopped after a failure: {reason}")]
    Poisoned {
        /// The failure that stopped it.
        reason: String,
    },
    /// This backend cannot do that at all.
    #[error("the {kind} store cannot {operation}")]
    Unsupported {
        /// The backend.
        kind: &'static str,
        /// What it was asked.
        operation: &'static str,
    },
}

impl StoreError {
    /// Whether the same call can succeed later without anybody changing the input or the program.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoSpace { .. })
    }

    /// Whether the store takes no more appends, so that its user has to stop acknowledging.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Poisoned { .. })
    }

    /// [`StoreError::Invalid`] for a fault that belongs to no event of a batch.
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault { index: None, error: InvalidField::new(field, reason) }])
    }

    /// [`StoreError::Unavailable`] without an error of the backend behind it.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), source: None }
    }

    /// [`StoreError::Corrupt`] without an error of the backend behind it.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), source: None }
    }
}

/// Why a cursor cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongCursor {
    /// Another store made it.
    #[error("was made by another store")]
    OtherStore,
    /// The store that this one is a copy of made it after it was copied; the same offsets are other events here.
    #[error("was made by the store that this one is a copy of, after the copy was made")]
    OtherSinceCopy,
    /// It stands behind everything there is: the store was put back to an older state.
    #[error("is ahead of the store, which was put back to an older state")]
    AheadOfStore {
        /// The beginning of what is stored: nothing later is certain to be the same as what the reader was given.
        oldest: Cursor,
    },
    /// The rows it stands at are others now: the store was put back to an older state and has grown since.
    #[error("stands at events that are others now: the store was put back to an older state")]
    OtherHistory {
        /// As with [`Self::AheadOfStore`].
        oldest: Cursor,
    },
    /// Its query had other filters or another order.
    #[error("was made for another query")]
    OtherQuery,
}

fn list(faults: &[Fault]) -> String {
    const SHOWN: usize = 3;
    let mut text = faults.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if faults.len() > SHOWN {
        text.push_str(&format!("; and {} more", faults.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_faults_are_shown_and_the_others_are_counted() {
        let fault = |index| Fault { index: Some(index), error: InvalidField::new("topic", "is bad") };
        let shown = |count| list(&(0..count).map(fault).collect::<Vec<_>>());
        let three = "event 0: topic: is bad; event 1: topic: is bad; event 2: topic: is bad";
        assert_eq!(shown(1), "event 0: topic: is bad");
        assert_eq!(shown(3), three);
        assert_eq!(shown(4), format!("{three}; and 1 more"));
        assert_eq!(shown(5), format!("{three}; and 2 more"));
    }
}
