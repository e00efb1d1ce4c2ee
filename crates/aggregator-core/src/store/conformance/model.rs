//! Random operations, compared with a model that is plain enough to be read as the contract.
//!
//! The model shares no code with any store, so that a mistake in what they share is seen, too.
//! `PROPTEST_CASES` asks for another number of runs and `PROPTEST_RNG_SEED` for other runs.

pub(super) mod operation;
mod reference;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};
use proptest::{collection, prop_assert_eq};

use self::operation::{Draft, Name, Operation, TOPICS};
use self::reference::Reference;
use self::walk::Walk;
use super::{Backend, Case, CaseOptions, cases, query, totals};
use crate::store::Erased;
use crate::{
    AttemptId, DedupStore, DedupStoreExt, Event, Partition, Query, Receipt, Timestamp, Topic, TopicQuery,
};

pub(super) const CASES: &[Case] = cases![random_operations_agree_with_a_plain_model];

const MAX_OPERATIONS: usize = 40;
/// One less than there are, so that some appends are refused.
const MAX_TOPICS: usize = TOPICS.len() - 1;

fn random_operations_agree_with_a_plain_model(backend: &dyn Backend) {
    let reopens = backend.reopen(backend.open(CaseOptions::default()), CaseOptions::default()).is_some();
    let operations = collection::vec(operation::any(), 1..=MAX_OPERATIONS);
    let outcome = TestRunner::new(config(backend.model_runs()))
        .run(&operations, |operations| Run::new(backend, reopens).run(&operations));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// This many runs, unless the environment says otherwise.
pub(super) fn config(runs: u32) -> Config {
    let asked = |name| std::env::var_os(name).is_some();
    let config = Config::default();
    Config {
        cases: if asked("PROPTEST_CASES") { config.cases } else { runs },
        // The same runs every time: a red test stays red until it is mended.
        rng_seed: if asked("PROPTEST_RNG_SEED") { config.rng_seed } else { RngSeed::Fixed(1) },
        failure_persistence: None,
        ..config
    }
}

/// A store and what it has to agree with.
struct Run<'b> {
    backend: &'b dyn Backend,
    /// Whether the backend keeps anything when it is closed.
    reopens: bool,
    options: CaseOptions,
    clock: Arc<AtomicI64>,
    store: Option<Arc<dyn DedupStore>>,
    reference: Reference,
    /// Readers that have begun and can go on.
    walks: Vec<Walk>,
}

impl<'b> Run<'b> {
    fn new(backend: &'b dyn Backend, reopens: bool) -> Self {
        let clock = Arc::new(AtomicI64::new(0));
        let now = Arc::clone(&clock);
        let options = CaseOptions {
            clock: Arc::new(move || Timestamp::from_micros(now.load(Ordering::SeqCst))),
            max_topics: MAX_TOPICS as u64,
        };
        let store = backend.open(options.clone());
        let reference = Reference::new(&*store);
        Self { backend, reopens, options, clock, store: Some(store), reference, walks: Vec::new() }
    }

    fn store(&self) -> &dyn DedupStore {
        self.store.as_deref().expect("it is open but for the moment of a reopen")
    }

    fn run(mut self, operations: &[Operation]) -> TestCaseResult {
        for operation in operations {
            self.step(operation)?;
        }
        // Every reader can still go on from its cursor.
        for walk in &mut self.walks {
            let store = self.store.as_deref().expect("it is open");
            while !walk.read(store, &self.reference, 3)? {}
        }
        if self.store().maintain().is_some() {
            prop_assert_eq!(self.store().verify().unwrap(), self.reference.verified());
        }
        Ok(())
    }

    fn step(&mut self, operation: &Operation) -> TestCaseResult {
        match operation {
            Operation::Append(drafts) => self.append(drafts)?,
            Operation::Clock(micros) => self.clock.store(*micros, Ordering::SeqCst),
            Operation::Read { filters, limit, pages } => {
                self.walks.push(Walk::new(filters.clone()));
                self.read_on(self.walks.len() - 1, *limit, *pages)?;
            }
            Operation::ReadOn { .. } if self.walks.is_empty() => {}
            Operation::ReadOn { walk, limit, pages } => {
                self.read_on(walk.index(self.walks.len()), *limit, *pages)?;
            }
            Operation::Lookup(names) => {
                let ids: Vec<_> = names.iter().map(Name::identity).collect();
                let expected: Vec<_> = names.iter().map(|name| self.reference.seen(name)).collect();
                prop_assert_eq!(self.store().lookup(&ids).unwrap(), expected);
            }
            Operation::Topics { topics, after, limit, times } => {
                let expected = self.reference.topics(topics, *after, *limit, *times);
                let after = after.map(|name| Topic::new(name).unwrap());
                let topics = topics.parse().unwrap();
                let query = TopicQuery { topics, after, limit: *limit, times: *times };
                prop_assert_eq!(self.store().topics(&query).unwrap(), expected);
            }
            Operation::Purge { .. } if self.store().maintain().is_none() => {}
            Operation::Purge { topic, through_seq } => {
                let expected = self.reference.purge(topic, *through_seq);
                let topic = Topic::new(*topic).unwrap();
                prop_assert_eq!(self.store().purge(&topic, *through_seq).unwrap(), expected);
            }
            Operation::Forget { .. } if self.store().forget().is_none() => {}
            Operation::Forget { topic, before, most } => {
                let expected = self.reference.forget(topic, *before, *most);
                let (topic, before) = (Topic::new(*topic).unwrap(), Timestamp::from_micros(*before));
                let forget = self.store().forget().expect("it was asked for");
                prop_assert_eq!(forget.forgettable_identities(&topic, before, *most).unwrap(), expected);
                prop_assert_eq!(forget.forget_identities(&topic, before, *most).unwrap(), expected);
            }
            Operation::Erase(_) | Operation::Release(_) if self.store().amend().is_none() => {}
            Operation::Erase(names) => {
                let ids: Vec<_> = names.iter().map(Name::identity).collect();
                let expected: Vec<_> =
                    names.iter().map(|name| Erased::new(self.reference.erase(name))).collect();
                prop_assert_eq!(self.store().erase(&ids).unwrap(), expected);
            }
            Operation::Release(names) => {
                let ids: Vec<_> = names.iter().map(Name::identity).collect();
                let expected: Vec<_> = names.iter().map(|name| self.reference.release(name)).collect();
                prop_assert_eq!(self.store().release(&ids).unwrap(), expected);
            }
            Operation::Reopen if self.reopens => {
                let closed = self.store.take().expect("it is open");
                self.store = self.backend.reopen(closed, self.options.clone());
            }
            Operation::Reopen => {}
        }
        prop_assert_eq!(totals(self.store()), self.reference.stats());
        self.reference.judge_newest(self.store().stats().unwrap().newest_processed_at)
    }

    fn append(&mut self, drafts: &[Draft]) -> TestCaseResult {
        let partitions = self.store().partitions();
        let mut parts: BTreeMap<Partition, Vec<&Draft>> = BTreeMap::new();
        for draft in drafts {
            parts.entry(partitions.of(draft.topic)).or_default().push(draft);
        }
        // Both ways, where there are two.
        if self.store().across().is_some() && drafts.len().is_multiple_of(2) {
            return self.append_across(drafts, &parts);
        }
        for (partition, drafts) in parts {
            let events: Vec<_> = drafts.iter().map(|draft| draft.event()).collect();
            let views: Vec<_> = events.iter().map(Event::view).collect();
            let answer = self.store().append(partition, AttemptId::new(), &views);
            if let Some(receipts) = self.reference.judge(&drafts, answer)? {
                self.take(partition, &drafts, &receipts)?;
                self.learn_offsets()?;
            }
        }
        Ok(())
    }

    fn append_across(
        &mut self,
        drafts: &[Draft],
        parts: &BTreeMap<Partition, Vec<&Draft>>,
    ) -> TestCaseResult {
        let events: Vec<_> = drafts.iter().map(Draft::event).collect();
        let views: Vec<_> = events.iter().map(Event::view).collect();
        let answer = self.store().append_across(AttemptId::new(), &views);
        let all: Vec<_> = drafts.iter().collect();
        let Some(receipts) = self.reference.judge(&all, answer)? else { return Ok(()) };
        let partitions = self.store().partitions();
        for (&partition, part) in parts {
            let of_part =
                all.iter().zip(&receipts).filter(|(draft, _)| partitions.of(draft.topic) == partition);
            let receipts: Vec<_> = of_part.map(|(_, receipt)| *receipt).collect();
            self.take(partition, part, &receipts)?;
        }
        self.learn_offsets()
    }

    fn take(&mut self, partition: Partition, drafts: &[&Draft], receipts: &[Receipt]) -> TestCaseResult {
        self.reference.take(partition, self.clock.load(Ordering::SeqCst), drafts, receipts)
    }

    fn learn_offsets(&mut self) -> TestCaseResult {
        let everything = Query { limit: Query::MAX_LIMIT, ..query("*") };
        let read = self.store().read(&everything).unwrap().events;
        self.reference.learn_offsets(&read)
    }

    fn read_on(&mut self, walk: usize, limit: usize, pages: usize) -> TestCaseResult {
        let store = self.store.as_deref().expect("it is open");
        for _ in 0..pages {
            self.walks[walk].read(store, &self.reference, limit)?;
        }
        Ok(())
    }
}
