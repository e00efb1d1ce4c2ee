//! The layers around the routes: what is done for every request, whichever route it asks for.
//!
//! A request passes them in this order, and its answer passes them in the opposite order:
//!
//! 1. **Request id** (`request_id.rs`). Gives the request its id. On the way back it writes the problem of an answer with
//!    that id (`problem.rs`), adds the id to the head, and logs the answer.
//! 2. **Room for responses** (`response_room.rs`). Only on the way back: bounds the bytes of all large answers.
//! 3. **Checks** ([`check`]). Refuses a request for something in its head, before a byte of its body is read.
//! 4. **Panics**. A handler that panics is answered 500.
//! 5. **Routes** (`routes.rs`).
//!
//! A layer that can refuse a request belongs into [`check`]. A layer that looks at every answer, whoever gave it, belongs
//! to the end of [`Layers::answer`].
//!
//! A connection over the limit passes no layer, because nothing is read from it: see `connections.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, StatusCode};
use tracing::debug;

use crate::app::App;

use super::problem::{self, Problem};
use super::request_id::RequestId;
use super::routes::Routes;
use super::{body, host, response_room};

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
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response {
        let request_id = RequestId::of(request.headers());
        let checked = check(&request);
        // The client may still send a body that nobody reads. The next request would be looked for in it.
        let body_is_left = checked.is_err() || body::is_held_back(request.headers());
        let response = match checked {
            Ok(()) => self.handle(request.map(Body::new)).await,
            Err(problem) => problem.into_response(),
        };
        let response = problem::render(response, &request_id);
        let reserved = response_room::reserve(&self.app, response).await;
        let mut response =
            reserved.unwrap_or_else(|problem| problem::render(problem.into_response(), &request_id));
        if body_is_left && response.status() >= StatusCode::BAD_REQUEST {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        debug!(%request_id, status = response.status().as_u16(), "answered");
        request_id.add_to(response.headers_mut());
        response
    }

    async fn handle(&self, request: Request<Body>) -> Response {
        let response = AssertUnwindSafe(self.routes.dispatch(request)).catch_unwind().await;
        // The hook for panics has logged where it happened (`log.rs`).
        response.unwrap_or_else(|_| Problem::internal("a request handler panicked").into_response())
    }
}

/// Refuses a request for something in its head.
fn check(request: &Request<Incoming>) -> Result<(), Problem> {
    host::check(request.version(), request.headers())
}
