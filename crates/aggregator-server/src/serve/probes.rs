//! `GET /`, `/health`, `/livez` and `/readyz`: whether to use this server.

use std::sync::Arc;

use aggregator_core::Outage;
use axum::extract::State;
use axum::response::Response;
use hyper::header::{HeaderValue, VARY};
use hyper::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

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

/// Which service this is, and its state. 503 after a failure, and while no events are taken.
pub(crate) async fn health(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let no_space = app.health.no_space();
    let outages = app.store.outages();
    let (status, word, reason) = match (app.health.state(), no_space.as_deref()) {
        (health::State::Ready, None) if app.is_out(&outages) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", outages.first().map(|outage| &*outage.reason))
        }
        (health::State::Ready, None) => (StatusCode::OK, "ok", None),
        (health::State::Ready, no_space) => (StatusCode::SERVICE_UNAVAILABLE, "no-space", no_space),
        (health::State::Draining, _) => (StatusCode::OK, "draining", None),
        (health::State::Failed(reason), _) => (StatusCode::SERVICE_UNAVAILABLE, "failed", Some(reason)),
    };
    let mut body = json!({
        "status": word,
        "reason": reason,
        "service": "aggregator-server",
        "version": env!("CARGO_PKG_VERSION"),
        "store": app.store.info().kind,
        "durability": app.store.info().durability.as_str(),
        "uptime": app.started.elapsed().as_secs_f64(),
    });
    add_unavailable(&mut body, &outages);
    Ok(json_with(status, &body))
}

/// Names the parts of the store that do not answer, if there are any.
fn add_unavailable(body: &mut Value, outages: &[Outage]) {
    if outages.is_empty() {
        return;
    }
    let unavailable: Vec<_> = outages
        .iter()
        .map(|outage| {
            let partitions: Vec<_> = outage.partitions.iter().map(|partition| partition.0).collect();
            json!({"partitions": partitions, "reason": outage.reason})
        })
        .collect();
    body["unavailable"] = Value::Array(unavailable);
}

/// The process is alive: it answers.
pub(crate) async fn livez(uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    Ok(json(&json!({"status": "alive"})))
}

/// The service is ready: it takes events of some partitions at least, or with `of=reads`, it can read them. That is looked at all the time, so nobody
/// who asks here makes the store work.
pub(crate) async fn readyz(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let of_reads = params.choose("of", &[("events", false), ("reads", true)])?.unwrap_or(false);
    params.finish("of")?;
    if of_reads {
        let is_reading = app.guard.is_reading() || app.is_read_in_part();
        return if is_reading { Ok(json(&json!({"status": "ready"}))) } else { Err(Problem::unreadable()) };
    }
    app.check_ready()?;
    if let Some(reason) = app.health.no_space() {
        return Err(Problem::no_space(&reason));
    }
    let outages = app.store.outages();
    if let Some(outage) = outages.first().filter(|_| app.is_out(&outages)) {
        return Err(Problem::all_partitions_out(&outage.reason));
    }
    let mut body = json!({"status": "ready"});
    add_unavailable(&mut body, &outages);
    Ok(json(&body))
}
