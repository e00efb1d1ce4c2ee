//! Compresses responses for clients that accept it.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::header::{ACCEPT_ENCODING, HeaderValue};
use tower::{ServiceExt as _, service_fn};
use tower_http::compression::Compression;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

/// A smaller response would hardly become smaller still.
const LEAST_BYTES: u16 = 1024;

/// Compresses a response with what the client accepts: zstd or gzip. A stream of events stays as it is: compressed, an
/// event would wait for the next one.
pub(super) async fn compress(accepted: Option<HeaderValue>, response: Response) -> Response {
    let Some(accepted) = accepted else { return response };
    let mut request = Request::new(());
    request.headers_mut().insert(ACCEPT_ENCODING, accepted);
    let mut response = Some(response);
    let answer = service_fn(move |_: Request<()>| {
        let response = response.take().expect("a service that is called once");
        async move { Ok::<_, Infallible>(response) }
    });
    let suits = SizeAbove::new(LEAST_BYTES).and(NotForContentType::SSE);
    let Ok(response) = Compression::new(answer).compress_when(suits).oneshot(request).await;
    response.map(Body::new)
}
