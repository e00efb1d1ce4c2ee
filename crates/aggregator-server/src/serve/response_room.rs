//! Bounds the bytes of all large responses together: a client that asks and does not read must cost little. A response
//! that is written while it is made (lines of events, a stream) reserves the room of its pieces itself.

use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

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
    match app.hold(body.to_bytes()) {
        Some(held) => Ok(Response::from_parts(head, Body::from(held))),
        None => {
            let problem = "too many bytes of responses are waiting for their clients (--response-bytes); \
                           what was published may be stored: send it again to learn its fate";
            Err(Problem::overloaded(problem))
        }
    }
}
