//! `GET /`, `/health`, `/livez` and `/readyz`: whether to use this server.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use hyper::header::{HeaderValue, VARY};
use hyper::{HeaderMap, StatusCode, Uri};
use serde_json::json;

use crate::app::App;
use crate::dashboard;
use crate::health;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::{json, json_with};

/// The page for a browser; others are told which service this is, and its state.
pub(crate) async fn root(app: State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let mut response = if dashboard::is_wanted(&headers) {
        Params::of(&uri)?.finish("")?;
        dashboard::page()
    } else {
        health(app, uri).await?
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Which service this is, and its state. 503 after a failure, and while there is no room for events.
pub(crate) async fn health(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let no_space = app.health.no_space();
    let (status, word, reason) = match (app.health.state(), no_space.as_deref()) {
        (health::State::Ready, None) => (StatusCode::OK, "ok", None),
        (health::State::Ready, no_space) => (StatusCode::SERVICE_UNAVAILABLE, "no-space", no_space),
        (health::State::Draining, _) => (StatusCode::OK, "draining", None),
        (health::State::Failed(reason), _) => (StatusCode::SERVICE_UNAVAILABLE, "failed", Some(reason)),
    };
    let body = json!({
        "status": word,
        "reason": reason,
        "service": "aggregator-server",
        "version": env!("CARGO_PKG_VERSION"),
        "store": app.store.info().kind,
        "durability": app.store.info().durability.as_str(),
        "uptime": app.started.elapsed().as_secs_f64(),
    });
    Ok(json_with(status, &body))
}

/// The process is alive: it answers.
pub(crate) async fn livez(uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    Ok(json(&json!({"status": "alive"})))
}

/// The service is ready: it takes events, or with `of=reads`, it can read them. That is looked at all the time, so nobody
/// who asks here makes the store work.
pub(crate) async fn readyz(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let of_reads = params.choose("of", &[("events", false), ("reads", true)])?.unwrap_or(false);
    params.finish("of")?;
    if of_reads {
        let is_reading = app.guard.is_reading();
        return if is_reading { Ok(json(&json!({"status": "ready"}))) } else { Err(Problem::unreadable()) };
    }
    app.check_ready()?;
    match app.health.no_space() {
        None => Ok(json(&json!({"status": "ready"}))),
        Some(reason) => Err(Problem::no_space(&reason)),
    }
}
