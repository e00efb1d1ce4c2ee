//! What this process knows of its rules.

use aggregator_core::Timestamp;

/// The rules in the order of `Retention::rules`, and totals.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) rules: Vec<RuleState>,
    pub(super) counts: Counts,
    /// Counts the beginnings and the ends of writes of the records. While it is odd, a record may count what is still
    /// counted as unsaved here.
    pub(super) saves: u64,
}

/// Totals since the start of the process.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) purged_events: u64,
    pub(crate) forgotten_identities: u64,
    /// Runs that have failed.
    pub(crate) failures: u64,
}

/// A rule as the last run of this process left it.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleState {
    /// Topics it is about.
    pub(super) topics: u64,
    /// Events that are beyond its limits and were not purged yet.
    pub(super) pending_events: u64,
    /// Identities that are to be forgotten and were not yet, as far as they were counted.
    pub(super) pending_identities: u64,
    /// Events that it has purged, and that no record counts yet.
    pub(super) unsaved_events: u64,
    /// Identities that it has forgotten, and that no record counts yet.
    pub(super) unsaved_identities: u64,
    /// When the run began, by the store's clock. `None` if this process has not run.
    pub(super) ran_at: Option<Timestamp>,
    pub(super) error: Option<String>,
}

impl Ledger {
    pub(super) fn new(rules: usize) -> Self {
        Self { rules: vec![RuleState::default(); rules], ..Self::default() }
    }

    pub(super) fn purged(&mut self, rule: usize, events: u64) {
        self.counts.purged_events += events;
        let rule = &mut self.rules[rule];
        rule.unsaved_events += events;
        rule.pending_events = rule.pending_events.saturating_sub(events);
    }

    pub(super) fn forgot(&mut self, rule: usize, identities: u64) {
        self.counts.forgotten_identities += identities;
        self.rules[rule].unsaved_identities += identities;
    }

    /// Takes the end of a run that began at `ran_at`. `topics` are those of each rule, if the run came to all of them.
    pub(super) fn ended(&mut self, ran_at: Timestamp, topics: Option<&[u64]>, error: Option<&str>) {
        self.counts.failures += u64::from(error.is_some());
        for (index, rule) in self.rules.iter_mut().enumerate() {
            rule.ran_at = Some(ran_at);
            rule.error = error.map(str::to_owned);
            if let Some(topics) = topics {
                rule.topics = topics[index];
            }
        }
    }
}
