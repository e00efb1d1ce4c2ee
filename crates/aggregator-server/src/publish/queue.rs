//! What waits to be appended, partition by partition, and whose turn it is.
//!
//! A partition is in one turn at a time, so its jobs are appended in the order in which they came. Which worker has
//! the turn does not matter.

#[cfg(all(test, not(shuttle)))]
mod tests;

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use aggregator_core::Partition;

use super::worker::Job;
use crate::publish::admission::Weight;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, wait_for};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long every partition has its turns alone after one of several partitions has failed: one that somebody else
/// holds then holds up no other.
const APART: Duration = Duration::from_secs(10);
/// With so many events the price of a commit is paid, and it takes no further partition in, which it would hold for
/// as long.
const ENOUGH_EVENTS: usize = 300;

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    rules: Rules,
}

/// What is taken in one turn.
pub(super) struct Rules {
    /// Whether the store takes events of several partitions in one commit.
    pub(super) across: bool,
    /// What a turn has at most, but for its last job.
    pub(super) group: Weight,
}

struct State {
    /// By partition.
    lanes: Vec<Lane>,
    /// Where jobs wait and no turn is; the lane that came first is at the head.
    ready: VecDeque<Partition>,
    /// What waits there.
    weight: Weight,
    /// Turns under way.
    turns: usize,
    /// Whether one of them has less than enough.
    small_turn: bool,
    /// Until when no turn has several partitions.
    apart_until: Option<Instant>,
    /// Workers that wait, and how many of them were called and are on their way.
    waiting: usize,
    called: usize,
    /// Workers that have not ended.
    workers: usize,
    stopping: bool,
}

/// What waits in a partition.
struct Lane {
    jobs: VecDeque<Job>,
    weight: Weight,
    /// Whether it is in a turn.
    held: bool,
    /// Until when the store is left alone after it could not take what was acknowledged as queued.
    rest_until: Option<Instant>,
    /// How long it is left alone the next time.
    pause: Duration,
}

/// What a worker may do.
enum Next {
    Take {
        partitions: Vec<Partition>,
        small: bool,
    },
    /// Something comes, at the latest after this time.
    Wait(Option<Duration>),
    End,
}

/// Jobs to be appended now. Its partitions are in no other turn until it has ended.
pub(super) struct Turn<'q> {
    queue: &'q Queue,
    /// By partition, and in it in their order.
    pub(super) jobs: Vec<Job>,
    /// Jobs that are to come first in the next turn.
    pub(super) kept: Vec<Job>,
    /// Whether the store could not take something of it now.
    pub(super) failed: bool,
    /// Empty once it has ended.
    partitions: Vec<Partition>,
    small: bool,
}

/// That a worker has not ended.
pub(super) struct Present<'q>(&'q Queue);

impl Rules {
    fn is_enough(&self, weight: Weight) -> bool {
        !self.across || weight.events >= ENOUGH_EVENTS || self.is_full(weight)
    }

    fn is_full(&self, weight: Weight) -> bool {
        weight.events >= self.group.events || weight.bytes >= self.group.bytes
    }
}

impl Queue {
    pub(super) fn new(partitions: u16, workers: usize, rules: Rules) -> Self {
        let state = State {
            lanes: (0..partitions).map(|_| Lane::new()).collect(),
            ready: VecDeque::new(),
            weight: Weight::default(),
            turns: 0,
            small_turn: false,
            apart_until: None,
            waiting: 0,
            called: 0,
            workers,
            stopping: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), rules }
    }

    /// Queues the jobs of a request; gives them back if there is no worker any more.
    pub(super) fn send(&self, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let mut state = self.lock();
        if state.workers == 0 {
            return Err(jobs);
        }
        for job in jobs {
            state.push(job);
        }
        self.call(state);
        Ok(())
    }

    /// Ends a turn and waits for the next one; `None` once it is stopped and nothing is left.
    pub(super) fn next(&self, before: Option<Turn<'_>>) -> Option<Turn<'_>> {
        let mut state = self.lock();
        if let Some(mut turn) = before {
            state.end(&mut turn);
        }
        loop {
            match state.next(&self.rules) {
                Next::Take { partitions, small } => {
                    let mut turn = state.begin(self, partitions, small);
                    // There may be enough for another one.
                    self.call(state);
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
                    state.called = state.called.saturating_sub(1);
                }
                Next::End => return None,
            }
        }
    }

    /// Has the workers finish what is queued.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.call_all(state);
    }

    /// That the calling worker has not ended: until this is dropped.
    pub(super) fn enter(&self) -> Present<'_> {
        Present(self)
    }

    /// Calls a worker if there may be something for it to take.
    fn call(&self, mut state: MutexGuard<'_, State>) {
        let free = !state.small_turn || state.apart_until.is_some() || self.rules.is_enough(state.weight);
        if free && !state.ready.is_empty() && state.called < state.waiting {
            state.called += 1;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Calls all workers that wait: something is different for each of them.
    fn call_all(&self, mut state: MutexGuard<'_, State>) {
        state.called = state.waiting;
        let nobody = state.waiting == 0;
        drop(state);
        if !nobody {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A worker that panicked while it had this would have stopped between two counts; none does.
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

    fn next(&mut self, rules: &Rules) -> Next {
        let now = Instant::now();
        self.apart_until = self.apart_until.filter(|until| !until.saturating_duration_since(now).is_zero());
        let (mut partitions, mut weight, mut rest) = (Vec::new(), Weight::default(), None::<Duration>);
        for &partition in &self.ready {
            let lane = &self.lanes[usize::from(partition.0)];
            let left = lane.rest_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            if !left.is_zero() {
                rest = Some(rest.map_or(left, |rest| rest.min(left)));
                continue;
            }
            partitions.push(partition);
            weight += lane.weight;
            if self.apart_until.is_some() || rules.is_enough(weight) {
                return Next::Take { partitions, small: false };
            }
        }
        if partitions.is_empty() && rest.is_none() && self.stopping && self.turns == 0 {
            Next::End
        } else if partitions.is_empty() || self.small_turn {
            // What is too little for a turn of its own waits for the end of the one that is too little already,
            // and goes together with what comes until then.
            Next::Wait(rest)
        } else {
            Next::Take { partitions, small: true }
        }
    }

    fn begin<'q>(&mut self, queue: &'q Queue, chosen: Vec<Partition>, small: bool) -> Turn<'q> {
        let (mut jobs, mut partitions, mut taken) = (Vec::new(), Vec::new(), Weight::default());
        for partition in chosen {
            if !jobs.is_empty() && queue.rules.is_full(taken) {
                break;
            }
            let lane = &mut self.lanes[usize::from(partition.0)];
            lane.held = true;
            self.weight -= lane.weight;
            taken += lane.take(&queue.rules, taken, &mut jobs);
            partitions.push(partition);
        }
        self.ready.retain(|partition| !self.lanes[usize::from(partition.0)].held);
        self.turns += 1;
        self.small_turn |= small;
        Turn { queue, jobs, kept: Vec::new(), failed: false, partitions, small }
    }

    fn end(&mut self, turn: &mut Turn<'_>) {
        self.turns -= 1;
        self.small_turn &= !turn.small;
        let (partitions, kept) = (std::mem::take(&mut turn.partitions), std::mem::take(&mut turn.kept));
        let now = Instant::now();
        if turn.failed && partitions.len() > 1 {
            self.apart_until = Some(now + APART);
        }
        for &partition in &partitions {
            self.lanes[usize::from(partition.0)].rest_until = None;
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

    /// Adds its first jobs to those of a turn, up to the limits; at least one to none. What they weigh.
    fn take(&mut self, rules: &Rules, taken: Weight, jobs: &mut Vec<Job>) -> Weight {
        let before = self.weight;
        if jobs.is_empty() && !rules.is_full(before) {
            // The usual case, in one go: everybody else waits.
            self.weight = Weight::default();
            *jobs = std::mem::take(&mut self.jobs).into();
            return before;
        }
        let mut weight = Weight::default();
        while jobs.is_empty() || !rules.is_full(taken + weight) {
            let Some(job) = self.jobs.pop_front() else { break };
            weight += job.weight();
            jobs.push(job);
        }
        self.weight -= weight;
        weight
    }
}

impl Drop for Turn<'_> {
    /// Ends it if nobody did, because its worker has panicked.
    fn drop(&mut self) {
        if !self.partitions.is_empty() {
            self.queue.lock().end(self);
        }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers -= 1;
        // Nobody will take them: whoever waits for them has to be told.
        let lost: Vec<_> = match state.workers {
            0 => state.lanes.iter_mut().map(|lane| std::mem::take(&mut lane.jobs)).collect(),
            _ => Vec::new(),
        };
        self.0.call_all(state);
        drop(lost);
    }
}
