//! Reading a request's body: bounded in bytes, in time, and in what all requests hold together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::http::problem::Problem;
use crate::publish::decode::BYTE_ORDER_MARK;

/// A body and the room it takes.
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    /// Held as long as the bytes are.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Reads a JSON body; a byte order mark before it is skipped (RFC 8259, section 8.1).
pub(crate) async fn json(app: &App, headers: &HeaderMap, mut body: Body) -> Result<ReceivedBody, Problem> {
    let buffer = match begin(app, headers) {
        Ok(buffer) => buffer,
        // Reading any of it would ask for all of it.
        Err(problem) if is_held_back(headers) => return Err(problem),
        Err(problem) => {
            discard(body).await;
            return Err(problem);
        }
    };
    let read = read(app, &mut body, buffer);
    let read = tokio::time::timeout(app.config.body_timeout, read).await;
    let mut received = read.unwrap_or_else(|_| Err(Problem::body_timeout()));
    match &mut received {
        Ok(received) if received.bytes.starts_with(BYTE_ORDER_MARK) => {
            received.bytes.advance(BYTE_ORDER_MARK.len());
        }
        Ok(_) => {}
        Err(_) => discard(body).await,
    }
    received
}

/// Whether the client waits for a `100 Continue` before it sends the body (RFC 9110, section 10.1.1). hyper sends it when
/// the body is first read.
pub(crate) fn is_held_back(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Where a body is gathered, and the room reserved for it so far.
struct BodyBuffer {
    bytes: BytesMut,
    room: OwnedSemaphorePermit,
}

/// Refuses what can be refused before anything of the body is there.
fn begin(app: &App, headers: &HeaderMap) -> Result<BodyBuffer, Problem> {
    check_type(headers)?;
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > app.config.max_body_bytes.0) {
        return Err(too_large(app));
    }
    Ok(BodyBuffer { room: reserve(app, 1)?, bytes: BytesMut::with_capacity(declared.unwrap_or(0)) })
}

/// The whole body, in a buffer of its own: the pieces that come share theirs with the connection, and
/// would keep all of it in memory. Room is reserved as the bytes come, not as they are announced.
async fn read(app: &App, body: &mut Body, buffer: BodyBuffer) -> Result<ReceivedBody, Problem> {
    let BodyBuffer { mut bytes, mut room } = buffer;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::malformed(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > app.config.max_body_bytes.0 {
            return Err(too_large(app));
        }
        let missing = (bytes.len() + data.len()).div_ceil(1024).saturating_sub(room.num_permits());
        if missing > 0 {
            room.merge(reserve(app, missing)?);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(ReceivedBody { bytes: bytes.freeze(), room })
}

fn reserve(app: &App, kib: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    Semaphore::try_acquire_many_owned(Arc::clone(&app.bodies), kib)
        .map_err(|_| Problem::overloaded("too many bytes of request bodies are in memory (--request-bytes)"))
}

fn too_large(app: &App) -> Problem {
    let limit = app.config.max_body_bytes;
    Problem::too_large(format!("the body is larger than {limit} (--max-body-bytes): send it in several"))
}

/// Takes what is still on its way, within reason: many clients look for an answer only once they have
/// sent everything, and to them a connection closed before is a failure to be tried again.
async fn discard(mut body: Body) {
    const MAX_BYTES: usize = 64 << 20;
    const PATIENCE: Duration = Duration::from_secs(2);
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MAX_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, rest).await;
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
