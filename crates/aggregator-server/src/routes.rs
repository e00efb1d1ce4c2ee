//! What there is to ask for: one file per resource.

mod body;
mod events;
mod health;
mod link;
mod lookup;
mod params;
mod publish;
mod response;
mod stats;
mod topics;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::Service as _;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tracing::error;

use crate::App;
use crate::problem::Problem;

/// Answers every request.
pub(crate) struct Routes {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
}

impl Routes {
    pub(crate) fn new(app: Arc<App>) -> Self {
        let router = Router::new()
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
            .method_not_allowed_fallback(async |method: Method, uri: Uri| {
                Problem::method(&method, uri.path())
            })
            .with_state(Arc::clone(&app));
        Self { router: TowerToHyperService::new(router), app }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response {
        let answer = AssertUnwindSafe(self.dispatch(request.map(Body::new))).catch_unwind().await;
        response::hold_room(&self.app, answer.unwrap_or_else(|panic| panicked(&*panic))).await
    }

    async fn dispatch(&self, request: Request<Body>) -> Response {
        // The router's way there costs a small publish request a fifth of its time outside the kernel.
        if request.uri().path() == "/publish" && request.method() == Method::POST {
            return publish::publish(State(Arc::clone(&self.app)), request).await.into_response();
        }
        let Ok(response) = self.router.call(request).await;
        response
    }
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

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let message =
        panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    error!(message, "a request handler panicked");
    Problem::internal("a request handler panicked").into_response()
}
