//! The deliveries in groups of one partition each, and which connection appends which group.

use std::ops::Range;
use std::thread;
use std::time::Instant;

use aggregator_core::{Event, Partition, Partitions};
use anyhow::{Context as _, anyhow};

use crate::workload::{Row, TEMPLATE, Workload};

/// Events of a transaction: as many as eight requests of 500 give each of four partitions.
pub(super) const GROUP: usize = 1_000;

pub(super) struct Group {
    pub(super) partition: Partition,
    /// Topic by topic, in the order in which a store assigns offsets.
    pub(super) events: Vec<Event>,
}

/// The groups of each connection, in the order in which it appends them.
pub(super) type Lanes = Vec<Vec<Group>>;

/// Groups these deliveries. There are as many lanes as connections, but no more than partitions.
pub(super) fn lanes(
    workload: &Workload,
    deliveries: Range<u64>,
    partitions: Partitions,
    connections: usize,
) -> anyhow::Result<Lanes> {
    let mut lanes: Lanes = Vec::new();
    lanes.resize_with(connections.min(partitions.count().into()), Vec::new);
    let mut open: Vec<Vec<Event>> = partitions.iter().map(|_| Vec::new()).collect();
    let mut close = |partition: Partition, mut events: Vec<Event>| {
        events.sort_by(|one, other| one.view().topic().cmp(other.view().topic()));
        let lane = usize::from(partition.0) % lanes.len();
        lanes[lane].push(Group { partition, events });
    };
    let mut text = TEMPLATE.to_vec();
    for n in deliveries {
        workload.render(workload.identity(n), &mut text);
        let event = Row::of(&text).event().context("a delivery")?;
        let partition = partitions.of(event.view().topic());
        let events = &mut open[usize::from(partition.0)];
        events.push(event);
        if events.len() == GROUP {
            close(partition, std::mem::take(events));
        }
    }
    for (partition, events) in partitions.iter().zip(open) {
        if !events.is_empty() {
            close(partition, events);
        }
    }
    Ok(lanes)
}

/// Runs a thread for each lane, each with its own connection. Returns the seconds until all were done.
pub(super) fn run<C: Send>(
    lanes: &Lanes,
    connections: &mut [C],
    append: impl Fn(&mut C, &Group) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<f64> {
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .iter()
            .zip(connections)
            .map(|(groups, connection)| {
                let append = &append;
                scope.spawn(move || groups.iter().try_for_each(|group| append(connection, group)))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    Ok(started.elapsed().as_secs_f64())
}
