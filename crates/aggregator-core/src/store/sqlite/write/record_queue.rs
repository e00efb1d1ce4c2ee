//! Many threads that write records share a commit.
//!
//! Each thread puts its writes into a queue. The first one leads: it waits for the writer, takes all that waits by
//! then, does it in one transaction and tells everybody what became of theirs. The next one in the queue leads then. So
//! the longer a commit takes the more writes go along with the next one, and nobody lingers for others.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::StoreError;
use crate::store::records::{MAX_RECORDS_PER_CALL, MAX_VALUE_BYTES_PER_CALL};
use crate::store::{RecordOutcome, RecordWrite};

type WriteResult = Result<RecordOutcome, StoreError>;

/// Who waits to write records. As long as it is not empty, the first one leads, and no other.
#[derive(Default)]
pub(crate) struct RecordQueue(Mutex<VecDeque<Arc<Waiting>>>);

struct Waiting {
    writes: Vec<RecordWrite>,
    told: Mutex<Told>,
    changed: Condvar,
}

enum Told {
    Nothing,
    ToLead,
    Done(WriteResult),
}

/// What a thread that has waited is to do.
pub(crate) enum Joined<'q> {
    /// Nothing: somebody else has done it.
    Done(WriteResult),
    /// To write what has gathered, its own writes first.
    Leads(Turn<'q>),
}

/// The turn of the thread that leads. If it is let go before its end, for the thread panics, all who went along are told
/// that they failed, and the next one leads.
pub(crate) struct Turn<'q> {
    queue: &'q RecordQueue,
    /// Who goes along; nobody before [`Self::gather`].
    group: Vec<Arc<Waiting>>,
    has_ended: bool,
}

impl RecordQueue {
    /// Waits until the writes are done or it is the caller's turn to do them.
    pub(crate) fn join(&self, writes: &[RecordWrite]) -> Joined<'_> {
        // Copied before the queue is locked: it may be megabytes.
        let writes = writes.to_vec();
        let mut waiting = self.waiting();
        let told = Mutex::new(if waiting.is_empty() { Told::ToLead } else { Told::Nothing });
        let own = Arc::new(Waiting { writes, told, changed: Condvar::new() });
        waiting.push_back(Arc::clone(&own));
        drop(waiting);
        match own.wait() {
            Told::Done(outcome) => Joined::Done(outcome),
            _ => Joined::Leads(Turn { queue: self, group: Vec::new(), has_ended: false }),
        }
    }

    /// How many wait, or are being written.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn tell(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        self.changed.notify_one();
    }

    fn wait(&self) -> Told {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = |told: &mut Told| matches!(told, Told::Nothing);
        let mut told = self.changed.wait_while(told, nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut told, Told::Nothing)
    }

    fn bytes(&self) -> usize {
        self.writes.iter().filter_map(|write| write.value.as_ref()).map(Vec::len).sum()
    }
}

impl Turn<'_> {
    /// The writes of all that wait, the caller's first; as much as one call may have.
    pub(crate) fn gather(&mut self) -> Vec<&[RecordWrite]> {
        let waiting = self.queue.waiting();
        let (mut records, mut bytes) = (0, 0);
        let fits = waiting.iter().take_while(|one| {
            records += one.writes.len();
            bytes += one.bytes();
            records <= MAX_RECORDS_PER_CALL && bytes <= MAX_VALUE_BYTES_PER_CALL
        });
        // They stay in the queue: who comes now does not lead.
        self.group = fits.cloned().collect();
        self.group.iter().map(|one| one.writes.as_slice()).collect()
    }

    /// Tells all that went along what became of their writes, and the caller of its own.
    pub(crate) fn end(mut self, written: Result<Vec<RecordOutcome>, StoreError>) -> WriteResult {
        if self.group.is_empty() {
            // It came to nothing before the writer was free.
            self.gather();
        }
        let outcomes = match written {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) => {
                let others = (1..self.group.len()).map(|_| Err(again(&error))).collect::<Vec<_>>();
                std::iter::once(Err(error)).chain(others).collect()
            }
        };
        self.tell(outcomes).expect("a group has one who leads it")
    }

    /// The outcome of the first one is the caller's.
    fn tell(&mut self, outcomes: Vec<WriteResult>) -> Option<WriteResult> {
        self.has_ended = true;
        let mut waiting = self.queue.waiting();
        waiting.drain(..self.group.len());
        if let Some(next) = waiting.front() {
            next.tell(Told::ToLead);
        }
        drop(waiting);
        let mut outcomes = outcomes.into_iter();
        let own = outcomes.next();
        for (one, outcome) in self.group.drain(..).skip(1).zip(outcomes) {
            one.tell(Told::Done(outcome));
        }
        own
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            if self.group.is_empty() {
                self.gather();
            }
            let failed = || Err(StoreError::Poisoned { reason: "a thread panicked during a write".into() });
            let outcomes = self.group.iter().map(|_| failed()).collect();
            self.tell(outcomes);
        }
    }
}

/// The same error for another caller.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::NoSpace { reason, .. } => StoreError::NoSpace { reason: reason.clone(), source: None },
        StoreError::Corrupt { what, .. } => StoreError::corrupt(what),
        StoreError::Poisoned { reason } => StoreError::Poisoned { reason: reason.clone() },
        StoreError::Unavailable { reason, .. } => StoreError::unavailable(reason),
        other => StoreError::unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    fn writes(count: usize, bytes: usize) -> Vec<RecordWrite> {
        (0..count).map(|n| RecordWrite::create("k", n.to_string(), vec![0; bytes])).collect()
    }

    fn lead<'q>(queue: &'q RecordQueue, writes: &[RecordWrite]) -> Turn<'q> {
        match queue.join(writes) {
            Joined::Leads(turn) => turn,
            Joined::Done(outcome) => panic!("nobody leads, and it is done: {outcome:?}"),
        }
    }

    fn await_length(queue: &RecordQueue, length: usize) {
        while queue.len() < length {
            thread::yield_now();
        }
    }

    /// Each of them is told a version that is the number of its records.
    fn versions(group: &[&[RecordWrite]]) -> Vec<RecordOutcome> {
        group.iter().map(|writes| RecordOutcome::Written(vec![writes.len() as u64])).collect()
    }

    /// What a thread is told that leads if it has to.
    fn told(queue: &RecordQueue, writes: &[RecordWrite]) -> WriteResult {
        match queue.join(writes) {
            Joined::Done(outcome) => outcome,
            Joined::Leads(mut turn) => {
                let versions = versions(&turn.gather());
                turn.end(Ok(versions))
            }
        }
    }

    #[test]
    fn all_who_wait_go_along_and_each_is_told_its_own() {
        let queue = RecordQueue::default();
        thread::scope(|scope| {
            let mut turn = lead(&queue, &writes(1, 0));
            let others: Vec<_> = (2..10)
                .map(|count| {
                    (
                        count,
                        scope.spawn({
                            let queue = &queue;
                            move || told(queue, &writes(count, 0))
                        }),
                    )
                })
                .collect();
            await_length(&queue, 9);
            let versions = versions(&turn.gather());
            assert_eq!(versions.len(), 9);
            assert_eq!(turn.end(Ok(versions)).unwrap(), RecordOutcome::Written(vec![1]));
            for (count, other) in others {
                assert_eq!(other.join().unwrap().unwrap(), RecordOutcome::Written(vec![count as u64]));
            }
        });
        assert!(queue.waiting().is_empty());
    }

    #[test]
    fn a_failed_commit_fails_all_and_the_next_one_leads() {
        let queue = RecordQueue::default();
        thread::scope(|scope| {
            let turn = lead(&queue, &writes(1, 0));
            let others: Vec<_> = (0..5).map(|_| scope.spawn(|| told(&queue, &writes(1, 0)))).collect();
            await_length(&queue, 6);
            let error = turn.end(Err(StoreError::Poisoned { reason: "as planned".into() })).unwrap_err();
            assert!(matches!(error, StoreError::Poisoned { .. }));
            for other in others {
                let error = other.join().unwrap().unwrap_err();
                assert!(error.is_fatal() && error.to_string().contains("as planned"), "{error}");
            }
        });
        assert!(told(&queue, &writes(1, 0)).is_ok());
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let queue = RecordQueue::default();
        for gathers in [true, false] {
            thread::scope(|scope| {
                let mut turn = lead(&queue, &writes(1, 0));
                let others: Vec<_> = (0..5).map(|_| scope.spawn(|| told(&queue, &writes(1, 0)))).collect();
                await_length(&queue, 6);
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    if gathers {
                        turn.gather();
                    }
                    panic!("as planned");
                }));
                assert!(panicked.is_err());
                for other in others {
                    assert!(matches!(other.join().unwrap(), Err(StoreError::Poisoned { .. })));
                }
            });
            assert!(told(&queue, &writes(1, 0)).is_ok());
        }
    }

    #[test]
    fn a_group_has_bounds_and_what_does_not_fit_goes_next() {
        for (count, bytes, fit) in
            [(MAX_RECORDS_PER_CALL / 4, 0, 4), (64, 64 << 10, 2), (MAX_RECORDS_PER_CALL, 0, 1)]
        {
            let queue = RecordQueue::default();
            thread::scope(|scope| {
                let mut turn = lead(&queue, &writes(count, bytes));
                let others: Vec<_> = (0..5)
                    .map(|_| {
                        scope.spawn({
                            let queue = &queue;
                            move || told(queue, &writes(count, bytes))
                        })
                    })
                    .collect();
                await_length(&queue, 6);
                let versions = versions(&turn.gather());
                assert_eq!(versions.len(), fit);
                assert!(turn.end(Ok(versions)).is_ok());
                for other in others {
                    assert!(other.join().unwrap().is_ok());
                }
            });
        }
    }
}
