//! Bounds the bytes of all large responses together: a client that asks and does not read must cost little.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::http::problem::Problem;

/// The number of connections bounds smaller responses.
const SMALL_BYTES: u64 = 64 << 10;

/// Reserves room for a large response until it is written, or says why there is none.
pub(super) async fn reserve(app: &App, response: Response) -> Result<Response, Problem> {
    let bytes = response.body().size_hint().lower();
    if bytes <= SMALL_BYTES {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    // The body is in memory already, in one piece.
    let Ok(body) = body.collect().await else {
        return Err(Problem::internal("the response broke off"));
    };
    let bytes = body.to_bytes();
    let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
    match Semaphore::try_acquire_many_owned(Arc::clone(&app.responses), kib) {
        // The connection drops the bytes once they are written, and with them their room.
        Ok(room) => {
            Ok(Response::from_parts(head, Body::from(Bytes::from_owner(HeldBytes { bytes, _room: room }))))
        }
        Err(_) => {
            let problem = "too many bytes of responses are waiting for their clients (--response-bytes); \
                           what was published may be stored: send it again to learn its fate";
            Err(Problem::overloaded(problem))
        }
    }
}

/// Bytes, and the room that is reserved for them.
struct HeldBytes {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
