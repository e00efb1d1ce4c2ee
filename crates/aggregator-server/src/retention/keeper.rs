//! Keeps in records what each rule has taken since ever, and what its last run found.

use std::collections::HashMap;
use std::time::Duration;

use aggregator_core::store::{MAX_RECORDS_PER_CALL, RecordOutcome, RecordWrite, Records};
use aggregator_core::{StoreError, Timestamp};
use serde::{Deserialize, Serialize};

use super::ledger::RuleState;
use super::{KIND, Retention};

/// The name of a rule's record is its pattern behind this.
const PREFIX: &str = "rule/";

/// How often a write is tried that others are faster than.
const MAX_TRIES: u32 = 5;

/// How often the records are read while they are being written.
const MAX_READS: u32 = 50;

/// The longest error that is kept, in bytes.
const MAX_ERROR_BYTES: usize = 1_000;

/// The value of a rule's record. Whoever runs another version of this program leaves out what it does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    pub(super) purged_events: u64,
    pub(super) topics: u64,
    pub(super) pending_events: u64,
    pub(super) forgotten_identities: u64,
    pub(super) pending_identities: u64,
    /// When the run began, in microseconds since 1970, by the store's clock.
    pub(super) ran_at: Option<i64>,
    pub(super) node: String,
    pub(super) error: Option<String>,
}

/// Records of rules, with their versions, by pattern.
pub(super) type RecordsByPattern = HashMap<String, (u64, Kept)>;

/// All records of rules. A pattern that has no rule any more keeps its record.
pub(super) fn read(records: &dyn Records) -> Result<RecordsByPattern, StoreError> {
    let mut all = HashMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = records.list(KIND, PREFIX, after.as_deref(), MAX_RECORDS_PER_CALL)?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.name.clone());
        for record in &page {
            let pattern = record.name.strip_prefix(PREFIX).unwrap_or_default().to_owned();
            // One that cannot be read is written anew.
            let kept = serde_json::from_slice(&record.value).unwrap_or_default();
            all.insert(pattern, (record.version, kept));
        }
    }
}

/// Adds to the records what this process has purged and forgotten since the last time, and what its last run found.
pub(super) fn save(records: &dyn Records, retention: &Retention) -> Result<(), StoreError> {
    retention.ledger().saves += 1;
    let saved = try_save(records, retention);
    retention.ledger().saves += 1;
    saved
}

/// The records, and what this process has to add to them, as of one moment.
pub(super) fn read_all(
    records: &dyn Records,
    retention: &Retention,
) -> Result<(RecordsByPattern, Vec<RuleState>), StoreError> {
    let mut tries = 0;
    loop {
        let before = retention.ledger().saves;
        let kept = read(records)?;
        let ledger = retention.ledger();
        tries += 1;
        // Two numbers that are a moment apart are better than none.
        if (ledger.saves == before && before.is_multiple_of(2)) || tries == MAX_READS {
            return Ok((kept, ledger.rules.clone()));
        }
        drop(ledger);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn try_save(records: &dyn Records, retention: &Retention) -> Result<(), StoreError> {
    for _ in 0..MAX_TRIES {
        let kept = read(records)?;
        let states = retention.ledger().rules.clone();
        let mut writes = Vec::with_capacity(states.len());
        for (rule, state) in retention.rules.iter().zip(&states) {
            let pattern = rule.pattern.to_string();
            let (version, before) = kept.get(&pattern).cloned().unwrap_or_default();
            let next = Kept {
                purged_events: before.purged_events.saturating_add(state.unsaved_events),
                topics: state.topics,
                pending_events: state.pending_events,
                forgotten_identities: before.forgotten_identities.saturating_add(state.unsaved_identities),
                pending_identities: state.pending_identities,
                ran_at: state.ran_at.map(Timestamp::as_micros),
                node: retention.node.clone(),
                error: state.error.as_deref().map(shortened),
            };
            let value = serde_json::to_vec(&next).unwrap_or_default();
            let mut write = RecordWrite::create(KIND, format!("{PREFIX}{pattern}"), value);
            write.expected_version = (version > 0).then_some(version);
            writes.push(write);
        }
        if let RecordOutcome::Written(_) = records.write(&writes)? {
            // This thread alone counts, so what is there now is what was written.
            for (rule, saved) in retention.ledger().rules.iter_mut().zip(&states) {
                rule.unsaved_events -= saved.unsaved_events;
                rule.unsaved_identities -= saved.unsaved_identities;
            }
            return Ok(());
        }
    }
    Err(StoreError::unavailable("other nodes write the records of retention all the time"))
}

fn shortened(error: &str) -> String {
    error[..error.floor_char_boundary(MAX_ERROR_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use aggregator_core::{DedupStore as _, MemoryStore};

    use super::*;
    use crate::config::Config;

    /// A reader that comes while the records are written counts nothing twice, and leaves nothing out.
    #[test]
    fn a_total_never_goes_back() {
        let store = MemoryStore::default();
        let records = store.records().unwrap();
        let rule = "t=count:1".parse().unwrap();
        let retention = Retention::new(&Config { retain: vec![rule], ..Config::default() });
        let done = AtomicBool::new(false);
        let total = || {
            let (kept, states) = read_all(records, &retention).unwrap();
            kept.get("t").map_or(0, |(_, kept)| kept.purged_events) + states[0].unsaved_events
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    retention.ledger().purged(0, 1);
                    save(records, &retention).unwrap();
                }
                done.store(true, Ordering::SeqCst);
            });
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let next = total();
                assert!((last..=2_000).contains(&next), "{next} after {last}");
                last = next;
            }
        });
        assert_eq!(total(), 2_000);
    }

    /// As a program wrote it that knew nothing of forgotten identities.
    #[test]
    fn an_older_record_is_read_and_one_of_later_is_too() {
        let kept = |text: &str| serde_json::from_str::<Kept>(text).unwrap();
        let old =
            kept(r#"{"purged_events":7,"topics":1,"pending_events":2,"ran_at":5,"node":"n","error":null}"#);
        let expected = Kept {
            purged_events: 7,
            topics: 1,
            pending_events: 2,
            ran_at: Some(5),
            node: "n".into(),
            ..Kept::default()
        };
        assert_eq!(old, expected);
        assert_eq!(kept(r#"{"forgotten_identities":3,"of_later":1}"#).forgotten_identities, 3);
    }
}
