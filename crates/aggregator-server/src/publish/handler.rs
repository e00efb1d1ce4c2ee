//! `POST /publish`: takes events and tells the fate of every one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aggregator_core::{Batch, Partition, Partitions, Timestamp};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Request, Uri};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::reply::{Fates, Reply};
use crate::App;
use crate::health;
use crate::http::body;
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem, item_errors};
use crate::publish::admission::{Refused, Weight};
use crate::publish::decode::{Bounds, Decoded, decode};
use crate::publish::worker::{Appended, Job};

/// What the request asks for beside its events.
struct Wishes {
    /// `results=none` leaves the list out.
    results: bool,
    /// `on_invalid=skip` stores the good items of a request that has bad ones.
    skip_invalid: bool,
    /// `ack=queued` is answered before the commit.
    queued: bool,
    /// Whether that came as `Prefer: respond-async`.
    preferred: bool,
}

impl Wishes {
    fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut params = Params::of(uri)?;
        let results = params.choose("results", &[("all", true), ("none", false)])?.unwrap_or(true);
        let skip_invalid =
            params.choose("on_invalid", &[("reject", false), ("skip", true)])?.unwrap_or(false);
        let queued = params.choose("ack", &[("durable", false), ("queued", true)])?;
        params.finish("results, on_invalid, ack")?;
        // RFC 7240. What the query says counts more.
        let preferred = queued.is_none()
            && headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).any(|value| {
                value.split(',').any(|token| token.trim().eq_ignore_ascii_case("respond-async"))
            });
        Ok(Self { results, skip_invalid, queued: queued.unwrap_or(preferred), preferred })
    }
}

pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    check_health(&app)?;
    let (head, body) = request.into_parts();
    let wishes = Wishes::of(&head.uri, &head.headers)?;
    let received = body::json(&app, &head.headers, body).await?;
    let received_at = Timestamp::now();
    let bounds = Bounds {
        max_events: app.config.max_batch_events.get(),
        max_payload_depth: usize::from(app.config.max_json_depth) - LEVELS_AROUND_A_PAYLOAD,
        lone_surrogates: app.config.lone_surrogates.into(),
    };
    let large = received.bytes.len() > LARGE_BODY_BYTES;
    let turn = if large { Some(turn(&app).await?) } else { None };
    // The turn, and the room for the body, are held until it is decoded, even if nobody waits for that any
    // more.
    let store = Arc::clone(&app.store);
    let is_refused = move |decoded: &Decoded| !decoded.errors.is_empty() && !wishes.skip_invalid;
    let decode = move || {
        let mut decoded = decode(&received.bytes, received_at, bounds);
        if let Ok(decoded) = &mut decoded
            && !is_refused(decoded)
        {
            store.prepare(&mut decoded.batch);
        }
        (decoded, received.room, turn)
    };
    let (decoded, _room, turn) = if large { blocking(decode).await? } else { decode() };
    let decoded = decoded?;
    if is_refused(&decoded) {
        app.count_rejected(decoded.received);
        return Err(Problem::invalid(decoded.errors, "event"));
    }
    drop(turn);
    let mut fates = Fates::new(decoded.received, decoded.errors);
    let batch = Arc::new(decoded.batch);
    if wishes.queued {
        send(&app, &batch, &parts(&app, &batch), false)?;
    } else {
        commit(&app, &batch, &mut fates, wishes.skip_invalid).await?;
    }
    app.count_rejected(fates.rejected());
    Ok(super::reply::render(&Reply {
        fates: &fates,
        batch: &batch,
        single: decoded.single,
        received_at,
        queued: wishes.queued,
        durability: if wishes.queued { "queued" } else { app.store.info().durability.as_str() },
        results: wishes.results,
        preference_applied: wishes.preferred,
    }))
}

fn check_health(app: &App) -> Result<(), Problem> {
    match app.health.state() {
        health::State::Ready => Ok(()),
        health::State::Draining => Err(Problem::draining()),
        health::State::Failed(reason) => Err(Problem::failed(reason)),
    }
}

/// Decoding takes about a millisecond a megabyte: of larger bodies it is left to a thread of its own, or
/// other connections would wait for it.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// Waits until a large body may be decoded: as many as there are processors are at a time. What it is made
/// into can be many times its size, if every field of it is wrong.
async fn turn(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    let turn = Arc::clone(&app.decoders).acquire_owned().await;
    turn.map_err(|_| Problem::internal("the decoders are closed"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        // As if it had happened here: it is logged, and answered, where all panics are.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Problem::draining()),
    }
}

/// `{"events":[{"payload":…}]}`, as a reader gets it.
const LEVELS_AROUND_A_PAYLOAD: usize = 3;

impl App {
    fn count_rejected(&self, items: usize) {
        self.rejected.fetch_add(items as u64, Ordering::Relaxed);
    }
}

/// The events of a batch that go to one partition.
struct Part {
    partition: Partition,
    indices: Vec<u32>,
}

fn parts(app: &App, batch: &Batch) -> Vec<Part> {
    let partitions = app.store.partitions();
    let indices = 0..u32::try_from(batch.len()).expect("a body of at most 1 GiB has fewer events than that");
    if partitions == Partitions::ONE && !batch.is_empty() {
        return vec![Part { partition: Partition(0), indices: indices.collect() }];
    }
    let mut parts: Vec<Part> = Vec::new();
    for index in indices {
        let partition = partitions.of(batch.topic(index as usize));
        match parts.iter_mut().find(|part| part.partition == partition) {
            Some(part) => part.indices.push(index),
            None => parts.push(Part { partition, indices: vec![index] }),
        }
    }
    parts
}

/// Hands the parts over to the workers, all or none; with a receiver for each if it is waited for.
fn send(
    app: &App,
    batch: &Arc<Batch>,
    parts: &[Part],
    wait: bool,
) -> Result<Vec<oneshot::Receiver<Appended>>, Problem> {
    // Once more: the body may have taken its time.
    check_health(app)?;
    let share = |part: &Part| batch.bytes() / batch.len().max(1) * part.indices.len();
    let weights: Vec<_> =
        parts.iter().map(|part| Weight { events: part.indices.len(), bytes: share(part) }).collect();
    let reservations = app.admission.reserve(&weights).map_err(|refused| match refused {
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
        }
    });
    app.workers.send(jobs.collect());
    Ok(replies)
}

/// What the store refuses is sent again without the events that it named, so many times. After that, and at once where
/// the store names none, each event is sent as a part of its own, and is refused alone.
const ROUNDS_BY_NAME: u32 = 4;

/// Commits the batch and fills in the fates. With `skip_invalid`, what the store refuses is rejected
/// and the rest is sent again.
async fn commit(app: &App, batch: &Arc<Batch>, fates: &mut Fates, skip_invalid: bool) -> Result<(), Problem> {
    let deadline = tokio::time::Instant::now() + Duration::from(app.config.commit_timeout);
    let mut left = parts(app, batch);
    let mut round = 0;
    while !left.is_empty() {
        let refused = commit_parts(app, batch, fates, left, deadline).await?;
        if !refused.is_empty() && !skip_invalid {
            app.count_rejected(refused.iter().map(|(part, _)| part.indices.len()).sum());
            refused.into_iter().for_each(|(_, errors)| fates.refused(errors));
            return Err(Problem::invalid(fates.take_errors(), "event"));
        }
        round += 1;
        let by_name = round <= ROUNDS_BY_NAME;
        left = refused
            .into_iter()
            .flat_map(|(part, errors)| without_refused(part, errors, by_name, fates))
            .collect();
    }
    Ok(())
}

/// Commits the parts; those that the store refused, with what is wrong with them.
async fn commit_parts(
    app: &App,
    batch: &Arc<Batch>,
    fates: &mut Fates,
    parts: Vec<Part>,
    deadline: tokio::time::Instant,
) -> Result<Vec<(Part, Vec<ItemError>)>, Problem> {
    let replies = send(app, batch, &parts, true)?;
    let mut refused = Vec::new();
    let mut problem = None;
    // Every part is heard before anything is said: one that may succeed when it is tried again
    // counts more than one that will not, or the publisher would give up what can still be stored.
    for (part, reply) in parts.into_iter().zip(replies) {
        match tokio::time::timeout_at(deadline, reply).await {
            Ok(Ok(Ok(receipts))) => fates.decided(&part.indices, &receipts),
            Ok(Ok(Err(error))) => match item_errors(&error) {
                errors if errors.is_empty() => problem = Some(Problem::from_store(&error)),
                errors => refused.push((part, errors)),
            },
            // The worker is gone, and says why, or the server is about to end.
            Ok(Err(_)) => problem = Some(check_health(app).err().unwrap_or_else(Problem::draining)),
            Err(_) => problem = Some(Problem::commit_timeout()),
        }
    }
    problem.map_or(Ok(refused), Err)
}

/// What to send again of a part that the store refused: without the events that it named, or event by event.
fn without_refused(
    mut part: Part,
    mut errors: Vec<ItemError>,
    by_name: bool,
    fates: &mut Fates,
) -> Vec<Part> {
    if let [index] = part.indices[..] {
        // Whatever is wrong is wrong with this one.
        errors.iter_mut().for_each(|error| error.index = Some(index as usize));
    }
    let bad: HashSet<_> = errors.iter().filter_map(|error| error.index).collect();
    part.indices.retain(|&index| !bad.contains(&(index as usize)));
    errors.retain(|error| error.index.is_some());
    fates.refused(errors);
    if part.indices.is_empty() {
        Vec::new()
    } else if by_name && !bad.is_empty() {
        vec![part]
    } else {
        let alone = |index| Part { partition: part.partition, indices: vec![index] };
        part.indices.into_iter().map(alone).collect()
    }
}
