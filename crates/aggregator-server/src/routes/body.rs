//! Reading a request's body: bounded in bytes, in time, and in what all requests hold together.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::problem::Problem;

/// A body and the room it takes.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    /// Held as long as the bytes are.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Reads a JSON body.
pub(super) async fn json(app: &App, headers: &HeaderMap, body: Body) -> Result<Received, Problem> {
    check_type(headers)?;
    let limit = app.config.max_body_bytes.0;
    let too_large = || {
        let limit = app.config.max_body_bytes;
        Problem::too_large(format!("the body is larger than {limit} (--max-body-bytes): send it in several"))
    };
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > limit) {
        return Err(too_large());
    }
    // A body of unknown length may become as large as any; what it does not need is given back.
    let mut room = reserve(app, declared.unwrap_or(limit))?;
    let read = read(body, declared.unwrap_or(0), limit);
    let bytes = match tokio::time::timeout(Duration::from(app.config.body_timeout), read).await {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => return Err(too_large()),
        Ok(Err(error)) => return Err(Problem::malformed(format!("the body broke off: {error}"))),
        Err(_) => return Err(Problem::body_timeout()),
    };
    let spare = room.num_permits().saturating_sub(bytes.len().div_ceil(1024));
    drop(room.split(spare));
    Ok(Received { bytes, _room: room })
}

fn reserve(app: &App, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    Semaphore::try_acquire_many_owned(app.bodies.clone(), kib)
        .map_err(|_| Problem::overloaded("too many bytes of request bodies are in memory (--inflight-bytes)"))
}

/// The whole body, or `None` if it is longer than `limit`. One that comes in one piece is not copied.
async fn read(mut body: Body, expected: usize, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > limit {
            return Ok(None);
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            before => {
                if let Some(before) = before {
                    all.reserve(expected.max(before.len() + data.len()));
                    all.extend_from_slice(&before);
                }
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(Some(first.unwrap_or_else(|| all.freeze())))
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(Problem::unsupported_media("content-encoding: send the body as it is, not encoded"));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::unsupported_media("content-type: send application/json"))
}
