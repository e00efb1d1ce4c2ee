//! The streams of HTTP/2 connections: each is one request with its answer, and a task of its own.
//!
//! HTTP/2 has a window for every stream. A client that opens none takes nothing of its answer, while the connection itself
//! is busy: so the time to write is counted for each stream ([`Sending`]).

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::http::request_id::RequestId;

/// An answer is handed over in pieces of at most this size: h2 takes a whole piece as soon as there is room for one byte.
const PIECE_BYTES: usize = 32 << 10;

tokio::task_local! {
    /// The stream that this task is for.
    static SENDING: Arc<Sending>;
}

/// The tasks of all connections, so that their end can be waited for.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<JoinSet<()>>>);

impl Streams {
    /// What starts the streams of one connection, and how many of them there are.
    pub(super) fn of_connection(self, write_timeout: Duration) -> (StreamExecutor, OpenStreams) {
        let (open, opened) = watch::channel(0);
        (StreamExecutor { all: self, open: Arc::new(open), write_timeout }, OpenStreams(opened))
    }

    /// Ends them all, and waits until they hold nothing.
    pub(super) async fn shutdown(&self) {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.shutdown().await;
    }
}

/// How many streams of a connection are open.
#[derive(Clone)]
pub(super) struct OpenStreams(watch::Receiver<usize>);

impl OpenStreams {
    /// Returns once there was no stream for so long.
    pub(super) async fn none_for(&mut self, limit: Duration) {
        loop {
            if self.0.wait_for(|open| *open == 0).await.is_err() {
                return;
            }
            if timeout(limit, self.0.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// Starts the streams of one connection.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    all: Streams,
    open: Arc<watch::Sender<usize>>,
    write_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let open = Open::new(&self.open);
        let write_timeout = self.write_timeout;
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Streams that have ended are removed, so that the set does not grow.
        while all.try_join_next().is_some() {}
        all.spawn(async move {
            let _open = open;
            let sending = Arc::new(Sending::default());
            let stream = SENDING.scope(Arc::clone(&sending), stream);
            tokio::select! {
                () = stream => {}
                // Dropping the stream resets it. The connection and its other streams go on.
                () = sending.stuck_for(write_timeout) => {
                    let request_id = sending.request_id.get().map(tracing::field::display);
                    debug!(request_id, "a client does not take its answer: its stream is ended");
                }
            }
        });
    }
}

/// Counts a stream while it lives.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(open: &Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// The answer of a stream on its way.
#[derive(Default)]
struct Sending {
    request_id: OnceLock<RequestId>,
    /// Since when a piece of it waits for its client's window, if one does.
    waiting_since: Mutex<Option<Instant>>,
}

impl Sending {
    fn set(&self, waiting_since: Option<Instant>) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = waiting_since;
    }

    /// Returns once a piece has waited for so long.
    async fn stuck_for(&self, limit: Duration) {
        loop {
            let since = *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let until = since.unwrap_or(now) + limit;
            if until <= now {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// The body of an answer, in pieces.
pub(super) struct Pieces {
    body: Body,
    rest: Bytes,
}

impl Pieces {
    /// Of this answer. To be called on the task of its stream.
    pub(super) fn of(response: Response) -> hyper::Response<Self> {
        let request_id = RequestId::of(response.headers());
        let _ = SENDING.try_with(|sending| sending.request_id.set(request_id));
        response.map(|body| Self { body, rest: Bytes::new() })
    }

    fn next_piece(&mut self) -> Bytes {
        if self.rest.len() > PIECE_BYTES {
            return self.rest.split_to(PIECE_BYTES);
        }
        // A copy: h2 keeps the last piece until the client takes it, and with it the memory of all the others.
        let last = Bytes::copy_from_slice(&self.rest);
        self.rest = Bytes::new();
        last
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // h2 asks again once it could hand over the last piece.
        let note = |waiting_since| SENDING.try_with(|sending| sending.set(waiting_since));
        let _ = note(None);
        if self.rest.is_empty() {
            let frame = match ready!(pin!(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let _ = note(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
