//! `GET /metrics`: what Prometheus and its like are told about this process.
//!
//! The rooms count for themselves, once for each request or group of events, in plain atomics. A scrape only reads them
//! ([`scrape`]), so it costs the same however many topics and events there are, waits for no store, and is answered after a
//! failure as well. [`names`] is the table of everything there is; no label has a value that a client could make up.

mod exposition;
pub(crate) mod names;
mod process;
pub(crate) mod requests;
mod scrape;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Uri};

use crate::app::App;
use crate::http::params::Params;
use crate::http::problem::Problem;

use self::exposition::Format;
use self::process::Process;

pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let format = Format::accepted(&headers);
    // Counting open files takes a millisecond where there are thousands.
    let process = tokio::task::spawn_blocking(Process::read).await.unwrap_or_default();
    let text = scrape::of(&app, &process).write(format);
    let text = text.map_err(|error| Problem::internal(format!("the metrics: {error}")))?;
    let mut response = Response::new(Body::from(text));
    let answered = response.headers_mut();
    answered.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // An answer is as of now.
    answered.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
