//! HTTP/1.1 on one connection, with its limits.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutStream;

use crate::auth::Entrance;
use crate::http::connection_place::ConnectionPlace;

use super::super::layers::Layers;
use super::Limits;
use super::driver::{self, Stop};

/// How much input a connection buffers.
const BUFFER_BYTES: usize = 64 << 10;

/// Not `async`: the future then holds the connection in its box, and nothing that it was made of.
pub(super) fn drive<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    layers: Arc<Layers>,
    entrance: Entrance,
    place: ConnectionPlace,
    limits: Limits,
    stop: Stop,
) -> impl Future<Output = hyper::Result<()>> + Send {
    let mut timed = TimeoutStream::new(stream);
    timed.set_write_timeout(Some(limits.write_timeout));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        request.extensions_mut().insert(entrance);
        let layers = Arc::clone(&layers);
        // In a box of its own: hyper keeps the room for this future as long as the connection lives, also while it streams.
        Box::pin(async move { Ok::<_, Infallible>(layers.answer(request).await) })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.max_head_bytes)
        .max_buf_size(BUFFER_BYTES.max(limits.max_head_bytes))
        // A client that closes its side after the request still waits for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(Box::pin(timed)), service);
    driver::drive(Box::pin(connection), http1::Connection::graceful_shutdown, stop.told(), pending())
}
