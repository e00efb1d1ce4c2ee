//! Retention: what is too old, too many or too much by the rules of the operator loses its payloads, oldest first, and much
//! later its identities, where a rule says so ([`forget`]).
//!
//! A thread of its own applies the rules once in a while ([`follow`]). A *run* goes through the topics in pages, works out for
//! each how far it has to be purged ([`cut`]), and purges in slices, with pauses between them as long as the slices
//! took several times over: appends go on beside it. It uses the store through its public methods alone.
//!
//! Of the nodes of a store one runs at a time ([`lease`]). What was purged by each rule is kept in records ([`keeper`]).
//!
//! ```text
//! retention  lease          JSON: who runs, and until when
//!            rule/logs.*    JSON: what the rule for logs.* has taken, and what its last run found
//! ```

mod cut;
mod follow;
mod forget;
mod keeper;
mod lease;
mod ledger;
mod pace;
mod report;
mod run;
mod sizes;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ulid::Ulid;

pub(crate) use follow::follow;
pub(crate) use report::retention;

use crate::config::{ByteSize, Config, RetentionRule, by_specificity};

use ledger::{Counts, Ledger};

/// The kind of the records.
const KIND: &str = "retention";

const PAGE_TIME: Duration = Duration::from_secs(60);

/// The rules and what became of them, shared by the thread that applies them and those who look.
pub(crate) struct Retention {
    /// The name of this process in the records.
    node: String,
    /// The most specific first.
    rules: Vec<RetentionRule>,
    every: Duration,
    dry_run: bool,
    /// How many free bytes the store's file keeps, if not all.
    free_space: Option<u64>,
    /// How long the topics of a page are purged before the next page has its turn, and then so long identities are
    /// forgotten. What is left of them is left to the next run.
    page_time: Duration,
    ledger: Mutex<Ledger>,
}

impl Retention {
    pub(crate) fn new(config: &Config) -> Self {
        let rules = by_specificity(&config.retain);
        Self {
            node: Ulid::generate().to_string(),
            ledger: Mutex::new(Ledger::new(rules.len())),
            rules,
            every: config.retain_every,
            dry_run: config.retain_dry_run,
            free_space: config.retain_free_space.map(|ByteSize(bytes)| bytes as u64),
            page_time: PAGE_TIME,
        }
    }

    /// The index of the rule that a topic has: the first one whose pattern means it.
    fn rule_of(&self, topic: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.pattern.matches(topic))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Its holders only set numbers.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process has done.
    pub(crate) fn counts(&self) -> Counts {
        self.ledger().counts
    }
}
