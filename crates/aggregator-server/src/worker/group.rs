//! What becomes of a group: appended whole or, if the store finds fault with it, in parts; and everybody told.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use aggregator_core::fail_point::{self, FailPoint};
use aggregator_core::{AttemptId, DedupStore, Fault, Receipt, StoreError};
use tracing::{debug, error, warn};

use super::{Job, Receipts, Worker};
use crate::health;
use crate::mutation;

impl Worker {
    /// Appends jobs that go into one commit, sorted by partition. Together they are a group, or a part of one
    /// that follows what was appended of it before.
    pub(super) fn append(&mut self, mut jobs: Vec<Job>) {
        if let health::State::Failed(reason) = self.health.state() {
            let reason = reason.to_owned();
            return self.refuse(jobs, StoreError::Poisoned { reason });
        }
        if !self.kept.is_empty() {
            let kept: HashSet<_> = self.kept.iter().map(|job| job.partition).collect();
            let (behind, free) = jobs.into_iter().partition(|job| kept.contains(&job.partition));
            let reason = "it has not taken what came before".to_owned();
            self.refuse(behind, StoreError::Unavailable { reason, source: None });
            jobs = free;
        }
        if jobs.is_empty() {
            return;
        }
        fail_point::acknowledge_early(|| mutation::answer_all(&mut jobs));
        // The jobs stay out of the store's reach: whatever happens there, they are answered.
        let result = catch_unwind(AssertUnwindSafe(|| append_group(&*self.store, &jobs)));
        let result = result.unwrap_or_else(|panic| {
            Err(StoreError::Poisoned { reason: format!("a worker panicked: {}", panic_message(&*panic)) })
        });
        match result {
            Ok(receipts) => self.deliver(jobs, receipts),
            Err(StoreError::Invalid(faults)) if jobs.len() > 1 => self.append_apart(jobs, &faults),
            Err(StoreError::Invalid(faults)) if jobs[0].reply.is_none() => {
                jobs.into_iter().for_each(|job| self.append_rest(job, &faults));
            }
            Err(error) => self.refuse(jobs, error),
        }
    }

    /// One request's fault must not be its neighbours': those without one stay together, each of the
    /// others is tried by itself. One that was answered when it was queued keeps its place, since its
    /// publisher counts on the order; one that is waited for has none yet, and comes last.
    fn append_apart(&mut self, jobs: Vec<Job>, faults: &[Fault]) {
        let bad: HashSet<usize> = faults.iter().filter_map(|fault| fault.index).collect();
        let mut end = 0;
        let (mut sound, mut last) = (Vec::new(), Vec::new());
        for job in jobs {
            let mut events = end..end + job.indices.len();
            end = events.end;
            // A fault that names no event may be anybody's.
            if !bad.is_empty() && !events.any(|event| bad.contains(&event)) {
                sound.push(job);
            } else if job.reply.is_some() {
                last.push(job);
            } else {
                self.append(std::mem::take(&mut sound));
                self.append(vec![job]);
            }
        }
        self.append(sound);
        for job in last {
            self.append(vec![job]);
        }
    }

    /// A request that was answered when it was queued cannot be asked to mend itself: it loses the
    /// events the store refuses, and no others.
    fn append_rest(&mut self, mut job: Job, faults: &[Fault]) {
        let bad: HashSet<usize> = faults.iter().filter_map(|fault| fault.index).collect();
        let before = job.indices.len();
        let mut at = 0..;
        job.indices.retain(|_| at.next().is_some_and(|at| !bad.contains(&at)));
        let lost = if bad.is_empty() { before } else { before - job.indices.len() };
        error!(events = lost, fault = %faults[0], "events that were acknowledged as queued are refused");
        if !bad.is_empty() && !job.indices.is_empty() {
            self.append(vec![job]);
        }
    }

    fn deliver(&mut self, jobs: Vec<Job>, receipts: Vec<Receipt>) {
        FailPoint::BeforeReplies.reach();
        let stored = self.decided.add(&receipts);
        debug!(requests = jobs.len(), events = receipts.len(), stored, "committed");
        let mut receipts = Receipts::of_group(receipts);
        for job in jobs {
            let own = receipts.split_to(job.indices.len());
            job.answer(Ok(own));
        }
    }

    /// Tells whoever waits; what nobody waits for is kept if the store may take it later.
    fn refuse(&mut self, jobs: Vec<Job>, error: StoreError) {
        if jobs.is_empty() {
            return;
        }
        if matches!(self.health.state(), health::State::Failed(_)) {
            // Said already.
        } else if error.is_fatal() {
            self.health.fail(error.to_string());
        } else {
            warn!(error = %error, requests = jobs.len(), "a group was not stored");
        }
        let retryable = error.is_retryable();
        self.failed |= retryable;
        let error = match (error, jobs.as_slice()) {
            // From the events of the job to those of its request.
            (StoreError::Invalid(mut faults), [job]) => {
                for fault in &mut faults {
                    fault.index = fault.index.map(|index| job.indices[index] as usize);
                }
                Arc::new(StoreError::Invalid(faults))
            }
            (error, _) => Arc::new(error),
        };
        for job in jobs {
            if job.reply.is_some() {
                job.answer(Err(Arc::clone(&error)));
            } else if retryable {
                self.kept.push(job);
            } else {
                error!(events = job.indices.len(), %error, "events that were acknowledged as queued are lost");
            }
        }
    }
}

/// The receipts of all events of the jobs, one for each: jobs are answered by counting them out.
fn append_group(store: &dyn DedupStore, jobs: &[Job]) -> Result<Vec<Receipt>, StoreError> {
    let mut events = Vec::with_capacity(jobs.iter().map(|job| job.indices.len()).sum());
    for job in jobs {
        events.extend(job.indices.iter().map(|&index| job.batch.event(index as usize)));
    }
    let attempt = AttemptId::new();
    let receipts = match jobs {
        [first, .., last] if first.partition != last.partition => store.append_across(attempt, &events)?,
        [first, ..] => store.append(first.partition, attempt, &events)?,
        [] => Vec::new(),
    };
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
