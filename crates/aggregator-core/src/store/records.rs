//! Records: small named values with versions, changed by compare-and-set.
//!
//! They are for everything that is small, shared and changes. The server keeps its keys in them (kinds
//! `key`, `key-use`, `key-changes`, `audit`, `secret`) and what it has counted (`insight`). A user of records picks a kind of its own, because all users of a store
//! share its kinds. For example, a lease is a record
//! whose value holds its holder and its end by [`now`](Records::now); its version is the fencing token.

use std::collections::HashSet;

use crate::{Fault, InvalidField, StoreError, Timestamp};

/// The longest kind of a record, in bytes.
pub const MAX_RECORD_KIND_BYTES: usize = 64;

/// The longest name of a record, in bytes.
pub const MAX_RECORD_NAME_BYTES: usize = 512;

/// The largest value of a record, in bytes.
pub const MAX_RECORD_VALUE_BYTES: usize = 64 << 10;

/// The most records one call writes or lists.
pub const MAX_RECORDS_PER_CALL: usize = 1_000;

/// The most bytes of values in one call of [`Records::write`]. [`Records::list`] ends with the record that reaches
/// this number.
pub const MAX_VALUE_BYTES_PER_CALL: usize = 8 << 20;

/// A store's records. See [`DedupStore::records`](super::DedupStore::records).
///
/// # Contract
///
/// * **Compare and set.** A write names the version that it expects of each record. If a record has another version,
///   nothing is written.
/// * **All or nothing**, for all records of a write, at a crash as well.
/// * **Durable** as an append: `Ok` means what [`StoreInfo::durability`](super::StoreInfo::durability) says.
/// * **Versions never repeat** for a record, not even after it was deleted and created again. They only grow. So a
///   version is a fencing token.
/// * **Linearizable.** A read that begins after a write has returned sees that write or a later one, on every node.
/// * **Deadlines.** [`get`](Self::get) and [`list`](Self::list) keep the [`Deadline`](crate::Deadline) of their
///   caller, as the reads of a [`DedupStore`](super::DedupStore) do. Writes have none.
/// * **Errors.** `Err` from [`write`](Self::write) promises nothing: the write may have happened and its answer been
///   lost. The caller reads the records and decides.
pub trait Records: Send + Sync {
    /// The record, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an invalid kind or name; otherwise whatever the backend meets.
    fn get(&self, kind: &str, name: &str) -> Result<Option<Record>, StoreError>;

    /// Up to `limit` records (1 to [`MAX_RECORDS_PER_CALL`]) of a kind, in the byte order of their names: those whose names
    /// begin with `prefix` and, with `after`, come after that name. There are fewer if their values reach
    /// [`MAX_VALUE_BYTES_PER_CALL`], so a caller goes on after the last name until a list is empty.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an invalid kind or limit; otherwise whatever the backend meets.
    fn list(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Writes 1 to [`MAX_RECORDS_PER_CALL`] records in one commit, or none of them.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for what [`check_writes`] refuses; otherwise whatever the backend meets.
    fn write(&self, writes: &[RecordWrite]) -> Result<RecordOutcome, StoreError>;

    /// The store's own clock. Where many nodes share a store, they share this clock.
    ///
    /// # Errors
    /// Whatever the backend meets.
    fn now(&self) -> Result<Timestamp, StoreError>;
}

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its kind: see [`RecordWrite::kind`].
    pub kind: String,
    /// Its name within its kind.
    pub name: String,
    /// The version, from 1, given by its last write.
    pub version: u64,
    /// The value, as its writer encoded it.
    pub value: Vec<u8>,
}

impl Record {
    /// A record as a backend has read it.
    pub fn new(
        kind: impl Into<String>,
        name: impl Into<String>,
        version: u64,
        value: impl Into<Vec<u8>>,
    ) -> Self {
        Self { kind: kind.into(), name: name.into(), version, value: value.into() }
    }
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordWrite {
    /// Its kind: 1 to [`MAX_RECORD_KIND_BYTES`] of `a-z`, `0-9`, `_` and `-`.
    pub kind: String,
    /// Its name within its kind: 1 to [`MAX_RECORD_NAME_BYTES`] of UTF-8 without control characters.
    pub name: String,
    /// The version that the record must have; `None` if there must be no such record.
    pub expected_version: Option<u64>,
    /// The new value, up to [`MAX_RECORD_VALUE_BYTES`]; `None` deletes the record.
    pub value: Option<Vec<u8>>,
}

impl RecordWrite {
    /// Creates a record that must not exist yet.
    pub fn create(kind: impl Into<String>, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { kind: kind.into(), name: name.into(), expected_version: None, value: Some(value.into()) }
    }

    /// Changes `record`, if it is still the same.
    pub fn update(record: &Record, value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::delete(record) }
    }

    /// Deletes `record`, if it is still the same.
    pub fn delete(record: &Record) -> Self {
        Self {
            kind: record.kind.clone(),
            name: record.name.clone(),
            expected_version: Some(record.version),
            value: None,
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a stale write changed nothing"]
pub enum RecordOutcome {
    /// Everything was written: these are the new versions, in the order of the writes. A deletion gets a version, too;
    /// no record shows it.
    Written(Vec<u64>),
    /// Nothing was written: these records have another version than was expected, in the order of the writes.
    Stale(Vec<StaleRecord>),
}

/// A record that has another version than a write expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleRecord {
    /// The index of its write.
    pub index: usize,
    /// The version the record has; `None` if there is no such record.
    pub version: Option<u64>,
}

/// Refuses invalid writes: kinds, names or values out of bounds, too many writes, and two writes of one record. Every
/// backend calls it first.
///
/// # Errors
/// [`StoreError::Invalid`], which names every fault.
pub fn check_writes(writes: &[RecordWrite]) -> Result<(), StoreError> {
    if writes.is_empty() || writes.len() > MAX_RECORDS_PER_CALL {
        return Err(StoreError::invalid("writes", format!("must be 1 to {MAX_RECORDS_PER_CALL}")));
    }
    let bytes: usize = writes.iter().filter_map(|write| write.value.as_ref()).map(Vec::len).sum();
    if bytes > MAX_VALUE_BYTES_PER_CALL {
        let reason = format!(
            "have {bytes} bytes of values, and may have {MAX_VALUE_BYTES_PER_CALL}: write fewer at a time"
        );
        return Err(StoreError::invalid("writes", reason));
    }
    let mut faults = Vec::new();
    let mut seen = HashSet::new();
    for (index, write) in writes.iter().enumerate() {
        let mut refuse = |error| faults.push(Fault { index: Some(index), error });
        check_kind(&write.kind).err().into_iter().for_each(&mut refuse);
        check_name(&write.name).err().into_iter().for_each(&mut refuse);
        if write.value.as_ref().is_some_and(|value| value.len() > MAX_RECORD_VALUE_BYTES) {
            refuse(InvalidField::new("value", format!("must be at most {MAX_RECORD_VALUE_BYTES} bytes")));
        }
        if write.value.is_none() && write.expected_version.is_none() {
            refuse(InvalidField::new(
                "expected_version",
                "is missing: a deletion names the version it deletes",
            ));
        }
        if !seen.insert((&write.kind, &write.name)) {
            refuse(InvalidField::new("name", "is written twice in one call"));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(StoreError::Invalid(faults)) }
}

/// Refuses an invalid kind or name. Every backend calls it before it reads a record.
///
/// # Errors
/// [`StoreError::Invalid`] for the kind or the name.
pub fn check_key(kind: &str, name: &str) -> Result<(), StoreError> {
    check_kind(kind).and_then(|()| check_name(name)).map_err(one_fault)
}

/// Refuses an invalid kind or limit for [`Records::list`]. Every backend calls it before it lists.
///
/// # Errors
/// [`StoreError::Invalid`] for the kind or the limit.
pub fn check_list(kind: &str, limit: usize) -> Result<(), StoreError> {
    check_kind(kind).map_err(one_fault)?;
    if !(1..=MAX_RECORDS_PER_CALL).contains(&limit) {
        return Err(StoreError::invalid("limit", format!("must be 1 to {MAX_RECORDS_PER_CALL}")));
    }
    Ok(())
}

fn one_fault(error: InvalidField) -> StoreError {
    StoreError::Invalid(vec![Fault { index: None, error }])
}

fn check_kind(kind: &str) -> Result<(), InvalidField> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if kind.is_empty() || kind.len() > MAX_RECORD_KIND_BYTES || !kind.bytes().all(allowed) {
        let reason = format!("must be 1 to {MAX_RECORD_KIND_BYTES} characters of a-z, 0-9, _ and -");
        return Err(InvalidField::new("kind", reason));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), InvalidField> {
    if name.is_empty() || name.len() > MAX_RECORD_NAME_BYTES || name.chars().any(char::is_control) {
        let reason = format!("must be 1 to {MAX_RECORD_NAME_BYTES} bytes without control characters");
        return Err(InvalidField::new("name", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_with_a_write_is_named() {
        let long = "x".repeat(MAX_RECORD_NAME_BYTES + 1);
        let writes = [
            RecordWrite::create("Key", "a", "1"),
            RecordWrite::create("key", long, vec![0; MAX_RECORD_VALUE_BYTES + 1]),
            RecordWrite { value: None, ..RecordWrite::create("key", "b", "") },
            RecordWrite::create("key", "c", "1"),
            RecordWrite::create("key", "c", "2"),
        ];
        let Err(StoreError::Invalid(faults)) = check_writes(&writes) else { panic!("it is refused") };
        let named: Vec<_> = faults.iter().map(|fault| (fault.index.unwrap(), fault.error.field)).collect();
        assert_eq!(named, [(0, "kind"), (1, "name"), (1, "value"), (2, "expected_version"), (4, "name")]);
    }

    #[test]
    fn a_write_has_bounds() {
        let many: Vec<_> =
            (0..=MAX_RECORDS_PER_CALL).map(|n| RecordWrite::create("k", n.to_string(), "")).collect();
        assert!(check_writes(&[]).is_err());
        assert!(check_writes(&many).is_err());
        check_writes(&many[1..]).unwrap();
        let large = |count| -> Vec<_> {
            (0..count).map(|n: usize| RecordWrite::create("k", n.to_string(), vec![0; 64 << 10])).collect()
        };
        check_writes(&large(128)).unwrap();
        assert!(check_writes(&large(129)).is_err());
    }

    #[test]
    fn keys_and_lists_have_bounds() {
        check_key("lease-1_a", "orders.*/7 ü").unwrap();
        for (kind, name) in [("", "a"), ("K", "a"), ("k", ""), ("k", "a\nb")] {
            assert!(check_key(kind, name).is_err(), "{kind:?} {name:?}");
        }
        assert!(check_key(&"k".repeat(65), "a").is_err());
        check_list("k", MAX_RECORDS_PER_CALL).unwrap();
        assert!(check_list("k", 0).is_err());
        assert!(check_list("k", MAX_RECORDS_PER_CALL + 1).is_err());
    }
}
