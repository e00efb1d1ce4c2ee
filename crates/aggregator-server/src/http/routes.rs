//! What there is to ask for: one file per resource.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::Service as _;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tracing::error;

use super::{body, host, paths, response};
use crate::App;
use crate::health::probes;
use crate::http::problem::Problem;
use crate::publish::handler;
use crate::read::{events, lookup, stats, topics};

/// Answers every request.
pub(crate) struct Routes {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
}

impl Routes {
    pub(crate) fn new(app: Arc<App>) -> Self {
        let routes: [(&'static str, MethodRouter<Arc<App>>); 9] = [
            ("/publish", post(handler::publish)),
            ("/events", get(events::events)),
            ("/lookup", post(lookup::lookup)),
            ("/topics", get(topics::topics)),
            ("/stats", get(stats::stats)),
            ("/", get(probes::health)),
            ("/health", get(probes::health)),
            ("/livez", get(probes::livez)),
            ("/readyz", get(probes::readyz)),
        ];
        let paths: Vec<_> = routes.iter().map(|(path, _)| *path).filter(|path| *path != "/").collect();
        let router =
            routes.into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
        let router = router
            .fallback(async move |uri: Uri| Problem::no_route(paths::nothing_at(uri.path(), &paths)))
            .method_not_allowed_fallback(async |method: Method, uri: Uri| {
                Problem::method(&method, uri.path())
            })
            .with_state(Arc::clone(&app));
        Self { router: TowerToHyperService::new(router), app }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response {
        if let Err(problem) = host::check(request.version(), request.headers()) {
            return last(problem.into_response());
        }
        let is_held_back = body::is_held_back(request.headers());
        let answer = AssertUnwindSafe(self.dispatch(request.map(Body::new))).catch_unwind().await;
        let answer = answer.unwrap_or_else(|panic| panicked(&*panic));
        let answer = response::hold_room(&self.app, answer).await;
        // A body that was not asked for may come all the same, where another request is expected.
        if is_held_back && answer.status().as_u16() >= 400 { last(answer) } else { answer }
    }

    async fn dispatch(&self, request: Request<Body>) -> Response {
        // The router's way there costs a small publish request a fifth of its time outside the kernel.
        if request.uri().path() == "/publish" && request.method() == Method::POST {
            return handler::publish(State(Arc::clone(&self.app)), request).await.into_response();
        }
        let Ok(response) = self.router.call(request).await;
        response
    }
}

/// This answer is the connection's last one.
fn last(mut answer: Response) -> Response {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// A 200 with this as its JSON.
pub(crate) fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

pub(crate) fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => json_text(status, body),
        Err(error) => Problem::internal(format!("the response: {error}")).into_response(),
    }
}

/// With a newline at the end, so that a shell's prompt comes on a line of its own.
pub(crate) fn json_text(status: StatusCode, mut body: String) -> Response {
    body.push('\n');
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
