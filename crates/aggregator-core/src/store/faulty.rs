//! A store that fails when it is told to, around one that works.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::{
    Amend, AppendAcross, AttemptId, DedupStore, DedupStoreExt as _, Forget, Maintain, Outage, Receipt,
    Records, Seen, StoreGauges, StoreInfo, StoreStats, TopicInfo, Transfer, Watch,
};
use crate::{Batch, EventRef, Fault, Identity, InvalidField, Page, Partition, Query, StoreError, TopicQuery};

/// What a [`FaultyStore`] does instead of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing is stored: [`StoreError::Unavailable`].
    Unavailable,
    /// Nothing is stored: [`StoreError::NoSpace`].
    NoSpace,
    /// Nothing is stored: [`StoreError::Corrupt`].
    Corrupt,
    /// It is committed, and the reply is lost: [`StoreError::Unavailable`].
    LostReply,
    /// It is committed, and the last receipt is missing: no store may do that.
    MissingReceipt,
    /// It is committed, and there is a receipt too many: no store may do that.
    SurplusReceipt,
    /// Nothing is stored, and the thread panics.
    Panic,
}

/// How a [`FaultyStore`] names the events that it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The first one of a batch, and none of the others.
    First,
    /// None: the fault is one of the batch.
    Nobody,
}

/// Wraps a store. Appends and reads fail as planned; everything else goes straight to it.
pub struct FaultyStore {
    inner: Arc<dyn DedupStore>,
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Default)]
struct Plan {
    appends: u64,
    events: usize,
    failures: Vec<(u64, Failure)>,
    refused: Option<(HashSet<String>, Naming)>,
    held: bool,
    reads: u64,
    /// Every so-manieth read fails.
    failing_reads: Option<u64>,
    outages: Vec<Outage>,
    gone: bool,
}

impl FaultyStore {
    /// Around `inner`, without a failure planned.
    pub fn new(inner: Arc<dyn DedupStore>) -> Self {
        Self { inner, plan: Mutex::default(), changed: Condvar::new() }
    }

    /// Fails the `nth` append from now on; the next one is 1.
    pub fn fail_nth(&self, nth: u64, failure: Failure) {
        let mut plan = self.plan();
        let at = plan.appends + nth;
        plan.failures.push((at, failure));
    }

    /// From now on, batches with an event of one of these ids are [`StoreError::Invalid`], by their payload.
    pub fn refuse(&self, event_ids: impl IntoIterator<Item = String>, naming: Naming) {
        self.plan().refused = Some((event_ids.into_iter().collect(), naming));
    }

    /// From now on, appends wait until [`Self::go_on`].
    pub fn hold(&self) {
        self.plan().held = true;
    }

    /// Lets the appends go that wait, and those to come.
    pub fn go_on(&self) {
        self.plan().held = false;
        self.changed.notify_all();
    }

    /// How many appends were begun; those that are held count.
    pub fn appends(&self) -> u64 {
        self.plan().appends
    }

    /// How many events all these appends had.
    pub fn events(&self) -> usize {
        self.plan().events
    }

    /// From now on every `nth` read fails with [`StoreError::Unavailable`]; none with `None`.
    pub fn fail_reads(&self, nth: Option<u64>) {
        self.plan().failing_reads = nth;
    }

    /// From now on, no read is answered, as of a database that cannot be reached; all are again with `false`.
    pub fn set_gone(&self, gone: bool) {
        self.plan().gone = gone;
    }

    /// From now on, it says this of its parts. Its calls go on as before.
    pub fn tell_outages(&self, outages: Vec<Outage>) {
        self.plan().outages = outages;
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the append, waits if it is held, and says how it has to fail.
    fn begin(&self, events: usize) -> Option<Failure> {
        let mut plan = self.plan();
        plan.appends += 1;
        plan.events += events;
        let number = plan.appends;
        let mut plan =
            self.changed.wait_while(plan, |plan| plan.held).unwrap_or_else(PoisonError::into_inner);
        let at = plan.failures.iter().position(|(at, _)| *at == number)?;
        Some(plan.failures.swap_remove(at).1)
    }

    fn check_there(&self) -> Result<(), StoreError> {
        if self.plan().gone { Err(StoreError::unavailable("gone as planned")) } else { Ok(()) }
    }

    fn check(&self, events: &[EventRef<'_>]) -> Result<(), StoreError> {
        let plan = self.plan();
        let Some((ids, naming)) = &plan.refused else { return Ok(()) };
        let Some(first) = events.iter().position(|event| ids.contains(event.event_id())) else {
            return Ok(());
        };
        let index = (*naming == Naming::First).then_some(first);
        Err(StoreError::Invalid(vec![Fault { index, error: InvalidField::new("payload", "as planned") }]))
    }

    fn append_or_fail(
        &self,
        events: &[EventRef<'_>],
        append: impl FnOnce() -> Result<Vec<Receipt>, StoreError>,
    ) -> Result<Vec<Receipt>, StoreError> {
        let reason = || "as planned".to_owned();
        match self.begin(events.len()) {
            None => self.check(events).and_then(|()| append()),
            Some(Failure::Unavailable) => Err(StoreError::Unavailable { reason: reason(), source: None }),
            Some(Failure::NoSpace) => Err(StoreError::NoSpace { reason: reason(), source: None }),
            Some(Failure::Corrupt) => Err(StoreError::Corrupt { what: reason(), source: None }),
            Some(Failure::LostReply) => {
                append()?;
                Err(StoreError::Unavailable { reason: reason(), source: None })
            }
            Some(Failure::MissingReceipt) => {
                let mut receipts = append()?;
                receipts.pop();
                Ok(receipts)
            }
            Some(Failure::SurplusReceipt) => {
                let mut receipts = append()?;
                receipts.extend(receipts.last().copied());
                Ok(receipts)
            }
            Some(Failure::Panic) => panic!("as planned"),
        }
    }
}

impl DedupStore for FaultyStore {
    fn info(&self) -> &StoreInfo {
        self.inner.info()
    }

    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.append_or_fail(events, || self.inner.append(partition, attempt, events))
    }

    fn prepare(&self, batch: &mut Batch) {
        self.inner.prepare(batch);
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.check_there()?;
        let mut plan = self.plan();
        plan.reads += 1;
        if plan.failing_reads.is_some_and(|nth| plan.reads.is_multiple_of(nth)) {
            return Err(StoreError::Unavailable { reason: "as planned".to_owned(), source: None });
        }
        drop(plan);
        self.inner.read(query)
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.check_there()?;
        self.inner.lookup(ids)
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.check_there()?;
        self.inner.topics(query)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.check_there()?;
        let mut stats = self.inner.stats()?;
        stats.unavailable.extend(self.plan().outages.iter().flat_map(|outage| outage.partitions.clone()));
        Ok(stats)
    }

    fn check_health(&self) -> Result<(), StoreError> {
        self.inner.check_health()
    }

    fn outages(&self) -> Vec<Outage> {
        [self.inner.outages(), self.plan().outages.clone()].concat()
    }

    fn gauges(&self) -> Option<StoreGauges> {
        self.inner.gauges()
    }

    fn across(&self) -> Option<&dyn AppendAcross> {
        self.inner.across().map(|_| self as &dyn AppendAcross)
    }

    fn maintain(&self) -> Option<&dyn Maintain> {
        self.inner.maintain()
    }

    fn amend(&self) -> Option<&dyn Amend> {
        self.inner.amend()
    }

    fn forget(&self) -> Option<&dyn Forget> {
        self.inner.forget()
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        self.inner.transfer()
    }

    fn records(&self) -> Option<&dyn Records> {
        self.inner.records()
    }

    fn watch(&self) -> Option<&dyn Watch> {
        self.inner.watch()
    }
}

impl AppendAcross for FaultyStore {
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        self.append_or_fail(events, || self.inner.append_across(attempt, events))
    }
}
