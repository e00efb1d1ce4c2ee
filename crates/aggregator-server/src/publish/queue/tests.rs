use std::sync::Arc;

use aggregator_core::{BatchBuilder, Timestamp};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::publish::admission::Admission;
use crate::publish::job::{AppendResult, Origin};

/// A job without a batch to speak of: the queue does not look at what the events are.
fn job(partition: u16, events: u32, bytes: usize) -> (Job, oneshot::Receiver<AppendResult>) {
    let admission = Arc::new(Admission::new(1, 1));
    let batch = BatchBuilder::new(Bytes::new(), Timestamp::from_micros(0)).expect("it is empty").finish();
    let (reply, receiver) = oneshot::channel();
    let job = Job {
        partition: Partition(partition),
        batch: Arc::new(batch),
        indices: (0..events).collect(),
        bytes,
        reservation: admission.reserve(&[Weight::default()]).expect("it weighs nothing").remove(0),
        reply: Some(reply),
        origin: Origin::default(),
    };
    (job, receiver)
}

fn queue(across: bool, group_events: usize) -> Queue {
    let group = Weight { events: group_events, bytes: 100 };
    Queue::new(4, 2, TurnLimits { group, ..limits(across) })
}

/// Of a store that fails as a whole.
fn limits(across_partitions: bool) -> TurnLimits {
    TurnLimits { across_partitions, group: Weight::default(), partitions_per_shard: 4, turns_per_shard: 4 }
}

fn send(queue: &Queue, jobs: &[(u16, u32)]) {
    let jobs = jobs.iter().map(|&(partition, events)| job(partition, events, 0).0).collect();
    assert!(queue.send(jobs).is_ok());
}

/// The partitions and events of what a turn has.
fn taken(turn: &Turn<'_>) -> Vec<(u16, usize)> {
    turn.jobs.iter().map(|job| (job.partition.0, job.indices.len())).collect()
}

/// The turn that is due.
fn now(queue: &Queue) -> Turn<'_> {
    assert!(may_take(queue), "there is none");
    queue.next(None).expect("it is due")
}

fn may_take(queue: &Queue) -> bool {
    assert_weights(queue);
    matches!(queue.lock().next(&queue.limits), Next::Take { .. })
}

/// The weight of a lane is that of its jobs, and the weight of all counts the lanes that are not in a turn.
fn assert_weights(queue: &Queue) {
    let state = queue.lock();
    let mut free = Weight::default();
    for lane in &state.lanes {
        let mut weight = Weight::default();
        lane.jobs.iter().for_each(|job| weight += job.weight());
        assert_eq!(lane.weight, weight);
        if !lane.held {
            free += weight;
        }
    }
    assert_eq!(state.weight, free);
}

#[test]
fn a_turn_across_partitions_has_all_that_waits_by_partition() {
    let queue = queue(true, 10_000);
    send(&queue, &[(2, 1), (0, 2), (2, 3), (1, 4)]);
    let turn = now(&queue);
    assert_eq!(taken(&turn), [(0, 2), (1, 4), (2, 1), (2, 3)]);
    assert!(!may_take(&queue));
}

#[test]
fn a_turn_of_a_store_that_commits_by_partition_has_one() {
    let queue = queue(false, 10_000);
    send(&queue, &[(2, 1), (0, 2), (2, 3)]);
    let first = now(&queue);
    let second = now(&queue);
    assert_eq!((taken(&first), taken(&second)), (vec![(2, 1), (2, 3)], vec![(0, 2)]));
    // A partition is in one turn at a time.
    send(&queue, &[(2, 5)]);
    assert!(!may_take(&queue));
    drop(first);
    assert_eq!(taken(&now(&queue)), [(2, 5)]);
}

#[test]
fn what_is_too_little_waits_for_the_turn_that_is_too_little_and_what_is_enough_does_not() {
    let queue = queue(true, 10_000);
    send(&queue, &[(0, 1)]);
    let small = now(&queue);
    send(&queue, &[(1, 200), (2, 90)]);
    assert!(!may_take(&queue));
    send(&queue, &[(3, 10)]);
    let large = now(&queue);
    assert_eq!(taken(&large), [(1, 200), (2, 90), (3, 10)]);
    send(&queue, &[(0, 1), (1, 1), (2, 1)]);
    assert!(!may_take(&queue), "what waits in partitions that are held is not counted");
    drop(large);
    assert!(!may_take(&queue));
    drop(small);
    assert_eq!(taken(&now(&queue)), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_turn_ends_at_the_limits_of_a_group_but_has_one_job_at_least() {
    let queue = queue(true, 10);
    send(&queue, &[(0, 4), (0, 6), (0, 1), (1, 1)]);
    let turn = now(&queue);
    assert_eq!(taken(&turn), [(0, 4), (0, 6)]);
    drop(turn);
    let turn = now(&queue);
    assert_eq!(taken(&turn), [(0, 1), (1, 1)]);
    drop(turn);
    let jobs = [(0, 60), (0, 60), (0, 60)].map(|(partition, bytes)| job(partition, 1, bytes).0);
    assert!(queue.send(jobs.into()).is_ok());
    assert_eq!(taken(&now(&queue)).len(), 2, "bytes");

    let queue = Queue::new(1, 1, limits(false));
    send(&queue, &[(0, 4), (0, 6)]);
    assert_eq!(taken(&now(&queue)), [(0, 4)]);
}

/// Otherwise one part of a store that does not answer would hold all workers, and the others got none.
#[test]
fn a_part_of_the_store_that_fails_alone_has_no_more_turns_at_a_time_than_its_share() {
    let limits = TurnLimits { partitions_per_shard: 2, turns_per_shard: 1, ..limits(false) };
    let queue = Queue::new(4, 2, limits);
    send(&queue, &[(0, 1), (1, 1), (0, 1)]);
    let first = now(&queue);
    assert!(!may_take(&queue), "partition 1 is of the same part");
    send(&queue, &[(3, 1)]);
    let other = now(&queue);
    assert_eq!((taken(&first)[0].0, taken(&other)), (0, vec![(3, 1)]));
    assert!(!may_take(&queue));
    let next = queue.next(Some(first)).expect("it has waited");
    assert_eq!(taken(&next), [(1, 1)]);
    drop((next, other));
    assert_eq!(queue.lock().turns_of_shards, [0, 0]);
}

#[test]
fn what_is_kept_comes_first_after_a_rest_while_other_partitions_go_on() {
    let queue = queue(true, 10_000);
    send(&queue, &[(0, 1), (1, 2), (0, 3)]);
    let mut turn = now(&queue);
    send(&queue, &[(0, 4), (1, 5)]);
    turn.result.kept = turn.jobs.drain(..).filter(|job| job.partition == Partition(0)).collect();
    let other = queue.next(Some(turn)).unwrap();
    assert_weights(&queue);
    // Or the rest was over by then.
    let rest = if taken(&other) == [(1, 5)] { queue.next(Some(other)).unwrap() } else { other };
    assert_eq!(taken(&rest)[..3], [(0, 1), (0, 3), (0, 4)]);
}

#[test]
fn a_turn_that_is_dropped_lets_go_and_jobs_that_nobody_will_take_are_dropped() {
    let queue = queue(true, 10_000);
    let workers = [queue.enter(), queue.enter()];
    send(&queue, &[(0, 1)]);
    drop(now(&queue));
    let (waiting, mut reply) = job(0, 1, 0);
    assert!(queue.send(vec![waiting]).is_ok());
    assert_eq!(reply.try_recv().unwrap_err(), oneshot::error::TryRecvError::Empty);
    drop(workers);
    assert_eq!(reply.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
    assert!(queue.send(vec![job(0, 1, 0).0]).is_err());
}

/// Or partitions with much to do would keep one with little from its turn for ever.
#[test]
fn the_partition_that_has_waited_longest_comes_first() {
    let queue = queue(true, 10);
    send(&queue, &[(3, 1), (0, 6), (0, 5), (0, 7)]);
    assert_eq!(taken(&now(&queue)), [(0, 6), (0, 5), (3, 1)]);
}

#[test]
fn a_partition_whose_turn_has_ended_comes_behind_those_that_wait() {
    let queue = queue(true, 10);
    send(&queue, &[(0, 6), (0, 5), (0, 7)]);
    let turn = now(&queue);
    assert_eq!(taken(&turn), [(0, 6), (0, 5)]);
    send(&queue, &[(1, 9), (2, 9), (0, 8)]);
    drop(turn);
    // Each is full with the job that comes next.
    let turns: Vec<_> = (0..2).map(|_| taken(&now(&queue))).collect();
    assert_eq!(turns, [vec![(1, 9), (2, 9)], vec![(0, 7), (0, 8)]]);
}

#[test]
fn partitions_that_always_have_something_to_do_take_turns() {
    let queue = queue(false, 10);
    for partition in 0..4 {
        send(&queue, &[(partition, 10); 4]);
    }
    let (mut order, mut before) = (Vec::new(), None);
    for _ in 0..12 {
        let turn = queue.next(before).expect("there is something to do");
        order.push(turn.jobs[0].partition.0);
        before = Some(turn);
    }
    assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn after_a_turn_of_several_partitions_has_failed_none_waits_for_another() {
    let queue = queue(true, 10_000);
    send(&queue, &[(0, 1), (1, 1)]);
    let mut turn = now(&queue);
    turn.result.failed = true;
    drop(turn);
    send(&queue, &[(1, 2), (2, 3), (0, 4)]);
    let turns: Vec<_> = (0..3).map(|_| now(&queue)).collect();
    assert_eq!(turns.iter().flat_map(taken).collect::<Vec<_>>(), [(1, 2), (2, 3), (0, 4)]);
    // Until it is some time ago.
    drop(turns);
    queue.lock().alone_until = Some(Instant::now());
    send(&queue, &[(0, 1), (1, 1)]);
    assert_eq!(taken(&now(&queue)).len(), 2);
}

#[test]
fn after_a_turn_of_one_partition_has_failed_others_go_together_all_the_same() {
    let queue = queue(true, 10_000);
    send(&queue, &[(0, 1)]);
    let mut turn = now(&queue);
    turn.result.failed = true;
    drop(turn);
    send(&queue, &[(1, 1), (2, 1)]);
    assert_eq!(taken(&now(&queue)), [(1, 1), (2, 1)]);
}

#[test]
fn each_failure_in_a_row_doubles_the_rest_of_a_partition_up_to_a_second() {
    let queue = queue(true, 10_000);
    send(&queue, &[(0, 1)]);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        queue.lock().lanes[0].rest_until = None;
        let mut turn = now(&queue);
        turn.result.kept = turn.jobs.drain(..).collect();
        let (pause, before) = (queue.lock().lanes[0].pause, Instant::now());
        drop(turn);
        let until = queue.lock().lanes[0].rest_until.expect("it rests");
        assert!((before + pause..=Instant::now() + pause).contains(&until));
        pauses.push(pause.as_millis());
    }
    assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
    queue.lock().lanes[0].rest_until = None;
    drop(now(&queue));
    assert_eq!(queue.lock().lanes[0].pause, FIRST_PAUSE, "it has succeeded");
}

/// To wake more than that would cost time.
#[test]
fn no_more_workers_are_woken_than_wait() {
    let queue = queue(true, 10_000);
    send(&queue, &[(0, 1)]);
    assert_eq!(queue.lock().notified, 0);
    queue.lock().waiting = 1;
    for _ in 0..2 {
        send(&queue, &[(0, 1)]);
        assert_eq!(queue.lock().notified, 1);
    }
}

#[test]
fn beside_a_small_turn_a_worker_is_woken_for_what_is_enough_or_goes_alone_and_for_nothing_else() {
    for alone in [false, true] {
        let queue = queue(true, 10_000);
        send(&queue, &[(0, 1)]);
        let _small = now(&queue);
        queue.lock().waiting = 1;
        send(&queue, &[(1, 299)]);
        assert_eq!(queue.lock().notified, 0);
        if alone {
            queue.lock().alone_until = Some(Instant::now() + ALONE_FOR);
            send(&queue, &[(2, 0)]);
        } else {
            send(&queue, &[(2, 1)]);
        }
        assert_eq!(queue.lock().notified, 1);
    }
}

#[test]
fn a_worker_that_was_woken_no_longer_counts_as_waiting() {
    let queue = queue(true, 10_000);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| queue.next(None).map(|turn| taken(&turn)));
        while queue.lock().waiting == 0 {
            std::thread::yield_now();
        }
        send(&queue, &[(0, 1)]);
        assert_eq!(worker.join().expect("it is well"), Some(vec![(0, 1)]));
    });
    let state = queue.lock();
    assert_eq!((state.waiting, state.notified), (0, 0));
}
