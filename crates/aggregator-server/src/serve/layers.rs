//! The layers around the routes: what is done for every request, whichever route it asks for.
//!
//! A request passes these, in this order:
//!
//! 1. **Request id** (`http/request_id.rs`): the client's, or a new one. And, where spans are exported, its **span** (`trace.rs`).
//! 2. **Checks** ([`check`]): refuse a request for something in its head, before a byte of its body is read.
//! 3. **Panics** ([`Layers::handle`]): a handler that panics is answered 500.
//! 4. **Routes** (`routes.rs`): find the handler, and refuse whoever may not use it (`auth/`). 404 and 405 are answers like
//!    any other.
//!
//! Its answer, whoever gave it, then passes these:
//!
//! 5. **Problem** (`http/problem.rs`): an error gets its body, with the request id.
//! 6. **Room** (`response_room.rs`): bounds the bytes of all large answers together.
//! 7. **Compression** (`compression.rs`): for clients that accept it. Not for streams.
//! 8. **Connection**: ends it where a body was left unread. HTTP/2 ends the stream alone.
//! 9. **Count, log and head**: counters ([`RequestCounters`](crate::metrics::requests::RequestCounters)), the end of the span, a
//!    debug line, and the request id in the head.
//!
//! A new layer that can refuse a request belongs in [`check`]. A layer that watches every answer, to count or to time
//! it, belongs beside the log line in [`Layers::answer`]. The status is known there, but the body has not been written
//! yet. The route is the row that `routes.rs` found ([`FoundRoute`]). Never count by the path of the request: clients can make
//! up any number of them.
//!
//! A layer does not see everything: not connections over the limit, from which nothing is read (see `connections.rs`),
//! not what hyper answers itself (400, 431), and not the end of a request whose client left. Only `tests/it` can test
//! a layer, because only hyper can make the body of a request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONNECTION, HeaderValue};
use hyper::{Request, StatusCode, Version};
use tracing::debug;

use crate::app::App;
use crate::auth::Principal;
use crate::http::body;
use crate::http::problem::{self, Problem};
use crate::http::request_id::RequestId;
use crate::metrics::requests::{FoundRoute, Shed};

use super::routes::Routes;
use super::{compression, framing, host, response_room};

/// The routes with the layers around them.
pub(crate) struct Layers {
    app: Arc<App>,
    routes: Routes,
}

impl Layers {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { routes: Routes::new(Arc::clone(&app)), app }
    }

    /// Answers a request. Nothing else does.
    pub(crate) async fn answer(&self, mut request: Request<Incoming>) -> Response {
        let began = Instant::now();
        let request_id = RequestId::note(request.headers_mut());
        let span = self.app.tracer.as_ref().and_then(|tracer| tracer.begin(&request));
        if let Some(span) = &span {
            request.extensions_mut().insert(Arc::clone(span));
        }
        let route = FoundRoute::default();
        let accepted = request.headers().get(ACCEPT_ENCODING).cloned();
        let checked = check(&request);
        // The client may still send a body that nobody reads. The next request would be looked for in it.
        let body_is_left = checked.is_err() || body::is_held_back(request.headers());
        let version = request.version();
        let mut response = match checked {
            Ok(()) => self.handle(request.map(Body::new), &route).await,
            Err(problem) => problem.into_response(),
        };
        let reader = response.extensions_mut().remove().unwrap_or(Principal::Nobody);
        let mut shed = shed_reason(&response);
        let response = problem::render(response, &request_id, |cursor| reader.show_cursor(cursor));
        let reserved = response_room::reserve(&self.app, response).await;
        let response = reserved.unwrap_or_else(|problem| {
            shed = problem.shed_reason();
            problem::render(problem.into_response(), &request_id, |cursor| reader.show_cursor(cursor))
        });
        let mut response = compression::compress(accepted, response).await;
        if body_is_left && response.status() >= StatusCode::BAD_REQUEST {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if version == Version::HTTP_2 {
            // It has no such header (RFC 9113, section 8.2.2): only the stream ends.
            response.headers_mut().remove(CONNECTION);
        }
        self.app.requests.answered(route.get(), response.status(), began.elapsed());
        if let Some(reason) = shed {
            self.app.requests.shed(reason);
        }
        if let Some(span) = span {
            span.end(route.get().path(), response.status(), &request_id);
        }
        debug!(%request_id, status = response.status().as_u16(), "answered");
        request_id.add_to(response.headers_mut());
        response
    }

    async fn handle(&self, request: Request<Body>, route: &FoundRoute) -> Response {
        let response = AssertUnwindSafe(self.routes.dispatch(request, route)).catch_unwind().await;
        // The hook for panics has logged where it happened (`log.rs`).
        response.unwrap_or_else(|_| Problem::internal("a request handler panicked").into_response())
    }
}

/// Why the request was shed, if it was.
fn shed_reason(response: &Response) -> Option<&'static str> {
    let extensions = response.extensions();
    let problem = extensions.get::<Arc<Problem>>().and_then(|problem| problem.shed_reason());
    problem.or_else(|| extensions.get::<Shed>().map(|Shed(reason)| *reason))
}

/// Refuses a request for something in its head.
fn check(request: &Request<Incoming>) -> Result<(), Problem> {
    host::check(request.version(), request.uri(), request.headers())?;
    framing::check(request.headers())
}
