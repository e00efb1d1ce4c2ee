//! Random writes, reads, lists and restarts against a plain map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use proptest::{collection, option, sample};

use super::super::model::config;
use super::super::{Backend, Case, CaseOptions, assert_sound, cases};
use super::records;
use crate::store::records::{Record, RecordOutcome, RecordWrite, StaleRecord};
use crate::{DedupStore, StoreError};

pub(in crate::store::conformance) const CASES: &[Case] = cases![random_records_agree_with_a_plain_map];

const KINDS: [&str; 2] = ["key", "lease"];
const NAMES: [&str; 7] = ["a", "a%", "a_", "aa", "b", "é", "日本"];

/// Which version a write expects.
#[derive(Debug, Clone)]
enum Expects {
    /// The one that the record has, or that there is none.
    Right,
    /// That there is no such record.
    None,
    /// One that some record had at some time.
    Some(sample::Index),
}

#[derive(Debug, Clone)]
struct Draft {
    kind: &'static str,
    name: &'static str,
    expects: Expects,
    value: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Operation {
    Write(Vec<Draft>),
    Get(&'static str, &'static str),
    List { kind: &'static str, prefix: &'static str, after: Option<&'static str>, limit: usize },
    Reopen,
}

fn draft() -> impl Strategy<Value = Draft> {
    let expects = prop_oneof![
        8 => Just(Expects::Right),
        1 => Just(Expects::None),
        1 => any::<sample::Index>().prop_map(Expects::Some),
    ];
    // One in a while needs pages of its own.
    let value = prop_oneof![
        6 => collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 5_000..30_000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    (sample::select(&KINDS[..]), sample::select(&NAMES[..]), expects, option::weighted(0.75, value))
        .prop_map(|(kind, name, expects, value)| Draft { kind, name, expects, value })
}

fn operation() -> impl Strategy<Value = Operation> {
    let (kinds, names) = (|| sample::select(&KINDS[..]), || sample::select(&NAMES[..]));
    let prefixes = sample::select(&["", "a", "a%", "é", "c"][..]);
    prop_oneof![
        6 => collection::vec(draft(), 1..6).prop_map(Operation::Write),
        2 => (kinds(), names()).prop_map(|(kind, name)| Operation::Get(kind, name)),
        2 => (kinds(), prefixes, option::of(names()), 1..10_usize)
            .prop_map(|(kind, prefix, after, limit)| Operation::List { kind, prefix, after, limit }),
        1 => Just(Operation::Reopen),
    ]
}

type Key = (&'static str, &'static str);

/// The records that the store has to have.
#[derive(Default)]
struct Model {
    records: BTreeMap<Key, (u64, Vec<u8>)>,
    /// The newest version that each name ever had.
    newest: BTreeMap<Key, u64>,
    /// Every version there was.
    versions: Vec<u64>,
}

impl Model {
    fn version(&self, key: Key) -> Option<u64> {
        self.records.get(&key).map(|(version, _)| *version)
    }

    fn writes(&self, drafts: &[Draft]) -> Vec<RecordWrite> {
        let write = |draft: &Draft| RecordWrite {
            kind: draft.kind.into(),
            name: draft.name.into(),
            expected_version: match &draft.expects {
                Expects::Right => self.version((draft.kind, draft.name)),
                Expects::None => None,
                Expects::Some(_) if self.versions.is_empty() => Some(1),
                Expects::Some(which) => Some(*which.get(&self.versions)),
            },
            value: draft.value.clone(),
        };
        drafts.iter().map(write).collect()
    }

    fn judge(
        &mut self,
        drafts: &[Draft],
        writes: &[RecordWrite],
        answer: Result<RecordOutcome, StoreError>,
    ) -> TestCaseResult {
        let keys: BTreeSet<Key> = drafts.iter().map(|draft| (draft.kind, draft.name)).collect();
        let needs_version = |write: &RecordWrite| write.value.is_none() && write.expected_version.is_none();
        if keys.len() < drafts.len() || writes.iter().any(needs_version) {
            prop_assert!(matches!(answer, Err(StoreError::Invalid(_))), "{:?}", answer);
            return Ok(());
        }
        let current = drafts.iter().map(|draft| self.version((draft.kind, draft.name)));
        let stale: Vec<_> = current
            .zip(writes)
            .enumerate()
            .filter(|(_, (current, write))| *current != write.expected_version)
            .map(|(index, (version, _))| StaleRecord { index, version })
            .collect();
        let versions = match answer.unwrap() {
            RecordOutcome::Stale(told) => {
                prop_assert_eq!(told, stale);
                return Ok(());
            }
            RecordOutcome::Written(versions) => versions,
        };
        prop_assert_eq!(stale, []);
        prop_assert_eq!(versions.len(), drafts.len());
        for (draft, version) in drafts.iter().zip(versions) {
            let key = (draft.kind, draft.name);
            let newest = self.newest.insert(key, version).unwrap_or(0);
            prop_assert!(version > newest, "{:?} gets {} after {}", key, version, newest);
            self.versions.push(version);
            match &draft.value {
                Some(value) => self.records.insert(key, (version, value.clone())),
                None => self.records.remove(&key),
            };
        }
        Ok(())
    }

    fn list(&self, kind: &str, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Record> {
        let is_listed = |(of, name): &&Key| {
            *of == kind && name.starts_with(prefix) && after.is_none_or(|after| *name > after)
        };
        let listed = self.records.keys().filter(is_listed).take(limit);
        listed.map(|key| self.record(*key).expect("it is there")).collect()
    }

    fn record(&self, key: Key) -> Option<Record> {
        let (version, value) = self.records.get(&key)?;
        Some(Record::new(key.0, key.1, *version, value.clone()))
    }
}

fn random_records_agree_with_a_plain_map(backend: &dyn Backend) {
    let reopens = backend.reopen(backend.open(CaseOptions::default()), CaseOptions::default()).is_some();
    let operations = collection::vec(operation(), 1..=40);
    let outcome =
        TestRunner::new(config(backend.model_runs())).run(&operations, |ops| run(backend, reopens, &ops));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn run(backend: &dyn Backend, reopens: bool, operations: &[Operation]) -> TestCaseResult {
    let mut store: Arc<dyn DedupStore> = backend.open(CaseOptions::default());
    let mut model = Model::default();
    for operation in operations {
        match operation {
            Operation::Write(drafts) => {
                let writes = model.writes(drafts);
                let answer = records(&*store).write(&writes);
                model.judge(drafts, &writes, answer)?;
            }
            Operation::Get(kind, name) => {
                prop_assert_eq!(records(&*store).get(kind, name).unwrap(), model.record((kind, name)));
            }
            Operation::List { kind, prefix, after, limit } => {
                let listed = records(&*store).list(kind, prefix, *after, *limit).unwrap();
                prop_assert_eq!(listed, model.list(kind, prefix, *after, *limit));
            }
            Operation::Reopen if reopens => {
                store =
                    backend.reopen(store, CaseOptions::default()).expect("it could be opened again before");
            }
            Operation::Reopen => {}
        }
    }
    for kind in KINDS {
        prop_assert_eq!(records(&*store).list(kind, "", None, 100).unwrap(), model.list(kind, "", None, 100));
    }
    assert_sound(&*store);
    Ok(())
}
