//! The newest repeats and conflicts, one by one.

use std::collections::VecDeque;

use aggregator_core::{EventRef, Outcome, Receipt, Timestamp};
use serde::{Deserialize, Serialize};

use super::differences::Difference;

/// How many repeats are kept.
pub(super) const MAX_KEPT: usize = 1_000;

/// How many conflicts are kept. They are larger.
const MAX_CONFLICTS: usize = 200;

/// How many repeats of one commit are noted, and as many conflicts: under load the list would be of one moment only.
const MAX_PER_GROUP: usize = 16;

/// The largest payload of a conflict that is compared with the stored one.
const MAX_COMPARED_BYTES: usize = 64 << 10;

/// An event that was there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Repeat {
    pub(super) topic: Box<str>,
    pub(super) event_id: Box<str>,
    /// Of the repeat. The stored event may have another one.
    pub(super) source: Box<str>,
    pub(super) timestamp: Box<str>,
    pub(super) is_conflict: bool,
    /// When it came, in microseconds since 1970.
    pub(super) at: i64,
    /// When the first event with the identity was stored, and as what.
    pub(super) first_at: i64,
    pub(super) seq: Option<u64>,
    /// Of a conflict, until it was compared. It is stored nowhere.
    #[serde(skip)]
    pub(super) payload: Option<Box<str>>,
    /// Of a conflict, once it was compared. What was erased must be nowhere, so this is stored nowhere either.
    #[serde(skip)]
    pub(super) differences: Option<Vec<Difference>>,
}

/// Conflicts that are being compared.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) conflicts: Vec<Repeat>,
    forgotten: u64,
}

/// The newest, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Latest {
    repeats: VecDeque<Repeat>,
    conflicts: VecDeque<Repeat>,
    /// The conflicts that were not compared yet are the newest ones, so many.
    not_compared: usize,
    /// How often something was forgotten.
    forgotten: u64,
}

impl Repeat {
    fn forget_values(&mut self) {
        (self.payload, self.differences) = (None, None);
    }
}

impl Latest {
    pub(super) fn group(&mut self) -> Group<'_> {
        Group { latest: self, repeats: 0, conflicts: 0 }
    }

    /// From the oldest to the newest.
    pub(super) fn all(&self) -> Vec<Repeat> {
        let mut all: Vec<_> = self.repeats.iter().chain(&self.conflicts).cloned().collect();
        all.sort_by_key(|repeat| repeat.at);
        all
    }

    /// Takes the conflicts that were not compared yet, to be handed to [`Self::put_back`].
    pub(super) fn take_not_compared(&mut self) -> Taken {
        let from = self.conflicts.len().saturating_sub(std::mem::take(&mut self.not_compared));
        Taken { conflicts: self.conflicts.drain(from..).collect(), forgotten: self.forgotten }
    }

    /// Puts back what was compared. Others may have come meanwhile.
    pub(super) fn put_back(&mut self, Taken { conflicts: mut compared, forgotten }: Taken) {
        if forgotten != self.forgotten {
            // They may have been compared with an event that was erased since.
            compared.iter_mut().for_each(Repeat::forget_values);
        }
        let newer = self.conflicts.split_off(self.conflicts.len() - self.not_compared);
        self.conflicts.extend(compared);
        self.conflicts.extend(newer);
        self.trim();
    }

    /// Forgets what was in the payloads of the conflicts for which this holds. That they happened stays.
    pub(super) fn forget_values(&mut self, of: impl Fn(&Repeat) -> bool) {
        self.forgotten += 1;
        self.conflicts.iter_mut().filter(|conflict| of(conflict)).for_each(Repeat::forget_values);
    }

    pub(super) fn push(&mut self, repeat: Repeat) {
        let kept = if repeat.is_conflict { &mut self.conflicts } else { &mut self.repeats };
        self.not_compared += usize::from(repeat.payload.is_some());
        kept.push_back(repeat);
        self.trim();
    }

    fn trim(&mut self) {
        for (kept, most) in [(&mut self.repeats, MAX_KEPT), (&mut self.conflicts, MAX_CONFLICTS)] {
            kept.drain(..kept.len().saturating_sub(most));
        }
        self.not_compared = self.not_compared.min(self.conflicts.len());
    }
}

/// Notes some repeats of one commit.
pub(super) struct Group<'l> {
    latest: &'l mut Latest,
    repeats: usize,
    conflicts: usize,
}

impl Group<'_> {
    pub(super) fn note(&mut self, topic: &str, event: EventRef<'_>, receipt: &Receipt, at: Timestamp) {
        let is_conflict = receipt.outcome == Outcome::Conflict;
        let noted = if is_conflict { &mut self.conflicts } else { &mut self.repeats };
        if *noted == MAX_PER_GROUP {
            return;
        }
        *noted += 1;
        let payload =
            (is_conflict && event.payload().len() <= MAX_COMPARED_BYTES).then(|| event.payload().into());
        self.latest.push(Repeat {
            topic: topic.into(),
            event_id: event.event_id().into(),
            source: event.source().into(),
            timestamp: event.timestamp().into(),
            is_conflict,
            at: at.as_micros(),
            first_at: receipt.processed_at.as_micros(),
            seq: receipt.seq,
            payload,
            differences: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::Event;

    use super::*;

    fn note(group: &mut Group<'_>, id: u32, outcome: Outcome) {
        let event = Event::new("t", id.to_string()).unwrap();
        let receipt = Receipt::new(outcome, Some(1), Timestamp::from_micros(0));
        group.note("t", event.view(), &receipt, Timestamp::from_micros(i64::from(id)));
    }

    #[test]
    fn a_large_group_does_not_push_all_others_out() {
        let mut latest = Latest::default();
        note(&mut latest.group(), 0, Outcome::Duplicate);
        let mut group = latest.group();
        (1..5_000).for_each(|id| note(&mut group, id, Outcome::Duplicate));
        note(&mut group, 5_000, Outcome::Conflict);
        assert_eq!(latest.all().len(), 1 + MAX_PER_GROUP + 1);
        for id in 6_000..8_000 {
            note(&mut latest.group(), id, Outcome::Duplicate);
        }
        let all = latest.all();
        assert_eq!(all.len(), MAX_KEPT + 1, "a conflict is not pushed out by repeats");
        assert_eq!((&*all[0].event_id, &*all[MAX_KEPT].event_id), ("5000", "7999"));
    }

    #[test]
    fn a_conflict_is_compared_once_while_others_come() {
        let mut latest = Latest::default();
        (0..3).for_each(|id| note(&mut latest.group(), id, Outcome::Conflict));
        let mut taken = latest.take_not_compared();
        assert_eq!(taken.conflicts.len(), 3);
        note(&mut latest.group(), 3, Outcome::Conflict);
        taken.conflicts.iter_mut().for_each(|conflict| conflict.payload = None);
        latest.put_back(taken);
        let ids = |latest: &Latest| latest.all().iter().map(|of| of.event_id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(&latest), ["0", "1", "2", "3"]);
        let next = latest.take_not_compared();
        assert_eq!((next.conflicts.len(), &*next.conflicts[0].event_id), (1, "3"));
        latest.put_back(next);
        assert!(latest.take_not_compared().conflicts.is_empty());
    }

    #[test]
    fn values_that_are_forgotten_while_conflicts_are_compared_do_not_come_back() {
        let mut latest = Latest::default();
        (0..2).for_each(|id| note(&mut latest.group(), id, Outcome::Conflict));
        let mut taken = latest.take_not_compared();
        taken.conflicts.iter_mut().for_each(|conflict| conflict.differences = Some(Vec::new()));
        let again = taken.clone();
        latest.put_back(taken);
        let have_values = |latest: &Latest| {
            latest.all().iter().map(|conflict| conflict.differences.is_some()).collect::<Vec<_>>()
        };
        latest.forget_values(|conflict| &*conflict.event_id == "1");
        assert_eq!(have_values(&latest), [true, false]);
        latest.put_back(again);
        assert_eq!(have_values(&latest), [true, false, false, false]);
    }
}
