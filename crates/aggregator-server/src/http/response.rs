//! Bounding what all responses hold together: a client that asks and does not read must cost little.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::http::problem::Problem;

/// Smaller responses are bounded by the number of connections.
const SMALL_BYTES: u64 = 64 << 10;

/// Reserves room for a large response until it is written; answers 503 instead if there is none.
pub(super) async fn hold_room(app: &App, response: Response) -> Response {
    let bytes = response.body().size_hint().lower();
    if bytes <= SMALL_BYTES {
        return response;
    }
    let (head, body) = response.into_parts();
    // It is there already, in one piece: our responses are not streams.
    let Ok(body) = body.collect().await else {
        return Problem::internal("the response broke off").into_response();
    };
    let bytes = body.to_bytes();
    let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
    match Semaphore::try_acquire_many_owned(Arc::clone(&app.responses), kib) {
        // The connection holds on to the bytes until they are written, and so to their room.
        Ok(room) => Response::from_parts(head, Body::from(Bytes::from_owner(Held { bytes, _room: room }))),
        Err(_) => {
            let problem = "too many bytes of responses are waiting for their clients (--response-bytes); \
                           what was published may be stored: send it again to learn its fate";
            Problem::overloaded(problem).into_response()
        }
    }
}

/// Bytes and the room they take.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
