//! What there is to ask for: one file per resource.

mod body;
mod events;
mod health;
mod lookup;
mod params;
mod publish;
mod response;
mod stats;
mod topics;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::error;

use crate::App;
use crate::problem::Problem;

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/publish", post(publish::publish))
        .route("/events", get(events::events))
        .route("/lookup", post(lookup::lookup))
        .route("/topics", get(topics::topics))
        .route("/stats", get(stats::stats))
        .route("/", get(health::health))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(async |uri: Uri| Problem::no_route(uri.path()))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| Problem::method(&method, uri.path()))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(map_response_with_state(Arc::clone(&app), response::hold_room))
        .with_state(app)
}

/// A 200 with this as its JSON.
fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => json_text(status, body),
        Err(error) => Problem::internal(format!("the response: {error}")).into_response(),
    }
}

fn json_text(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[expect(clippy::needless_pass_by_value, reason = "the layer calls it so")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message =
        panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(message, "a request handler panicked");
    Problem::internal("a request handler panicked").into_response()
}
