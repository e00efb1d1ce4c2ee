//! `POST /publish`: takes events and tells the outcome of each one.
//!
//! The handler never waits for a store. It uses a store for what is known without asking it (`info`, `partitions`) and
//! for `prepare`, which only computes. Everything else goes through the queue.

use std::sync::Arc;

use aggregator_core::{Batch, Timestamp};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::Request;
use hyper::http::request::Parts;
use tokio::time::Instant;

use crate::app::App;
use crate::auth::Principal;
use crate::fair::Flow;
use crate::fair::places::Place;
use crate::http::body::ReceivedBody;
use crate::http::body_room::BodyRoom;
use crate::http::problem::{ItemError, Problem};
use crate::http::request_id::RequestId;
use crate::trace::RequestSpan;

use super::admission::{Reservation, Weight};
use super::decode::{DecodeLimits, Decoded, decode};
use super::job::Origin;
use super::options::PublishOptions;
use super::outcomes::ItemOutcomes;
use super::reply::{self, Reply};
use super::submit::{self, Publication};

/// Larger bodies are decoded on a thread of their own. Decoding takes about a millisecond per megabyte, and other
/// connections would wait for it.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// `{"events":[{"payload":…}]}`, as a reader gets it.
const LEVELS_AROUND_A_PAYLOAD: usize = 3;

pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    publisher: Principal,
    request: Request<Body>,
) -> Result<Response, Problem> {
    app.check_ready()?;
    let (head, body) = request.into_parts();
    let options = PublishOptions::parse(&head.uri, &head.headers)?;
    let received = app.bodies.json(publisher.flow(), &head.headers, body).await?;
    // The body may have taken long to arrive.
    publisher.check()?;
    publisher.take_bytes(received.bytes.len())?;
    let deadline = Instant::now() + app.config.commit_timeout;
    let queue_room = enter_queue(&app, &publisher, &received.bytes).await?;
    let received_at = Timestamp::now();
    // The room for the body is held until the answer is ready.
    let (decoded, _room) =
        decode_body(&app, publisher.clone(), received, received_at, options.skip_invalid).await?;
    publisher.take_events(decoded.batch.len())?;
    let mut outcomes = ItemOutcomes::new(decoded.received, decoded.errors);
    let publication = publication(decoded.batch, options.queued, &head);
    if options.queued {
        submit::queue(&app, &publication, queue_room)?;
    } else {
        let skip_invalid = options.skip_invalid;
        submit::commit(&app, &publication, queue_room, &mut outcomes, skip_invalid, deadline).await?;
    }
    app.count_rejected(outcomes.rejected());
    Ok(reply::render(&Reply {
        outcomes: &outcomes,
        batch: &publication.batch,
        single: decoded.single,
        received_at,
        queued: options.queued,
        durability: if options.queued { "queued" } else { app.store.info().durability.as_str() },
        results: options.results,
        preference_applied: options.preferred,
    }))
}

/// Waits until there is room in the queue for what the body may hold, before it is decoded.
async fn enter_queue(app: &App, publisher: &Principal, body: &[u8]) -> Result<Reservation, Problem> {
    let estimate =
        Weight { events: estimated_events(body).min(app.config.max_batch_events.get()), bytes: body.len() };
    let patience = app.config.queue_wait.min(app.config.commit_timeout);
    let entered = app.admission.enter(publisher.flow(), estimate, patience).await;
    // The wait may have been long.
    app.check_ready()?;
    publisher.check()?;
    entered.map_err(|_| Problem::queue_full())
}

/// About how many events a body has. Exact for one that is small and names the field as everybody does.
fn estimated_events(body: &[u8]) -> usize {
    const LOOK_BYTES: usize = 1 << 20;
    let looked_at = &body[..body.len().min(LOOK_BYTES)];
    let found = memchr::memmem::find_iter(looked_at, b"\"event_id\"").count();
    (found * body.len() / looked_at.len().max(1)).max(1)
}

/// Decodes a body and prepares its batch. Refuses a body with bad items, unless `skip_invalid`.
async fn decode_body(
    app: &App,
    publisher: Principal,
    received: ReceivedBody,
    received_at: Timestamp,
    skip_invalid: bool,
) -> Result<(Decoded, BodyRoom), Problem> {
    let limits = DecodeLimits {
        max_events: app.config.max_batch_events.get(),
        max_payload_depth: usize::from(app.config.max_json_depth) - LEVELS_AROUND_A_PAYLOAD,
        lone_surrogates: app.config.lone_surrogates.into(),
    };
    let large = received.bytes.len() > LARGE_BODY_BYTES;
    let turn = if large { Some(decoder_turn(app, publisher.flow()).await?) } else { None };
    let store = Arc::clone(&app.store);
    let is_refused = move |decoded: &Decoded| !decoded.errors.is_empty() && !skip_invalid;
    // The turn and the room for the body move into the closure: they are held until the body is decoded, even if the
    // client is gone by then.
    let work = move || {
        let mut decoded = decode(&received.bytes, received_at, limits, &publisher);
        if let Ok(decoded) = &mut decoded
            && !is_refused(decoded)
        {
            store.prepare(&mut decoded.batch);
        }
        (decoded, received.room, turn)
    };
    let (decoded, room, _turn) = if large { blocking(work).await? } else { work() };
    let decoded = decoded?;
    if is_refused(&decoded) {
        app.count_rejected(decoded.received);
        return Err(refusal(decoded));
    }
    Ok((decoded, room))
}

/// The events with what their request says about itself. They keep the span of their publisher, if the request is sampled.
fn publication(mut batch: Batch, queued: bool, head: &Parts) -> Publication {
    let span = head.extensions.get::<Arc<RequestSpan>>().cloned();
    if let Some(attributes) = span.as_ref().and_then(|span| span.attributes()) {
        batch.set_attributes(attributes).expect("they are a JSON object");
    }
    let request_id = queued.then(|| RequestId::of(&head.headers));
    Publication { batch: Arc::new(batch), origin: Origin { request_id, span } }
}

/// What is wrong with a request that has bad items. Topics that its publisher may not publish come before all else.
fn refusal(mut decoded: Decoded) -> Problem {
    if decoded.forbidden.is_empty() {
        return Problem::invalid(decoded.errors, "event");
    }
    let is_forbidden =
        |error: &ItemError| error.index.is_some_and(|at| decoded.forbidden.binary_search(&at).is_ok());
    decoded.errors.retain(is_forbidden);
    Problem::forbidden_items(decoded.errors, "event")
}

/// Waits until a large body may be decoded; as many as there are processors are decoded at a time. A decoded body can
/// be many times as large as its text, if every field of it is wrong.
async fn decoder_turn(app: &App, flow: Flow) -> Result<Place, Problem> {
    app.decoders.take(flow).await.map_err(|_| Problem::draining())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        // Goes on as a panic of this task: one place answers all panics.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Problem::draining()),
    }
}
