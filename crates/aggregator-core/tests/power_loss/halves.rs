//! An operation of the disk fails in the middle of a transaction: all of it is there afterwards, or nothing.
//!
//! SQLite takes a transaction back by itself where it cannot go on. Whoever did not heed the error would go on without one,
//! a statement at a time, and leave the rest out.

use std::fs;
use std::path::{Path, PathBuf};

use aggregator_core::{
    CheckedRow, DedupStore, DedupStoreExt, Event, Import, Kept, KeptEvent, Partition, Record, RecordOutcome,
    RecordWrite, RowLimit, Scope, SqliteOptions, SqliteStore, StoreError, StoreStats, StoredRow, Timestamp,
    Topic, TopicInfo, TopicQuery,
};
use sqlite_power_loss::{Fault, FileKind};
use tempfile::TempDir;

use crate::lab::Lab;

const TOPICS: [&str; 3] = ["a", "b", "imported"];

/// With hardly any memory for pages: they are read all the time, and some are written before the commit.
fn open(lab: &Lab, path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open_with(path, SqliteOptions { cache_bytes: 16 << 10, ..lab.options(64 << 10) })
}

fn event(topic: &str, n: u64) -> Event {
    let payload = format!("\"{}\"", "x".repeat(usize::try_from(n * 37 % 900).unwrap()));
    let event = Event::new(topic, format!("{topic}-{n}")).unwrap().with_payload(&payload).unwrap();
    if n.is_multiple_of(5) { event.with_sequence(n) } else { event }
}

fn append(store: &SqliteStore, events: &[Event]) -> Result<(), StoreError> {
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).map(drop)
}

fn row(event_id: &str, kept: Kept) -> CheckedRow {
    let (topic, scope) = ("imported".to_owned(), Some(Scope::Topic));
    let source = matches!(kept, Kept::Event(_)).then(|| "elsewhere".to_owned());
    let processed_at = Timestamp::from_micros(2_000_000_000_000_000);
    StoredRow { topic, scope, event_id: event_id.to_owned(), source, processed_at, released: false, kept }
        .check()
        .unwrap()
}

fn rows() -> Vec<CheckedRow> {
    let kept = |seq: u64| match seq {
        ..=10 => Kept::Stub { seq, digest: [7; 16] },
        _ => Kept::Event(KeptEvent {
            seq,
            timestamp: "2026-01-01T00:00:00Z".into(),
            payload: format!("[{seq}]"),
            sequence: None,
            content_type: seq.is_multiple_of(3).then(|| "text/plain".into()),
            attributes: None,
        }),
    };
    let mut rows: Vec<_> = (1..=70).map(|seq| row(&seq.to_string(), kept(seq))).collect();
    rows.insert(40, row("alone", Kept::Identity));
    rows
}

/// Everything that a store can be asked for.
type Everything = (Vec<(u64, StoredRow)>, Vec<TopicInfo>, StoreStats, Vec<Record>);

fn everything(store: &SqliteStore) -> Everything {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
    let rows = store.rows(Partition(0), 0, RowLimit::default()).unwrap();
    let mut stats = store.stats().unwrap();
    stats.bytes = 0;
    (rows, store.topics(&TopicQuery { times: true, ..TopicQuery::default() }).unwrap(), stats, leases(store))
}

fn leases(store: &SqliteStore) -> Vec<Record> {
    store.records().unwrap().list("lease", "", None, 100).unwrap()
}

struct Experiment {
    lab: Lab,
    /// A file to begin with.
    filled: PathBuf,
    _directory: TempDir,
}

impl Experiment {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let (directory, filled) = lab.empty_store();
        let store = open(&lab, &filled).unwrap();
        for first in (0..120).step_by(30) {
            append(
                &store,
                &(first..first + 30).map(|n| event(TOPICS[usize::from(n % 3 == 0)], n)).collect::<Vec<_>>(),
            )
            .unwrap();
        }
        let lease = |n: usize| RecordWrite::create("lease", n.to_string(), vec![b'1'; n * 400]);
        let written = store.records().unwrap().write(&(0..8).map(lease).collect::<Vec<_>>()).unwrap();
        assert!(matches!(written, RecordOutcome::Written(_)));
        drop(store);
        Self { lab, filled, _directory: directory }
    }

    /// With a purged topic.
    fn purged(self, topic: &Topic) -> Self {
        open(&self.lab, &self.filled).unwrap().purge(topic, 30).unwrap();
        self
    }

    fn begin(&self) -> (TempDir, PathBuf, SqliteStore) {
        let (directory, path) = self.lab.empty_store();
        fs::copy(&self.filled, &path).unwrap();
        let store = open(&self.lab, &path).unwrap();
        (directory, path, store)
    }

    /// Fails one operation after the other while the store does what it is asked for.
    fn assert_all_or_nothing(&self, ask: impl Fn(&SqliteStore) -> Result<(), StoreError>) {
        let (_directory, _, store) = self.begin();
        let before = everything(&store);
        ask(&store).unwrap();
        let after = everything(&store);
        assert_ne!(before, after);
        drop(store);
        for (fault, on) in [
            (Fault::ReadFails, FileKind::Database),
            (Fault::ReadFails, FileKind::Log),
            (Fault::WriteFails, FileKind::Log),
            (Fault::ShortWrite, FileKind::Log),
        ] {
            let mut failed = 0;
            for nth in 1.. {
                let (_directory, path, store) = self.begin();
                self.lab.disk.fail_nth(nth, on, fault);
                let done = ask(&store);
                drop(store);
                let came = !self.lab.disk.clear_faults();
                let store = open(&self.lab, &path).unwrap();
                let when = format!("{fault:?} at {nth} of the {on:?}: {done:?}");
                let is_after = everything(&store) == after;
                // What failed may have been done: the commit stands where only a copy of the log failed.
                assert!(is_after || (done.is_err() && everything(&store) == before), "{when}");
                failed += u64::from(done.is_err());
                if !came {
                    break;
                }
            }
            assert!(failed > 0, "no {fault:?} of the {on:?} failed anything");
        }
    }
}

#[test]
fn an_append_is_whole_or_not_there_whichever_operation_fails() {
    let experiment = Experiment::new("half-an-append");
    // New ones of three topics, of which one is new, and repeats.
    let events: Vec<_> =
        (60..240).map(|n| event(["b", "a", "a", "new"][usize::try_from(n).unwrap() % 4], n)).collect();
    experiment.assert_all_or_nothing(|store| append(store, &events));
}

#[test]
fn an_import_is_whole_or_not_there_whichever_operation_fails() {
    let experiment = Experiment::new("half-an-import");
    let rows = rows();
    let mut totals = TopicInfo::new(Topic::new("imported").unwrap(), Scope::Topic);
    (totals.last_seq, totals.purged_seq, totals.duplicates, totals.conflicts) = (70, 10, 5, 2);
    experiment.assert_all_or_nothing(|store| {
        let topics = std::slice::from_ref(&totals);
        store.import(Partition(0), Import { topics, ..Import::rows(&rows) }).map(drop)
    });
}

#[test]
fn a_purge_is_whole_or_not_there_whichever_operation_fails() {
    let experiment = Experiment::new("half-a-purge");
    let topic = Topic::new("a").unwrap();
    experiment.assert_all_or_nothing(|store| store.purge(&topic, 30).map(drop));
}

#[test]
fn what_is_forgotten_is_so_wholly_or_not_at_all_whichever_operation_fails() {
    let topic = Topic::new("a").unwrap();
    let experiment = Experiment::new("half-of-what-is-forgotten").purged(&topic);
    experiment.assert_all_or_nothing(|store| {
        store.forget_identities(&topic, Timestamp::from_micros(i64::MAX), 20).map(drop)
    });
}

#[test]
fn a_record_write_is_whole_or_not_there_whichever_operation_fails() {
    let experiment = Experiment::new("half-a-record-write");
    experiment.assert_all_or_nothing(|store| {
        let leases = (0..8).map(|n: usize| {
            let lease = store.records().unwrap().get("lease", &n.to_string())?.expect("it was written");
            Ok(match n % 4 {
                0 => RecordWrite::delete(&lease),
                1 => RecordWrite::create("lease", format!("new {n}"), vec![b'2'; n * 200]),
                _ => RecordWrite::update(&lease, vec![b'2'; n * 600]),
            })
        });
        let writes = leases.collect::<Result<Vec<_>, StoreError>>()?;
        let outcome = store.records().unwrap().write(&writes)?;
        assert!(matches!(outcome, RecordOutcome::Written(_)));
        Ok(())
    });
}
