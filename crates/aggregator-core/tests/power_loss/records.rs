//! Records in the workload, and what was promised of them.

use std::collections::BTreeMap;

use aggregator_core::{DedupStore, RecordOutcome, RecordWrite, StoreError};
use sqlite_power_loss::Random;

use crate::ledger::Violation;

const KIND: &str = "lease";

/// What becomes of a record: a value, or that it is gone.
pub(crate) struct Draft {
    name: String,
    value: Option<Vec<u8>>,
}

/// A write of a few records, of which some come again and again.
pub(crate) fn drafts(random: &mut Random) -> Vec<Draft> {
    let first = random.below(9);
    let draft = |n| {
        // A few need pages of their own.
        let length = if random.once_in(6) { 20_000 } else { random.below(300) };
        let value = vec![u8::try_from(random.below(256)).unwrap(); usize::try_from(length).unwrap()];
        Draft { name: format!("record-{}", n % 9), value: (!random.once_in(4)).then_some(value) }
    };
    let count = 1 + first % 4;
    (first..first + count).map(draft).collect()
}

/// Everything that was acknowledged of records, and what a failure left in doubt.
#[derive(Default, Clone)]
pub(crate) struct RecordLedger {
    records: BTreeMap<String, (u64, Vec<u8>)>,
    /// The newest version that anybody was told.
    last_version: u64,
    /// The write that failed last: its commit may have happened.
    in_doubt: Vec<RecordWrite>,
}

/// Why a write ended the steps.
pub(crate) enum Failure {
    Failed(StoreError),
    Broken(Violation),
}

impl RecordLedger {
    /// Writes what the drafts say; the same once more after a failure, whose outcome tells what became of the first try.
    pub(crate) fn write(&mut self, store: &dyn DedupStore, drafts: &[Draft]) -> Result<(), Failure> {
        let writes = if self.in_doubt.is_empty() { self.writes(drafts) } else { self.in_doubt.clone() };
        match store.records().unwrap().write(&writes) {
            Ok(outcome) => self.note(writes, outcome).map_err(Failure::Broken),
            Err(error) => {
                self.in_doubt = writes;
                Err(Failure::Failed(error))
            }
        }
    }

    fn writes(&self, drafts: &[Draft]) -> Vec<RecordWrite> {
        let write = |Draft { name, value }: &Draft| {
            let mut write = RecordWrite::create(KIND, name, value.clone().unwrap_or_default());
            if let Some((version, _)) = self.records.get(name) {
                (write.expected_version, write.value) = (Some(*version), value.clone());
            }
            write
        };
        drafts.iter().map(write).collect()
    }

    fn note(&mut self, writes: Vec<RecordWrite>, outcome: RecordOutcome) -> Result<(), Violation> {
        let was_in_doubt = !std::mem::take(&mut self.in_doubt).is_empty();
        let versions: Vec<Option<u64>> = match outcome {
            RecordOutcome::Written(versions) => versions.into_iter().map(Some).collect(),
            // All of the first try was done.
            RecordOutcome::Stale(stale) if was_in_doubt && stale.len() == writes.len() => {
                stale.into_iter().map(|record| record.version).collect()
            }
            RecordOutcome::Stale(stale) => return Err(format!("{writes:?} is stale: {stale:?}")),
        };
        let told_before = self.last_version;
        for (RecordWrite { name, value, .. }, version) in writes.into_iter().zip(versions) {
            if version.is_some_and(|version| version <= told_before) {
                return Err(format!("{name} has version {version:?}, and {told_before} was there before"));
            }
            self.last_version = self.last_version.max(version.unwrap_or(0));
            match (value, version) {
                (Some(value), Some(version)) => drop(self.records.insert(name, (version, value))),
                (None, _) => drop(self.records.remove(&name)),
                (Some(_), None) => return Err(format!("{name} was written in part")),
            }
        }
        Ok(())
    }

    /// Whether the store has exactly what it has to have.
    pub(crate) fn check(&self, store: &dyn DedupStore) -> Result<(), Violation> {
        let listed = store.records().unwrap().list(KIND, "", None, 1_000);
        let listed = listed.map_err(|error| format!("records cannot be listed: {error}"))?;
        let found: BTreeMap<_, _> =
            listed.into_iter().map(|record| (record.name, (record.version, record.value))).collect();
        if found == self.records || self.is_with_what_was_in_doubt(&found) {
            return Ok(());
        }
        let brief = |records: &BTreeMap<String, (u64, Vec<u8>)>| -> Vec<_> {
            records.iter().map(|(name, (version, value))| (name.clone(), *version, value.len())).collect()
        };
        let (acknowledged, in_doubt) = (brief(&self.records), self.in_doubt.len());
        Err(format!("the records are {:?}, not {acknowledged:?}, {in_doubt} in doubt", brief(&found)))
    }

    fn is_with_what_was_in_doubt(&self, found: &BTreeMap<String, (u64, Vec<u8>)>) -> bool {
        let mut expected = self.records.clone();
        for RecordWrite { name, value, .. } in &self.in_doubt {
            match (value, found.get(name)) {
                (Some(value), Some((version, _))) if *version > self.last_version => {
                    expected.insert(name.clone(), (*version, value.clone()));
                }
                (Some(_), _) => return false,
                (None, _) => drop(expected.remove(name)),
            }
        }
        *found == expected
    }
}
