//! What becomes of a group: appended whole or, if the store finds fault with it, in parts; and everybody told.

#[cfg(all(test, not(shuttle)))]
mod tests;

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use aggregator_core::fail_point::{self, FailPoint};
use aggregator_core::{
    AttemptId, DedupStore, DedupStoreExt, EventRef, Fault, Partition, Receipt, StoreError,
};
use tracing::{debug, error, warn};

use super::{Job, Receipts, Worker};
use crate::health;
use crate::mutation;

/// A group that is refused is tried again without the events that the store named, so many times. After that, and at
/// once where the store names none, every request of it is tried alone, and then every event of a queued request. So
/// there are at most five tries of many requests, one of each request, and one of each queued event.
const TRIES_BY_NAME: u32 = 4;

/// Jobs that go into one commit, sorted by partition: a group or what is left of a part of it.
struct Piece {
    jobs: Vec<Job>,
    /// How many times the store has refused what they are a part of.
    refusals: u32,
}

impl Worker {
    /// Appends a group: jobs that go into one commit, sorted by partition.
    pub(super) fn append(&mut self, jobs: Vec<Job>) {
        let mut pieces = VecDeque::from([Piece { jobs, refusals: 0 }]);
        while let Some(piece) = pieces.pop_front() {
            // What comes of a piece is appended before the pieces behind it.
            for part in self.append_piece(piece).into_iter().rev() {
                pieces.push_front(part);
            }
        }
    }

    /// Appends the jobs together. If the store finds fault with them: what to try in their place.
    fn append_piece(&mut self, Piece { mut jobs, refusals }: Piece) -> Vec<Piece> {
        if let health::State::Failed(reason) = self.health.state() {
            let reason = reason.to_owned();
            self.refuse(jobs, StoreError::Poisoned { reason });
            return Vec::new();
        }
        if !self.kept.is_empty() {
            let kept: HashSet<_> = self.kept.iter().map(|job| job.partition).collect();
            let (behind, free) = jobs.into_iter().partition(|job| kept.contains(&job.partition));
            let reason = "it has not taken what came before".to_owned();
            self.refuse(behind, StoreError::Unavailable { reason, source: None });
            jobs = free;
        }
        if jobs.is_empty() {
            return Vec::new();
        }
        fail_point::acknowledge_early(|| mutation::answer_all(&mut jobs));
        let result = append_jobs(&*self.store, &jobs);
        match result {
            Ok(receipts) => self.deliver(jobs, receipts),
            Err(StoreError::Invalid(faults)) if jobs.len() > 1 => {
                return take_apart(jobs, &faults, refusals + 1);
            }
            Err(StoreError::Invalid(faults)) if jobs[0].reply.is_none() => {
                return jobs
                    .into_iter()
                    .filter_map(|job| self.without_refused(job, &faults, refusals + 1))
                    .collect();
            }
            Err(error) => self.refuse(jobs, error),
        }
        Vec::new()
    }

    /// A request that was answered when it was queued cannot be asked to mend itself: it loses the
    /// events the store refuses, and no others. What is left to be tried of it.
    fn without_refused(&mut self, mut job: Job, faults: &[Fault], refusals: u32) -> Option<Piece> {
        let bad = named(faults, job.indices.len(), refusals);
        if bad.is_empty() {
            self.append_each(job);
            return None;
        }
        let mut at = 0..;
        job.indices.retain(|_| at.next().is_some_and(|at| !bad.contains(&at)));
        self.count_refused(bad.len(), faults.first());
        (!job.indices.is_empty()).then(|| Piece { jobs: vec![job], refusals })
    }

    /// Appends the events of a queued request one after the other, since the store does not say which ones it refuses.
    fn append_each(&mut self, mut job: Job) {
        let indices = std::mem::take(&mut job.indices);
        let (mut refused, mut fault) = (0, None);
        for (at, &index) in indices.iter().enumerate() {
            let event = job.batch.event(index as usize);
            match try_append(&*self.store, job.partition, job.partition, &[event]) {
                Ok(receipts) => drop(self.decided.add(&receipts)),
                Err(StoreError::Invalid(faults)) => {
                    refused += 1;
                    fault = fault.or(faults.into_iter().next());
                }
                Err(error) => {
                    self.count_refused(refused, fault.as_ref());
                    job.indices = indices[at..].to_vec();
                    return self.refuse(vec![job], error);
                }
            }
        }
        self.count_refused(refused, fault.as_ref());
    }

    /// Events that were acknowledged as queued, and that the store refuses.
    fn count_refused(&self, events: usize, fault: Option<&Fault>) {
        if events > 0 {
            let fault = fault.map(ToString::to_string);
            error!(events, fault, "events that were acknowledged as queued are refused");
            self.decided.refuse(events);
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
                self.kept.push(job);
            } else {
                error!(events = job.indices.len(), %error, "events that were acknowledged as queued are lost");
                self.decided.lose(job.indices.len());
            }
        }
    }
}

/// One request's fault must not be its neighbours': those without one stay together, each of the
/// others is tried by itself. One that was answered when it was queued keeps its place, since its
/// publisher counts on the order; one that is waited for has none yet, and comes last.
fn take_apart(jobs: Vec<Job>, faults: &[Fault], refusals: u32) -> Vec<Piece> {
    let bad = named(faults, jobs.iter().map(|job| job.indices.len()).sum(), refusals);
    let mut end = 0;
    let (mut pieces, mut sound, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for job in jobs {
        let mut events = end..end + job.indices.len();
        end = events.end;
        // A fault that names no event may be anybody's.
        if !bad.is_empty() && !events.any(|event| bad.contains(&event)) {
            sound.push(job);
        } else if job.reply.is_some() {
            last.push(job);
        } else {
            pieces.push(std::mem::take(&mut sound));
            pieces.push(vec![job]);
        }
    }
    pieces.push(sound);
    pieces.extend(last.into_iter().map(|job| vec![job]));
    pieces.into_iter().filter(|jobs| !jobs.is_empty()).map(|jobs| Piece { jobs, refusals }).collect()
}

/// Which of so many events to try no more with the others; none if the faults do not say that, or have said it too
/// often.
fn named(faults: &[Fault], events: usize, refusals: u32) -> HashSet<usize> {
    if events == 1 {
        return HashSet::from([0]);
    }
    if refusals > TRIES_BY_NAME {
        return HashSet::new();
    }
    faults.iter().filter_map(|fault| fault.index).filter(|&index| index < events).collect()
}

/// The receipts of all events of the jobs, one for each: jobs are answered by counting them out.
fn append_jobs(store: &dyn DedupStore, jobs: &[Job]) -> Result<Vec<Receipt>, StoreError> {
    let [first, ..] = jobs else { return Ok(Vec::new()) };
    let last = jobs.last().unwrap_or(first);
    let mut events = Vec::with_capacity(jobs.iter().map(|job| job.indices.len()).sum());
    for job in jobs {
        events.extend(job.indices.iter().map(|&index| job.batch.event(index as usize)));
    }
    try_append(store, first.partition, last.partition, &events)
}

/// Appends events of these partitions, and of those between them. Jobs stay out of the store's reach: whatever
/// happens there, they are answered.
fn try_append(
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
