//! What the experiments came to.

use crate::ledger::Violation;

/// What a run of experiments came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) cuts: u64,
    /// Further cuts, mostly while the store recovered from the first one.
    pub(crate) further_cuts: u64,
    /// Cuts in which only the process died at first.
    pub(crate) kills: u64,
    pub(crate) operations: u64,
    pub(crate) workloads: u64,
    pub(crate) acknowledged: u64,
    /// To a reader, before the first cuts.
    pub(crate) handed: u64,
    pub(crate) violations: Vec<Violation>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cuts tried: {} of {} operations in {} workloads ({} as kills), and {} while recovering; \
             {} events acknowledged and {} handed to a reader before the first cuts; violations: {}",
            self.cuts,
            self.operations,
            self.workloads,
            self.kills,
            self.further_cuts,
            self.acknowledged,
            self.handed,
            self.violations.len()
        )
    }
}
