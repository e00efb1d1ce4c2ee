//! A store that fails when it is told to, around one that works.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::{
    Amend, AppendAcross, AttemptId, DedupStore, DedupStoreExt as _, Forget, Maintain, Outage, Receipt,
    Records, Seen, StoreGauges, StoreInfo, StoreStats, TopicInfo, Transfer, Watch,
};
use crate::{
    Batch, Deadline, EventRef, Fault, Identity, InvalidField, Page, Partition, Query, StoreError, TopicQuery,
};

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

/// What a [`FaultyStore`] is asked for, where something else is to happen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Its totals.
    Stats,
    /// Its records.
    Records,
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
    failing_partitions: HashMap<Partition, Failure>,
    refused: Option<(HashSet<String>, Naming)>,
    held: bool,
    reads: u64,
    /// Every so-manieth read fails.
    failing_reads: Option<u64>,
    outages: Vec<Outage>,
    gone: bool,
    late: bool,
    lost: Vec<Partition>,
    /// How many more reads from a cursor are told that it has expired.
    expiring_reads: u32,
    hooks: Vec<(Call, Box<dyn FnOnce() + Send>)>,
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

    /// From now on, every append of this partition fails so; none with `None`.
    pub fn fail_partition(&self, partition: Partition, failure: Option<Failure>) {
        let mut plan = self.plan();
        plan.failing_partitions.remove(&partition);
        plan.failing_partitions.extend(failure.map(|failure| (partition, failure)));
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

    /// From now on, no read is answered before the deadline of its caller; all are again with `false`.
    pub fn set_late(&self, late: bool) {
        self.plan().late = late;
    }

    /// Whoever goes on from a cursor is told the next `reads` times that it has expired, and to go on from the same one.
    pub fn expire_reads(&self, reads: u32) {
        self.plan().expiring_reads = reads;
    }

    /// From now on, these partitions are on a server that is gone: it knows that, and refuses whatever asks them.
    pub fn lose(&self, partitions: Vec<Partition>) {
        let outages = match &partitions[..] {
            [] => Vec::new(),
            lost => vec![Outage::new(lost.to_vec(), "lost as planned")],
        };
        let mut plan = self.plan();
        (plan.lost, plan.outages) = (partitions, outages);
    }

    /// Does this before the next call of the kind, on the thread that calls.
    pub fn before_next(&self, call: Call, act: impl FnOnce() + Send + 'static) {
        self.plan().hooks.push((call, Box::new(act)));
    }

    /// From now on, it says this of its parts. Its calls go on as before.
    pub fn tell_outages(&self, outages: Vec<Outage>) {
        self.plan().outages = outages;
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the append, waits if it is held, and says how it has to fail.
    fn begin(&self, partition: Option<Partition>, events: usize) -> Option<Failure> {
        let mut plan = self.plan();
        plan.appends += 1;
        plan.events += events;
        let number = plan.appends;
        let mut plan =
            self.changed.wait_while(plan, |plan| plan.held).unwrap_or_else(PoisonError::into_inner);
        match plan.failures.iter().position(|(at, _)| *at == number) {
            Some(at) => Some(plan.failures.swap_remove(at).1),
            None => plan.failing_partitions.get(&partition?).copied(),
        }
    }

    /// For a read, of these partitions.
    fn check_there(&self, asked: impl IntoIterator<Item = Partition>) -> Result<(), StoreError> {
        if self.plan().gone {
            return Err(StoreError::unavailable("gone as planned"));
        }
        if self.plan().late {
            let deadline = Deadline::current();
            std::thread::sleep(deadline.map_or(Duration::ZERO, Deadline::remaining));
            return Err(Deadline::missed("late as planned"));
        }
        self.check_not_lost(asked)
    }

    fn check_not_lost(&self, asked: impl IntoIterator<Item = Partition>) -> Result<(), StoreError> {
        let plan = self.plan();
        match asked.into_iter().find(|partition| plan.lost.contains(partition)) {
            Some(lost) => Err(StoreError::unavailable(format!("partition {} is lost as planned", lost.0))),
            None => Ok(()),
        }
    }

    fn partitions_of(&self, query: &Query) -> Vec<Partition> {
        let positions = query.positions(self.info()).unwrap_or_default();
        positions.into_iter().map(|position| position.partition).collect()
    }

    fn met(&self, call: Call) {
        let hook = {
            let hooks = &mut self.plan().hooks;
            hooks.iter().position(|(of, _)| *of == call).map(|at| hooks.remove(at).1)
        };
        if let Some(act) = hook {
            act();
        }
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
        partition: Option<Partition>,
        events: &[EventRef<'_>],
        append: impl FnOnce() -> Result<Vec<Receipt>, StoreError>,
    ) -> Result<Vec<Receipt>, StoreError> {
        let reason = || "as planned".to_owned();
        match self.begin(partition, events.len()) {
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
        self.check_not_lost([partition])?;
        self.append_or_fail(Some(partition), events, || self.inner.append(partition, attempt, events))
    }

    fn prepare(&self, batch: &mut Batch) {
        self.inner.prepare(batch);
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.check_there(self.partitions_of(query))?;
        let mut plan = self.plan();
        if let Some(from) = query.after.as_ref().filter(|_| plan.expiring_reads > 0) {
            plan.expiring_reads -= 1;
            return Err(StoreError::Expired { oldest: from.clone() });
        }
        plan.reads += 1;
        if plan.failing_reads.is_some_and(|nth| plan.reads.is_multiple_of(nth)) {
            return Err(StoreError::Unavailable { reason: "as planned".to_owned(), source: None });
        }
        drop(plan);
        self.inner.read(query)
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        let partitions = self.partitions();
        self.check_there(ids.iter().map(|id| partitions.of(id.topic.as_str())))?;
        self.inner.lookup(ids)
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.check_there(self.partitions_of(&Query::of(query.topics.clone())))?;
        self.inner.topics(query)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.met(Call::Stats);
        self.check_there([])?;
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
        self.met(Call::Records);
        self.inner.records()
    }

    fn watch(&self) -> Option<&dyn Watch> {
        self.inner.watch()
    }
}

impl AppendAcross for FaultyStore {
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        self.append_or_fail(None, events, || self.inner.append_across(attempt, events))
    }
}
