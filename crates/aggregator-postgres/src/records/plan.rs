//! Decides what becomes of a write of records, from what the database knows under the locks of their buckets. It sends
//! no SQL and waits for nothing.

use std::collections::BTreeMap;

use aggregator_core::event::digest;
use aggregator_core::store::{RecordWrite, StaleRecord};

use crate::fault::{Failure, Result};

/// How many buckets there are. Neither this number nor [`bucket`] can ever change: programs that disagree about them
/// would not lock each other out.
pub(crate) const BUCKETS: i32 = 256;

/// The bucket of a record: the first byte of the XXH3-128 of its kind, a NUL and its name.
pub(crate) fn bucket(kind: &str, name: &str) -> i32 {
    i32::from(digest(&format!("{kind}\0{name}"))[0])
}

/// A bucket as it was when it was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BucketState {
    /// The newest version of its records, deleted ones included.
    pub(super) last_version: u64,
    /// Whether this very attempt was the last one that wrote to it.
    pub(super) written_by_this: bool,
    /// New versions are above this number: the time of the database's clock, in microseconds. So a database that was
    /// restored to an older state gives out no version twice.
    pub(super) version_floor: u64,
}

/// A record as it was when its bucket was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockedRecord {
    pub(super) version: u64,
    /// Whether this very attempt wrote it.
    pub(super) written_by_this: bool,
}

/// What the database knew when the buckets were locked.
pub(super) struct RecordSnapshot {
    pub(super) buckets: BTreeMap<i32, BucketState>,
    /// In the order of the writes; `None` where there is no such record.
    pub(super) records: Vec<Option<LockedRecord>>,
}

/// A commit that was sent and whose outcome is unknown.
#[derive(Debug, Clone)]
pub(super) struct SentCommit {
    /// The versions it gave, in the order of the writes.
    pub(super) versions: Vec<u64>,
    /// The newest version of each bucket before it.
    before: BTreeMap<i32, u64>,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Decision {
    /// Answer that these records are stale.
    Stale(Vec<StaleRecord>),
    /// Write, with these versions.
    Write(NewVersions),
    /// An earlier try has committed: make sure that its commit is durable, and answer with its versions.
    Confirm(Vec<u64>),
    /// Nobody can know whether an earlier try has committed.
    Unknown,
}

/// The versions that a write gives.
#[derive(Debug)]
pub(super) struct NewVersions {
    pub(super) sent: SentCommit,
    /// The newest version of each bucket after the write.
    pub(super) buckets: BTreeMap<i32, u64>,
}

/// What became of an earlier try.
enum Earlier {
    Committed,
    NotCommitted,
    Unknown,
}

/// Decides about `writes`. `sent` is the commit of an earlier try, if its outcome is unknown.
pub(super) fn decide(
    writes: &[RecordWrite],
    snapshot: &RecordSnapshot,
    sent: Option<&SentCommit>,
) -> Result<Decision> {
    if let Some(sent) = sent {
        match outcome(writes, snapshot, sent) {
            Earlier::Committed => return Ok(Decision::Confirm(sent.versions.clone())),
            Earlier::NotCommitted => {}
            Earlier::Unknown => return Ok(Decision::Unknown),
        }
    }
    let stale: Vec<_> = writes
        .iter()
        .zip(&snapshot.records)
        .enumerate()
        .map(|(index, (write, record))| (write, StaleRecord { index, version: record.map(|it| it.version) }))
        .filter(|(write, record)| write.expected_version != record.version)
        .map(|(_, record)| record)
        .collect();
    if !stale.is_empty() {
        return Ok(Decision::Stale(stale));
    }
    let before: BTreeMap<_, _> =
        snapshot.buckets.iter().map(|(&bucket, state)| (bucket, state.last_version)).collect();
    let mut buckets = before.clone();
    let mut versions = Vec::with_capacity(writes.len());
    for (write, record) in writes.iter().zip(&snapshot.records) {
        let number = bucket(&write.kind, &write.name);
        let last = buckets.get_mut(&number).ok_or_else(|| absent(number))?;
        if record.is_some_and(|record| record.version > *last) {
            let (kind, name) = (&write.kind, &write.name);
            let what = format!("the record {name} of kind {kind} has a version that was never given");
            return Err(Failure::corrupt(what));
        }
        let floor = snapshot.buckets.get(&number).map_or(0, |state| state.version_floor);
        *last = floor.max(*last) + 1;
        versions.push(*last);
    }
    Ok(Decision::Write(NewVersions { sent: SentCommit { versions, before }, buckets }))
}

/// What became of a commit, if the snapshot shows it. A commit changes either all of its records and buckets, or none.
fn outcome(writes: &[RecordWrite], snapshot: &RecordSnapshot, sent: &SentCommit) -> Earlier {
    let is_marked = snapshot.buckets.values().any(|bucket| bucket.written_by_this)
        || snapshot.records.iter().flatten().any(|record| record.written_by_this);
    if is_marked {
        return Earlier::Committed;
    }
    let mut buckets = snapshot.buckets.iter();
    let is_bucket_as_before =
        buckets.any(|(bucket, state)| sent.before.get(bucket) == Some(&state.last_version));
    // No version comes twice, so an unchanged version proves that nothing was written. A record that does not exist
    // proves nothing: it may have been created and deleted.
    let is_record_as_before = writes.iter().zip(&snapshot.records).any(|(write, record)| {
        write.expected_version.is_some() && write.expected_version == record.map(|it| it.version)
    });
    if is_bucket_as_before || is_record_as_before { Earlier::NotCommitted } else { Earlier::Unknown }
}

/// The error for a bucket without a row.
pub(super) fn absent(bucket: i32) -> Failure {
    Failure::corrupt(format!("the bucket {bucket} of records has no row"))
}

#[cfg(test)]
mod tests {
    use aggregator_core::store::Record;

    use super::*;

    fn of(name: &str) -> i32 {
        bucket("k", name)
    }

    fn record(version: u64) -> Option<LockedRecord> {
        Some(LockedRecord { version, written_by_this: false })
    }

    fn own(version: u64) -> Option<LockedRecord> {
        Some(LockedRecord { version, written_by_this: true })
    }

    fn update(name: &str, version: u64) -> RecordWrite {
        RecordWrite::update(&Record::new("k", name, version, ""), "x")
    }

    fn delete(name: &str, version: u64) -> RecordWrite {
        RecordWrite::delete(&Record::new("k", name, version, ""))
    }

    fn create(name: &str) -> RecordWrite {
        RecordWrite::create("k", name, "x")
    }

    fn snapshot(writes: &[RecordWrite], last: u64, records: &[Option<LockedRecord>]) -> RecordSnapshot {
        let state = BucketState { last_version: last, written_by_this: false, version_floor: 0 };
        let buckets = writes.iter().map(|write| (bucket(&write.kind, &write.name), state)).collect();
        RecordSnapshot { buckets, records: records.to_vec() }
    }

    /// The decision of a second try that finds `after`. The first try found `before` and sent its commit.
    fn again(writes: &[RecordWrite], before: &RecordSnapshot, after: &RecordSnapshot) -> Decision {
        let Decision::Write(new) = decide(writes, before, None).unwrap() else { panic!("it is not stale") };
        decide(writes, after, Some(&new.sent)).unwrap()
    }

    #[test]
    fn buckets_stay_what_they_are() {
        // Every program that uses the tables must compute the same buckets.
        let names = ["", "a", "b", "lease/7", "ü"];
        assert_eq!(names.map(of), [155, 152, 8, 198, 0]);
    }

    #[test]
    fn versions_of_one_bucket_are_drawn_one_by_one() {
        let twin = (0..).map(|n| n.to_string()).find(|name| name != "a" && of(name) == of("a")).unwrap();
        let writes = [update("a", 3), create(&twin)];
        let decision = decide(&writes, &snapshot(&writes, 9, &[record(3), None]), None).unwrap();
        let Decision::Write(new) = decision else { panic!("{decision:?}") };
        assert_eq!((new.sent.versions, new.buckets), (vec![10, 11], BTreeMap::from([(of("a"), 11)])));
    }

    #[test]
    fn versions_are_above_the_clock_and_above_all_before() {
        let writes = [create("a")];
        for (floor, expected) in [(5, 10), (9, 10), (1_000, 1_001)] {
            let mut snapshot = snapshot(&writes, 9, &[None]);
            snapshot.buckets.values_mut().for_each(|state| state.version_floor = floor);
            let decision = decide(&writes, &snapshot, None).unwrap();
            let Decision::Write(new) = decision else { panic!("{decision:?}") };
            assert_eq!(new.sent.versions, [expected], "{floor}");
        }
    }

    #[test]
    fn all_stale_records_are_named() {
        let writes = [update("a", 3), create("b"), update("c", 1), delete("d", 2)];
        let states = [record(4), record(7), record(1), None];
        let decision = decide(&writes, &snapshot(&writes, 9, &states), None).unwrap();
        let Decision::Stale(stale) = decision else { panic!("{decision:?}") };
        let stale: Vec<_> = stale.iter().map(|it| (it.index, it.version)).collect();
        assert_eq!(stale, [(0, Some(4)), (1, Some(7)), (3, None)]);
    }

    #[test]
    fn a_version_above_its_buckets_is_corruption() {
        let writes = [update("a", 10)];
        assert!(decide(&writes, &snapshot(&writes, 9, &[record(10)]), None).is_err());
    }

    #[test]
    fn a_commit_is_known_by_a_record_or_a_bucket_it_wrote() {
        let writes = [update("a", 3), update("b", 4)];
        let before = snapshot(&writes, 9, &[record(3), record(4)]);
        // Somebody else has written the other one since.
        let decision = again(&writes, &before, &snapshot(&writes, 12, &[own(10), record(12)]));
        assert!(matches!(&decision, Decision::Confirm(versions) if *versions == [10, 10]), "{decision:?}");

        let writes = [delete("a", 3)];
        let mut after = snapshot(&writes, 10, &[None]);
        after.buckets.get_mut(&of("a")).unwrap().written_by_this = true;
        let decision = again(&writes, &snapshot(&writes, 9, &[record(3)]), &after);
        assert!(matches!(&decision, Decision::Confirm(versions) if *versions == [10]), "{decision:?}");
    }

    #[test]
    fn a_commit_that_did_not_happen_is_known_by_an_unchanged_record_or_bucket() {
        let (writes, record) = ([update("a", 3), create("b")], record(3));
        let before = snapshot(&writes, 9, &[record, None]);
        // The record is as it was, whatever became of others in its bucket.
        for last in [9, 15] {
            let decision = again(&writes, &before, &snapshot(&writes, last, &[record, None]));
            assert!(matches!(decision, Decision::Write(_)), "{decision:?}");
        }
        // The buckets are as they were.
        let writes = [create("a")];
        let before = snapshot(&writes, 9, &[None]);
        assert!(matches!(again(&writes, &before, &before), Decision::Write(_)));
    }

    #[test]
    fn a_commit_whose_traces_others_have_overwritten_is_unknown() {
        for (write, was, is) in [
            // Did this write create the record and somebody delete it, or did somebody else do both?
            (create("a"), None, None),
            (create("a"), None, record(12)),
            (delete("a", 3), record(3), None),
            (delete("a", 3), record(3), record(12)),
            (update("a", 3), record(3), record(12)),
        ] {
            let writes = [write];
            let after = snapshot(&writes, 12, &[is]);
            let decision = again(&writes, &snapshot(&writes, 9, &[was]), &after);
            assert!(matches!(decision, Decision::Unknown), "{writes:?}: {decision:?}");
        }
    }
}
