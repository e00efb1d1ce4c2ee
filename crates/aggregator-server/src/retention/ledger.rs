//! What this process knows of its rules.

use aggregator_core::Timestamp;

/// The rules in the order of `Retention::rules`, and totals.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) rules: Vec<RuleState>,
    /// Since the start of the process.
    pub(super) purged_events: u64,
    pub(super) failures: u64,
}

/// A rule as the last run of this process left it.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleState {
    /// Topics it is about.
    pub(super) topics: u64,
    /// Events that are beyond its limits and were not purged yet.
    pub(super) pending_events: u64,
    /// Events that it has purged, and that no record counts yet.
    pub(super) unsaved_events: u64,
    /// When the run began, by the store's clock. `None` if this process has not run.
    pub(super) ran_at: Option<Timestamp>,
    pub(super) error: Option<String>,
}

impl Ledger {
    pub(super) fn new(rules: usize) -> Self {
        Self { rules: vec![RuleState::default(); rules], ..Self::default() }
    }

    pub(super) fn purged(&mut self, rule: usize, events: u64) {
        self.purged_events += events;
        let rule = &mut self.rules[rule];
        rule.unsaved_events += events;
        rule.pending_events = rule.pending_events.saturating_sub(events);
    }

    /// Takes the end of a run that began at `ran_at`. `topics` are those of each rule, if the run came to all of them.
    pub(super) fn ended(&mut self, ran_at: Timestamp, topics: Option<&[u64]>, error: Option<&str>) {
        self.failures += u64::from(error.is_some());
        for (index, rule) in self.rules.iter_mut().enumerate() {
            rule.ran_at = Some(ran_at);
            rule.error = error.map(str::to_owned);
            if let Some(topics) = topics {
                rule.topics = topics[index];
            }
        }
    }
}
