//! The queue before the workers: a lane of jobs per partition, and the order of their turns.
//!
//! A partition is in one turn at a time, so its jobs are appended in the order in which they came. Any worker may take
//! any turn.

#[cfg(all(test, not(shuttle)))]
mod tests;

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use aggregator_core::Partition;

use crate::sync::{Condvar, Instant, Mutex, MutexGuard, wait_for};

use super::admission::Weight;
use super::job::Job;

/// How long a partition rests after the store could not take its queued jobs. Each further failure doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long every partition has turns of its own after a turn of several partitions has failed. If another node holds
/// one partition, it then holds up no other.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// A turn with so many events takes no further partition. They already pay for the commit, and a further partition would
/// be held as long as the commit takes.
const ENOUGH_EVENTS: usize = 300;

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limits: TurnLimits,
}

/// How much one turn takes.
pub(super) struct TurnLimits {
    /// Whether the store commits events of several partitions together.
    pub(super) across_partitions: bool,
    /// The most that a turn takes. Its last job may exceed it.
    pub(super) group: Weight,
    /// How many partitions there are in each part of the store that fails alone.
    pub(super) partitions_per_shard: u16,
    /// How many turns at a time are of one such part. If it does not answer, it holds no more workers.
    pub(super) turns_per_shard: usize,
}

struct State {
    /// By partition.
    lanes: Vec<Lane>,
    /// The partitions with waiting jobs and without a turn. The one that has waited longest is at the head.
    ready: VecDeque<Partition>,
    /// The weight of all jobs in these partitions.
    weight: Weight,
    /// Turns under way.
    turns: usize,
    /// The same, of each part of the store that fails alone.
    turns_of_shards: Vec<usize>,
    /// Whether one of them has less than [`ENOUGH_EVENTS`].
    small_turn: bool,
    /// Until when every turn has one partition.
    alone_until: Option<Instant>,
    /// Workers that wait, and how many of them were notified and have not woken yet.
    waiting: usize,
    notified: usize,
    /// Workers that have not ended.
    workers: usize,
    stopping: bool,
}

/// The jobs that wait in one partition.
struct Lane {
    jobs: VecDeque<Job>,
    weight: Weight,
    /// Whether it is in a turn.
    held: bool,
    /// Until when the lane rests because the store could not take its queued jobs.
    rest_until: Option<Instant>,
    /// How long it rests the next time.
    pause: Duration,
}

/// What a worker does next.
enum Next {
    Take {
        partitions: Vec<Partition>,
        small: bool,
    },
    /// Wait, at most for this time.
    Wait(Option<Duration>),
    End,
}

/// Jobs to append now. Their partitions are in no other turn until this one has ended.
pub(super) struct Turn<'q> {
    queue: &'q Queue,
    /// Sorted by partition, and within a partition in the order in which they came.
    pub(super) jobs: Vec<Job>,
    pub(super) result: TurnResult,
    /// Empty once the turn has ended.
    partitions: Vec<Partition>,
    small: bool,
}

/// What a turn leaves behind.
#[derive(Default)]
pub(super) struct TurnResult {
    /// Queued jobs that the store could not take. They come first in the next turn of their partition.
    pub(super) kept: Vec<Job>,
    /// Whether the store could not take something now.
    pub(super) failed: bool,
}

/// The registration of a worker, until it is dropped.
pub(super) struct RegisteredWorker<'q>(&'q Queue);

impl TurnLimits {
    fn is_enough(&self, weight: Weight) -> bool {
        !self.across_partitions || weight.events >= ENOUGH_EVENTS || self.is_full(weight)
    }

    fn is_full(&self, weight: Weight) -> bool {
        weight.events >= self.group.events || weight.bytes >= self.group.bytes
    }

    fn shard_of(&self, partition: Partition) -> usize {
        usize::from(partition.0 / self.partitions_per_shard)
    }
}

impl Queue {
    pub(super) fn new(partitions: u16, workers: usize, limits: TurnLimits) -> Self {
        let state = State {
            lanes: (0..partitions).map(|_| Lane::new()).collect(),
            ready: VecDeque::new(),
            weight: Weight::default(),
            turns: 0,
            turns_of_shards: vec![0; usize::from(partitions.div_ceil(limits.partitions_per_shard))],
            small_turn: false,
            alone_until: None,
            waiting: 0,
            notified: 0,
            workers,
            stopping: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits }
    }

    /// Queues the jobs of a request. Gives them back if all workers have ended.
    pub(super) fn send(&self, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let mut state = self.lock();
        if state.workers == 0 {
            return Err(jobs);
        }
        for job in jobs {
            state.push(job);
        }
        self.notify(state);
        Ok(())
    }

    /// Ends the worker's last turn and waits for its next one. `None` once the queue is stopped and empty.
    pub(super) fn next(&self, ended: Option<Turn<'_>>) -> Option<Turn<'_>> {
        let mut state = self.lock();
        if let Some(mut turn) = ended {
            state.end(&mut turn);
        }
        loop {
            match state.next(&self.limits) {
                Next::Take { partitions, small } => {
                    let mut turn = state.begin(self, partitions, small);
                    // There may be enough for another turn.
                    self.notify(state);
                    // Stable: what came first within a partition stays first.
                    turn.jobs.sort_by_key(|job| job.partition);
                    return Some(turn);
                }
                Next::Wait(limit) => {
                    state.waiting += 1;
                    state = match limit {
                        Some(limit) => wait_for(&self.changed, &self.state, state, limit),
                        None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    };
                    state.waiting -= 1;
                    state.notified = state.notified.saturating_sub(1);
                }
                Next::End => return None,
            }
        }
    }

    /// Makes the workers end once the queue is empty.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.notify_all(state);
    }

    /// Registers the calling worker until the result is dropped.
    pub(super) fn enter(&self) -> RegisteredWorker<'_> {
        RegisteredWorker(self)
    }

    /// Wakes a worker if there may be something for it to take.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        let free = !state.small_turn || state.alone_until.is_some() || self.limits.is_enough(state.weight);
        if free && !state.ready.is_empty() && state.notified < state.waiting {
            state.notified += 1;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Wakes all workers that wait, because something has changed for each of them.
    fn notify_all(&self, mut state: MutexGuard<'_, State>) {
        state.notified = state.waiting;
        let nobody = state.waiting == 0;
        drop(state);
        if !nobody {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics, so the counts are whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, job: Job) {
        let lane = &mut self.lanes[usize::from(job.partition.0)];
        let weight = job.weight();
        if !lane.held {
            self.weight += weight;
            if lane.jobs.is_empty() {
                self.ready.push_back(job.partition);
            }
        }
        lane.weight += weight;
        lane.jobs.push_back(job);
    }

    fn next(&mut self, limits: &TurnLimits) -> Next {
        let now = Instant::now();
        self.alone_until = self.alone_until.filter(|until| !until.saturating_duration_since(now).is_zero());
        let (mut partitions, mut weight, mut rest) = (Vec::new(), Weight::default(), None::<Duration>);
        for &partition in &self.ready {
            let lane = &self.lanes[usize::from(partition.0)];
            let left = lane.rest_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            if !left.is_zero() {
                rest = Some(rest.map_or(left, |rest| rest.min(left)));
                continue;
            }
            // Its turn comes when another one of its shard ends.
            if self.turns_of_shards[limits.shard_of(partition)] >= limits.turns_per_shard {
                continue;
            }
            partitions.push(partition);
            weight += lane.weight;
            if self.alone_until.is_some() || limits.is_enough(weight) {
                return Next::Take { partitions, small: false };
            }
        }
        if partitions.is_empty() && rest.is_none() && self.stopping && self.turns == 0 {
            Next::End
        } else if partitions.is_empty() || self.small_turn {
            // One small turn at a time: what comes meanwhile gathers, and goes together when it ends.
            Next::Wait(rest)
        } else {
            Next::Take { partitions, small: true }
        }
    }

    fn begin<'q>(&mut self, queue: &'q Queue, chosen: Vec<Partition>, small: bool) -> Turn<'q> {
        let (mut jobs, mut partitions, mut taken) = (Vec::new(), Vec::new(), Weight::default());
        for partition in chosen {
            if !jobs.is_empty() && queue.limits.is_full(taken) {
                break;
            }
            let lane = &mut self.lanes[usize::from(partition.0)];
            lane.held = true;
            self.weight -= lane.weight;
            taken += lane.take(&queue.limits, taken, &mut jobs);
            self.turns_of_shards[queue.limits.shard_of(partition)] += 1;
            partitions.push(partition);
        }
        self.ready.retain(|partition| !self.lanes[usize::from(partition.0)].held);
        self.turns += 1;
        self.small_turn |= small;
        Turn { queue, jobs, result: TurnResult::default(), partitions, small }
    }

    fn end(&mut self, turn: &mut Turn<'_>) {
        self.turns -= 1;
        self.small_turn &= !turn.small;
        let partitions = std::mem::take(&mut turn.partitions);
        let TurnResult { kept, failed } = std::mem::take(&mut turn.result);
        let now = Instant::now();
        if failed && partitions.len() > 1 {
            self.alone_until = Some(now + ALONE_FOR);
        }
        for &partition in &partitions {
            self.lanes[usize::from(partition.0)].rest_until = None;
            self.turns_of_shards[turn.queue.limits.shard_of(partition)] -= 1;
        }
        for job in kept.into_iter().rev() {
            let lane = &mut self.lanes[usize::from(job.partition.0)];
            lane.rest_until = Some(now + lane.pause);
            lane.weight += job.weight();
            lane.jobs.push_front(job);
        }
        for partition in partitions {
            let lane = &mut self.lanes[usize::from(partition.0)];
            lane.pause =
                if lane.rest_until.is_some() { (lane.pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            lane.held = false;
            if !lane.jobs.is_empty() {
                self.weight += lane.weight;
                self.ready.push_back(partition);
            }
        }
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            jobs: VecDeque::new(),
            weight: Weight::default(),
            held: false,
            rest_until: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Adds its first jobs to those of a turn, up to the limits; the first job of a turn always fits. Returns the weight of
    /// the added jobs.
    fn take(&mut self, limits: &TurnLimits, taken: Weight, jobs: &mut Vec<Job>) -> Weight {
        let before = self.weight;
        if jobs.is_empty() && !limits.is_full(before) {
            // The usual case takes all jobs at once, because the lock is held.
            self.weight = Weight::default();
            *jobs = std::mem::take(&mut self.jobs).into();
            return before;
        }
        let mut weight = Weight::default();
        while jobs.is_empty() || !limits.is_full(taken + weight) {
            let Some(job) = self.jobs.pop_front() else { break };
            weight += job.weight();
            jobs.push(job);
        }
        self.weight -= weight;
        weight
    }
}

impl Drop for Turn<'_> {
    /// Ends the turn of a worker that panicked.
    fn drop(&mut self) {
        if !self.partitions.is_empty() {
            self.queue.lock().end(self);
        }
    }
}

impl Drop for RegisteredWorker<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers -= 1;
        // Nobody will take these jobs. Dropping them tells the publishers that wait.
        let lost: Vec<_> = match state.workers {
            0 => state.lanes.iter_mut().map(|lane| std::mem::take(&mut lane.jobs)).collect(),
            _ => Vec::new(),
        };
        self.0.notify_all(state);
        drop(lost);
    }
}
