//! Commits one group of jobs and answers each job.
//!
//! The group is appended as a whole. If the store calls it invalid, it is split: the jobs without a fault stay together,
//! and each faulty job is tried alone.

#[cfg(all(test, not(shuttle)))]
mod tests;

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use aggregator_core::fail_point::{self, FailPoint};
use aggregator_core::{
    AttemptId, DedupStore, DedupStoreExt, EventRef, Fault, Partition, Receipt, StoreError,
};
use tracing::field::display;
use tracing::{debug, error, warn};

use crate::health::{self, Health};
use crate::insight::Insight;
use crate::trace::GroupSpan;

use super::injected_bug;
use super::job::{Job, Receipts};
use super::outcome_counters::OutcomeCounters;
use super::queue::TurnResult;

/// How many times a refused group is tried again without the events that the store named. After that, and at once if the
/// store names none, every job is tried alone, and then every event of a queued job. So there are at most five tries of
/// many jobs, one of each job, and one of each queued event.
const TRIES_BY_NAME: u32 = 4;

/// Jobs for one commit, sorted by partition: the group, or what is left of a part of it.
struct Subgroup {
    jobs: Vec<Job>,
    /// How many times the store has refused something that these jobs were part of.
    refusals: u32,
}

/// Commits the group of one turn, and answers its jobs.
pub(super) struct GroupCommitter<'t> {
    store: &'t dyn DedupStore,
    health: &'t Health,
    counters: &'t OutcomeCounters,
    insight: &'t Insight,
    result: &'t mut TurnResult,
    span: Option<GroupSpan>,
}

impl<'t> GroupCommitter<'t> {
    pub(super) fn new(
        store: &'t dyn DedupStore,
        health: &'t Health,
        counters: &'t OutcomeCounters,
        insight: &'t Insight,
        result: &'t mut TurnResult,
    ) -> Self {
        Self { store, health, counters, insight, result, span: None }
    }

    /// Appends the jobs, which are sorted by partition.
    pub(super) fn append(mut self, jobs: Vec<Job>) {
        self.span = GroupSpan::begin(jobs.iter().filter_map(|job| job.origin.span.as_ref()));
        let (requests, events) = if self.span.is_some() { count(&jobs) } else { (0, 0) };
        let mut subgroups = VecDeque::from([Subgroup { jobs, refusals: 0 }]);
        while let Some(subgroup) = subgroups.pop_front() {
            // The parts of a subgroup are appended before the subgroups behind it.
            for part in self.append_together(subgroup).into_iter().rev() {
                subgroups.push_front(part);
            }
        }
        if let Some(span) = self.span {
            span.end(requests, events);
        }
    }

    /// Appends the jobs in one commit. If the store calls them invalid, returns what to try instead.
    fn append_together(&mut self, Subgroup { mut jobs, refusals }: Subgroup) -> Vec<Subgroup> {
        if let health::State::Failed(reason) = self.health.state() {
            let reason = reason.to_owned();
            self.fail_jobs(jobs, StoreError::Poisoned { reason });
            return Vec::new();
        }
        jobs = self.fail_behind_kept(jobs);
        if jobs.is_empty() {
            return Vec::new();
        }
        fail_point::acknowledge_early(|| injected_bug::answer_all(&mut jobs));
        let result = self.append_jobs(&jobs);
        match result {
            Ok(receipts) => self.deliver(jobs, receipts),
            Err(StoreError::Invalid(faults)) if jobs.len() > 1 => {
                return split(jobs, &faults, refusals + 1);
            }
            Err(StoreError::Invalid(faults)) if jobs[0].reply.is_none() => {
                return jobs
                    .into_iter()
                    .filter_map(|job| self.without_refused(job, &faults, refusals + 1))
                    .collect();
            }
            Err(error) => self.fail_jobs(jobs, error),
        }
        Vec::new()
    }

    /// A job may not overtake a kept one of its partition: such jobs fail. Returns the others.
    fn fail_behind_kept(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        if self.result.kept.is_empty() {
            return jobs;
        }
        let kept: HashSet<_> = self.result.kept.iter().map(|job| job.partition).collect();
        let (behind, free) = jobs.into_iter().partition(|job| kept.contains(&job.partition));
        let reason = "it has not taken what came before".to_owned();
        self.fail_jobs(behind, StoreError::Unavailable { reason, source: None });
        free
    }

    /// The publisher of a queued job has its answer already and cannot mend the job. So the job loses the events that
    /// the store refuses, and no others. Returns what is left to try.
    fn without_refused(&mut self, mut job: Job, faults: &[Fault], refusals: u32) -> Option<Subgroup> {
        let bad = refused_events(faults, job.indices.len(), refusals);
        if bad.is_empty() {
            self.append_each(job);
            return None;
        }
        let mut at = 0..;
        job.indices.retain(|_| at.next().is_some_and(|at| !bad.contains(&at)));
        self.count_refused(&job, bad.len(), faults.first());
        (!job.indices.is_empty()).then(|| Subgroup { jobs: vec![job], refusals })
    }

    /// Appends the events of a queued job one after the other, because the store does not say which ones it refuses.
    fn append_each(&mut self, mut job: Job) {
        let indices = std::mem::take(&mut job.indices);
        let (mut refused, mut fault) = (0, None);
        for (at, &index) in indices.iter().enumerate() {
            let event = job.batch.event(index as usize);
            match self.try_append(job.partition, job.partition, &[event]) {
                Ok(receipts) => {
                    self.counters.add(&receipts);
                    self.insight.observe([event].into_iter(), &receipts);
                }
                Err(StoreError::Invalid(faults)) => {
                    refused += 1;
                    fault = fault.or(faults.into_iter().next());
                }
                Err(error) => {
                    self.count_refused(&job, refused, fault.as_ref());
                    job.indices = indices[at..].to_vec();
                    return self.fail_jobs(vec![job], error);
                }
            }
        }
        self.count_refused(&job, refused, fault.as_ref());
    }

    /// Counts events of a job that were acknowledged as queued and that the store refuses.
    fn count_refused(&self, job: &Job, events: usize, fault: Option<&Fault>) {
        if events > 0 {
            let fault = fault.map(ToString::to_string);
            let request_id = job.origin.request_id.as_ref().map(display);
            error!(request_id, events, fault, "events that were acknowledged as queued are refused");
            self.counters.add_refused(events);
        }
    }

    /// Appends all events of the jobs. Returns one receipt per event, because jobs are answered by counting receipts.
    fn append_jobs(&mut self, jobs: &[Job]) -> Result<Vec<Receipt>, StoreError> {
        let [first, ..] = jobs else { return Ok(Vec::new()) };
        let last = jobs.last().unwrap_or(first);
        let mut events = Vec::with_capacity(jobs.iter().map(|job| job.indices.len()).sum());
        for job in jobs {
            events.extend(job.indices.iter().map(|&index| job.batch.event(index as usize)));
        }
        self.try_append(first.partition, last.partition, &events)
    }

    /// Appends events of the partitions from `first` to `last`, and takes the time. This is the one place where the server
    /// calls an append.
    fn try_append(
        &mut self,
        first: Partition,
        last: Partition,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        let began = Instant::now();
        let result = append(self.store, first, last, events);
        if result.is_ok() {
            self.counters.groups.committed(events.len(), began.elapsed());
        }
        if let Some(span) = &mut self.span {
            span.committed(began, self.store.info().kind, events.len(), result.as_ref().err());
        }
        result
    }

    fn deliver(&self, jobs: Vec<Job>, receipts: Vec<Receipt>) {
        FailPoint::BeforeReplies.reach();
        let stored = self.counters.add(&receipts);
        debug!(requests = jobs.len(), events = receipts.len(), stored, "committed");
        let mut rest = Receipts::of_group(receipts);
        let all = rest.clone();
        let mut events = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            let own = rest.split_to(job.indices.len());
            events.push((Arc::clone(&job.batch), std::mem::take(&mut job.indices)));
            job.answer(Ok(own));
        }
        // Nobody waits for this any more.
        let events = events
            .iter()
            .flat_map(|(batch, indices)| indices.iter().map(|&index| batch.event(index as usize)));
        self.insight.observe(events, &all);
    }

    /// Answers the jobs with this error. A queued job is kept instead, if the store may take it later.
    fn fail_jobs(&mut self, jobs: Vec<Job>, error: StoreError) {
        if jobs.is_empty() {
            return;
        }
        if matches!(self.health.state(), health::State::Failed(_)) {
            // The failure was logged already.
        } else if error.is_fatal() {
            self.health.fail(error.to_string());
        } else if self.health.has_told_outage(jobs[0].partition) {
            // The log has said that the partition is out, and will say when it is back.
            debug!(error = %error, requests = jobs.len(), "a group was not stored");
        } else {
            warn!(error = %error, requests = jobs.len(), "a group was not stored");
        }
        let retryable = error.is_retryable();
        self.result.failed |= retryable;
        let error = match (error, jobs.as_slice()) {
            // The store counts the events of the job; the publisher counts those of its request.
            (StoreError::Invalid(mut faults), [job]) => {
                for fault in &mut faults {
                    fault.index = fault.index.and_then(|at| job.indices.get(at)).map(|&index| index as usize);
                }
                Arc::new(StoreError::Invalid(faults))
            }
            (error, _) => Arc::new(error),
        };
        for job in jobs {
            if job.reply.is_some() {
                job.answer(Err(Arc::clone(&error)));
            } else if retryable {
                self.result.kept.push(job);
            } else {
                let (request_id, events) = (job.origin.request_id.as_ref().map(display), job.indices.len());
                error!(request_id, events, %error, "events that were acknowledged as queued are lost");
                self.counters.add_lost(job.indices.len());
            }
        }
    }
}

/// Splits a refused group, so that one request's fault is not its neighbours' fault. Jobs without a fault stay together;
/// each of the others is tried alone. A queued job keeps its place, because its publisher counts on the order. A job that
/// is waited for has no place yet and comes last.
fn split(jobs: Vec<Job>, faults: &[Fault], refusals: u32) -> Vec<Subgroup> {
    let bad = refused_events(faults, jobs.iter().map(|job| job.indices.len()).sum(), refusals);
    let mut end = 0;
    let (mut parts, mut sound, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for job in jobs {
        let mut events = end..end + job.indices.len();
        end = events.end;
        // A fault that names no event may be in any job.
        if !bad.is_empty() && !events.any(|event| bad.contains(&event)) {
            sound.push(job);
        } else if job.reply.is_some() {
            last.push(job);
        } else {
            parts.push(std::mem::take(&mut sound));
            parts.push(vec![job]);
        }
    }
    parts.push(sound);
    parts.extend(last.into_iter().map(|job| vec![job]));
    parts.into_iter().filter(|jobs| !jobs.is_empty()).map(|jobs| Subgroup { jobs, refusals }).collect()
}

/// Which of `events` events are no longer tried together with the others. None, if the faults name no event or have been
/// wrong too often.
fn refused_events(faults: &[Fault], events: usize, refusals: u32) -> HashSet<usize> {
    if events == 1 {
        return HashSet::from([0]);
    }
    if refusals > TRIES_BY_NAME {
        return HashSet::new();
    }
    faults.iter().filter_map(|fault| fault.index).filter(|&index| index < events).collect()
}

/// How many requests and events the jobs are of.
fn count(jobs: &[Job]) -> (usize, usize) {
    let requests: HashSet<_> = jobs.iter().map(|job| Arc::as_ptr(&job.batch)).collect();
    (requests.len(), jobs.iter().map(|job| job.indices.len()).sum())
}

/// Appends events of the partitions from `first` to `last`: one call is one commit of the store. The store never holds the
/// jobs, so they are answered even if it panics.
fn append(
    store: &dyn DedupStore,
    first: Partition,
    last: Partition,
    events: &[EventRef<'_>],
) -> Result<Vec<Receipt>, StoreError> {
    let attempt = AttemptId::new();
    let append = || match first == last {
        true => store.append(first, attempt, events),
        false => store.append_across(attempt, events),
    };
    let receipts = catch_unwind(AssertUnwindSafe(append)).unwrap_or_else(|panic| {
        Err(StoreError::Poisoned { reason: format!("a worker panicked: {}", panic_message(&*panic)) })
    })?;
    if receipts.len() != events.len() {
        let reason = format!("it answered with {} receipts for {} events", receipts.len(), events.len());
        return Err(StoreError::Poisoned { reason });
    }
    Ok(receipts)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}
