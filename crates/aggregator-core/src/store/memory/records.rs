//! Small named values with versions.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::MemoryStore;
use crate::store::records::{
    MAX_VALUE_BYTES_PER_CALL, Record, RecordOutcome, RecordWrite, Records, StaleRecord, check_key,
    check_list, check_writes,
};
use crate::{StoreError, Timestamp};

#[derive(Default)]
pub(super) struct RecordTable {
    /// By kind and name.
    records: BTreeMap<(String, String), Record>,
    /// The newest version of any record, deleted ones included.
    last_version: u64,
}

impl RecordTable {
    fn write(&mut self, writes: &[RecordWrite]) -> RecordOutcome {
        let current = |write: &RecordWrite| {
            self.records.get(&(write.kind.clone(), write.name.clone())).map(|record| record.version)
        };
        let stale: Vec<_> = writes
            .iter()
            .enumerate()
            .map(|(index, write)| (write, StaleRecord { index, version: current(write) }))
            .filter(|(write, record)| record.version != write.expected_version)
            .map(|(_, record)| record)
            .collect();
        if stale.is_empty() {
            RecordOutcome::Written(writes.iter().map(|write| self.apply(write)).collect())
        } else {
            RecordOutcome::Stale(stale)
        }
    }

    /// Makes one change, and returns the new version.
    fn apply(&mut self, RecordWrite { kind, name, value, .. }: &RecordWrite) -> u64 {
        self.last_version += 1;
        let key = (kind.clone(), name.clone());
        match value {
            Some(value) => {
                let record = Record::new(kind, name, self.last_version, value.clone());
                self.records.insert(key, record);
            }
            None => {
                self.records.remove(&key);
            }
        }
        self.last_version
    }
}

impl Records for MemoryStore {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Record>, StoreError> {
        check_key(kind, name)?;
        let state = self.state_to_read("reading a record")?;
        Ok(state.records.records.get(&(kind.to_owned(), name.to_owned())).cloned())
    }

    fn list(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        check_list(kind, limit)?;
        let state = self.state_to_read("listing records")?;
        let key = |name: &str| (kind.to_owned(), name.to_owned());
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(key(after)),
            _ => Bound::Included(key(prefix)),
        };
        let behind = state.records.records.range((from, Bound::Unbounded)).map(|(_, record)| record);
        let of_list = behind.take_while(|record| record.kind == kind && record.name.starts_with(prefix));
        let mut bytes = 0;
        let fits = |record: &&Record| {
            let fits = bytes < MAX_VALUE_BYTES_PER_CALL;
            bytes += record.value.len();
            fits
        };
        Ok(of_list.take(limit).take_while(fits).cloned().collect())
    }

    fn write(&self, writes: &[RecordWrite]) -> Result<RecordOutcome, StoreError> {
        check_writes(writes)?;
        Ok(self.state()?.records.write(writes))
    }

    fn now(&self) -> Result<Timestamp, StoreError> {
        Ok((self.clock)())
    }
}
