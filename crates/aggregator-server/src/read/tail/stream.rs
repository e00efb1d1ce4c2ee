//! `GET /events/stream`: the stream as Server-Sent Events, first what is stored and then what comes.
//!
//! To a browser's `EventSource` any answer but 200 is the end for ever. So a client that accepts `text/event-stream` is
//! told of whatever passes by a 200 that says when to come again.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{Cursor, DedupStoreExt as _, Query};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::Woken;
use super::reader::{Reader, Step};
use super::ring::SharedEvent;
use super::sse::Frames;
use crate::app::App;
use crate::auth::Principal;
use crate::http::connection_place::ConnectionPlace;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::metrics::requests::Shed;
use crate::read::filters::{self, After};

/// The client is told to wait so long before it connects again after the server could not serve it.
const RETRY_OVERLOADED: Duration = Duration::from_secs(15);
/// A piece of the body is handed to the connection when it is so large.
const CHUNK_BYTES: usize = 32 << 10;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
    Extension(connection): Extension<ConnectionPlace>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (query, latest) = query(&uri, &headers, &reader)?;
    let is_event_source = accepts_event_stream(&headers);
    match open(&app, reader, RequestId::of(&headers), query, latest, is_event_source).await {
        Ok(stream) => {
            // Counted by --max-tails instead, and closed when the stream ends. Over HTTP/2 the connection stays, and so
            // does its place.
            connection.give_up();
            Ok(response(stream.into_body()))
        }
        Err(refusal) if is_event_source && refusal.is_retryable() => {
            let mut response = response(Body::from(Frames::new().retry(RETRY_OVERLOADED).take()));
            if let Some(reason) = refusal.shed_reason() {
                response.extensions_mut().insert(Shed(reason));
            }
            Ok(response)
        }
        Err(refusal) => Err(refusal),
    }
}

/// The query, from where the client stands, and whether it begins behind everything that is stored.
pub(in crate::read) fn query(
    uri: &Uri,
    headers: &HeaderMap,
    reader: &Principal,
) -> Result<(Query, bool), Problem> {
    let mut params = Params::of(uri)?;
    let mut query = filters::take(&mut params, reader)?;
    if query.until.is_some() {
        return Err(Problem::parameter(
            "until",
            "is not for a stream, which has no end: ask for pages of GET /events",
        ));
    }
    let after = filters::take_after(&mut params, reader)?;
    params.finish("topic, event_id, source, since, after")?;
    // A client that connects again asks for the same URL, and says in the header how far it has come.
    let last = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty());
    let (cursor, latest) = match (last, after) {
        (Some(id), _) => (Some(last_event_id(id, reader)?), false),
        (None, Some(After::Cursor(cursor))) => (Some(cursor), false),
        (None, Some(After::Latest)) => (None, true),
        (None, None) => (None, false),
    };
    query.after = cursor;
    Ok((query, latest))
}

fn last_event_id(id: &HeaderValue, reader: &Principal) -> Result<Cursor, Problem> {
    let cursor = id.to_str().ok().and_then(|id| reader.parse_cursor(id).ok());
    cursor.ok_or_else(|| {
        Problem::parameter("Last-Event-ID", "is not a cursor: hand back the id of the last event unchanged")
    })
}

fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|accepted| accepted.contains("text/event-stream"))
}

/// What a client gets before anything is sent: a stream that has read its first page, or a refusal.
async fn open(
    app: &Arc<App>,
    principal: Principal,
    request_id: RequestId,
    mut query: Query,
    latest: bool,
    is_event_source: bool,
) -> Result<EventStream, Problem> {
    let place = app.tails.enter(&query.topics);
    let place = place.ok_or_else(Problem::too_many_tails)?;
    if place.is_closed() {
        return Err(Problem::draining());
    }
    if latest {
        let asked = query.clone();
        query.after = Some(app.reads.run(principal.flow(), move |store| store.end(&asked)).await?);
    }
    let mut stream = EventStream {
        reader: Reader::new(Arc::clone(app), place, principal.flow(), query),
        principal,
        request_id,
        frames: Frames::new(),
        caught_up: false,
        silence: app.config.heartbeat,
        heartbeat: Instant::now() + app.config.heartbeat,
        ended: false,
    };
    stream.frames.retry(jittered_retry());
    // The first step says whether the client can be served.
    if stream.step().await? == Step::Gap
        && !is_event_source
        && let Some(oldest) = stream.reader.cursor()
    {
        return Err(Problem::expired(&oldest));
    }
    Ok(stream)
}

/// Between 2 and 5 seconds, so that clients do not all come at once after a restart.
fn jittered_retry() -> Duration {
    let random = ulid::Ulid::generate().random();
    Duration::from_millis(2_000 + u64::try_from(random % 3_000).unwrap_or(0))
}

fn response(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // `no-transform`: a proxy that compresses keeps events back.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The body of the answer.
struct EventStream {
    reader: Reader,
    /// Who reads.
    principal: Principal,
    request_id: RequestId,
    frames: Frames,
    /// Whether the client was told that it has read what was stored when it came.
    caught_up: bool,
    /// How long it may be silent.
    silence: Duration,
    /// When it has been silent for so long.
    heartbeat: Instant,
    ended: bool,
}

impl EventStream {
    fn into_body(self) -> Body {
        let chunks = unfold(self, |mut stream| async move {
            let chunk = stream.next_chunk().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), stream))
        });
        Body::from_stream(chunks.fuse())
    }

    /// The next piece of the body; `None` at its end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        while !self.ended && self.frames.len() < CHUNK_BYTES {
            match self.step().await {
                Ok(Step::CaughtUp) if self.frames.is_empty() => self.wait().await,
                Ok(Step::CaughtUp) => break,
                // Nothing matched for a while.
                Ok(_) if self.frames.is_empty() && Instant::now() >= self.heartbeat => self.tell_position(),
                Ok(_) => {}
                Err(problem) => self.end(&problem),
            }
        }
        self.heartbeat = Instant::now() + self.silence;
        (!self.frames.is_empty()).then(|| self.frames.take())
    }

    /// Writes what the reader has next.
    async fn step(&mut self) -> Result<Step, Problem> {
        self.principal.check()?;
        let (frames, principal) = (&mut self.frames, &self.principal);
        let mut corrupt = None;
        let mut each = |shared: &SharedEvent, cursor: &dyn Fn() -> Cursor| match shared.json() {
            Ok(json) => {
                frames.event(&principal.show_cursor(&cursor()), &json);
                frames.len() < CHUNK_BYTES
            }
            Err(problem) => {
                corrupt = Some(problem);
                false
            }
        };
        let step = self.reader.step(&mut each).await?;
        if let Some(problem) = corrupt {
            return Err(problem);
        }
        let is_first_end = step == Step::CaughtUp && !self.caught_up;
        if (step == Step::Gap || is_first_end)
            && let Some(cursor) = self.reader.cursor()
        {
            self.caught_up |= is_first_end;
            let cursor = self.principal.show_cursor(&cursor);
            if is_first_end { self.frames.caught_up(&cursor) } else { self.frames.gap(&cursor) }
        }
        Ok(step)
    }

    /// Waits until there may be something to write.
    async fn wait(&mut self) {
        // The next step notices that the credential is not good any more.
        let until = self
            .principal
            .expires_in()
            .map_or(self.heartbeat, |left| self.heartbeat.min(Instant::now() + left));
        match timeout_at(until, self.reader.place().woken_or_closed()).await {
            Ok(Woken::Events) => {}
            Ok(Woken::Closed) => {
                self.frames.retry(jittered_retry());
                self.ended = true;
            }
            Err(_) if Instant::now() >= self.heartbeat => self.tell_position(),
            Err(_) => {}
        }
    }

    /// A client that was sent no event for a while need not look through the same events again.
    fn tell_position(&mut self) {
        self.heartbeat = Instant::now() + self.silence;
        if let Some(cursor) = self.reader.cursor() {
            self.frames.position(&self.principal.show_cursor(&cursor));
        }
    }

    /// Ends the stream after an error. The client comes again where it stands, and is told then what is wrong.
    fn end(&mut self, problem: &Problem) {
        debug!(request_id = %self.request_id, detail = problem.detail(), "a stream of events ends");
        self.frames.retry(RETRY_OVERLOADED);
        self.ended = true;
    }
}
