//! Hands the events of a request to the workers and collects their outcomes.

use std::collections::HashSet;
use std::sync::Arc;

use aggregator_core::{Batch, Outage, Partition, Partitions};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::app::App;
use crate::http::problem::{ItemError, Problem, item_errors};

use super::admission::{Refused, Reservation, Weight};
use super::job::{AppendResult, Job, Origin};
use super::outcomes::ItemOutcomes;

/// How many times events that the store refused are sent again without those that it named. After that, and at once if
/// the store names none, each event is sent alone and refused alone.
const ROUNDS_BY_NAME: u32 = 4;

/// What a request publishes.
pub(super) struct Publication {
    pub(super) batch: Arc<Batch>,
    pub(super) origin: Origin,
}

/// The events of a batch that go to one partition.
struct PartitionEvents {
    partition: Partition,
    indices: Vec<u32>,
}

/// Queues the batch and does not wait for its commit.
pub(super) fn queue(app: &App, publication: &Publication, room: Reservation) -> Result<(), Problem> {
    let parts = by_partition(app, &publication.batch);
    refuse_outages(app, &parts)?;
    send(app, publication, &parts, Some(room), false).map(drop)
}

/// Nobody waits for what is queued. What is for a part of the store that does not answer would fill the queue, until others
/// found no room in it.
fn refuse_outages(app: &App, parts: &[PartitionEvents]) -> Result<(), Problem> {
    let outages = app.store.outages();
    let is_out = |outage: &&Outage| parts.iter().any(|part| outage.partitions.contains(&part.partition));
    outages.iter().find(is_out).map_or(Ok(()), |outage| Err(Problem::partition_out(&outage.reason)))
}

/// Commits the batch and notes the outcomes. If `skip_invalid`, the events that the store refuses are rejected and the
/// others are sent again.
pub(super) async fn commit(
    app: &App,
    publication: &Publication,
    room: Reservation,
    outcomes: &mut ItemOutcomes,
    skip_invalid: bool,
    deadline: Instant,
) -> Result<(), Problem> {
    let mut room = Some(room);
    let mut left = by_partition(app, &publication.batch);
    let mut round = 0;
    while !left.is_empty() {
        let refused = commit_once(app, publication, room.take(), outcomes, left, deadline).await?;
        if !refused.is_empty() && !skip_invalid {
            app.count_rejected(refused.iter().map(|(events, _)| events.indices.len()).sum());
            refused.into_iter().for_each(|(_, errors)| outcomes.refused(errors));
            return Err(Problem::invalid(outcomes.take_errors(), "event"));
        }
        round += 1;
        let by_name = round <= ROUNDS_BY_NAME;
        left = refused
            .into_iter()
            .flat_map(|(events, errors)| without_refused(events, errors, by_name, outcomes))
            .collect();
    }
    Ok(())
}

fn by_partition(app: &App, batch: &Batch) -> Vec<PartitionEvents> {
    let partitions = app.store.partitions();
    let indices = 0..u32::try_from(batch.len()).expect("a body of at most 1 GiB has fewer events than that");
    if partitions == Partitions::ONE && !batch.is_empty() {
        return vec![PartitionEvents { partition: Partition(0), indices: indices.collect() }];
    }
    let mut found: Vec<PartitionEvents> = Vec::new();
    for index in indices {
        let partition = partitions.of(batch.topic(index as usize));
        match found.iter_mut().find(|events| events.partition == partition) {
            Some(events) => events.indices.push(index),
            None => found.push(PartitionEvents { partition, indices: vec![index] }),
        }
    }
    found
}

/// Sends a job per partition to the workers, all or none. They take the place of `room`, if the batch has some already. If
/// `wait`, returns a receiver for each.
fn send(
    app: &App,
    Publication { batch, origin }: &Publication,
    parts: &[PartitionEvents],
    room: Option<Reservation>,
    wait: bool,
) -> Result<Vec<oneshot::Receiver<AppendResult>>, Problem> {
    // Again, because the body may have taken long to arrive.
    app.check_ready()?;
    let share = |part: &PartitionEvents| batch.bytes() / batch.len().max(1) * part.indices.len();
    let weights: Vec<_> =
        parts.iter().map(|part| Weight { events: part.indices.len(), bytes: share(part) }).collect();
    let reservations = match room {
        Some(room) => room.split(&weights),
        None => app.admission.reserve(&weights),
    };
    let reservations = reservations.map_err(|refused| match refused {
        Refused::Full => Problem::queue_full(),
        Refused::TooLarge => Problem::too_large(
            "the request is larger than the whole queue (--queue-events, --queue-bytes): send it in several",
        ),
    })?;
    let mut replies = Vec::new();
    let jobs = parts.iter().zip(reservations).map(|(part, reservation)| {
        let reply = wait.then(|| {
            let (reply, receiver) = oneshot::channel();
            replies.push(receiver);
            reply
        });
        Job {
            partition: part.partition,
            batch: Arc::clone(batch),
            indices: part.indices.clone(),
            bytes: share(part),
            reservation,
            reply,
            origin: origin.clone(),
        }
    });
    let jobs = jobs.collect();
    app.workers.send(jobs).map_err(|_| no_worker(app))?;
    Ok(replies)
}

/// The workers have ended: the server has failed, or is about to end.
fn no_worker(app: &App) -> Problem {
    app.check_ready().err().unwrap_or_else(Problem::draining)
}

/// Commits the parts. Returns those that the store refused, and what is wrong with them.
async fn commit_once(
    app: &App,
    publication: &Publication,
    room: Option<Reservation>,
    outcomes: &mut ItemOutcomes,
    parts: Vec<PartitionEvents>,
    deadline: Instant,
) -> Result<Vec<(PartitionEvents, Vec<ItemError>)>, Problem> {
    let replies = send(app, publication, &parts, room, true)?;
    let mut refused = Vec::new();
    let mut problem = None;
    // All replies are awaited before one decides the answer. A failure that may pass decides before a refusal: told of
    // the refusal, the publisher would give up events that can still be stored.
    for (part, reply) in parts.into_iter().zip(replies) {
        match tokio::time::timeout_at(deadline, reply).await {
            Ok(Ok(Ok(receipts))) => outcomes.received(&part.indices, &receipts),
            Ok(Ok(Err(error))) => match item_errors(&error) {
                errors if errors.is_empty() => problem = Some(Problem::from_store(&error)),
                errors => refused.push((part, errors)),
            },
            Ok(Err(_)) => problem = Some(no_worker(app)),
            Err(_) => problem = Some(Problem::commit_timeout()),
        }
    }
    problem.map_or(Ok(refused), Err)
}

/// What to send again after a refusal: the events that the store did not name together, or each event alone.
fn without_refused(
    mut part: PartitionEvents,
    mut errors: Vec<ItemError>,
    by_name: bool,
    outcomes: &mut ItemOutcomes,
) -> Vec<PartitionEvents> {
    if let [index] = part.indices[..] {
        // Every error is about the only event.
        errors.iter_mut().for_each(|error| error.index = Some(index as usize));
    }
    let bad: HashSet<_> = errors.iter().filter_map(|error| error.index).collect();
    part.indices.retain(|&index| !bad.contains(&(index as usize)));
    errors.retain(|error| error.index.is_some());
    outcomes.refused(errors);
    if part.indices.is_empty() {
        Vec::new()
    } else if by_name && !bad.is_empty() {
        vec![part]
    } else {
        let alone = |index| PartitionEvents { partition: part.partition, indices: vec![index] };
        part.indices.into_iter().map(alone).collect()
    }
}
