//! HTTP/2 on one connection, with its limits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::auth::Entrance;
use crate::http::connection_place::ConnectionPlace;

use super::super::layers::Layers;
use super::Limits;
use super::driver::{self, Stop};
use super::streams::{Pieces, Streams};

/// Requests of one connection at a time. Further ones wait at the client.
const MAX_STREAMS: u32 = 128;

/// Requests that a client has taken back and that were not looked at yet. With more of them the connection ends: it is an
/// attack (CVE-2023-44487).
const MAX_TAKEN_BACK: usize = 20;

/// Requests that were ended because the client broke a rule. With more of them the connection ends (CVE-2025-8671).
const MAX_MISTAKES: usize = 128;

/// How much input of a request, and of all requests of a connection together, may wait for a handler.
const REQUEST_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// How much output of a request may wait for its client, beside the piece that is handed over.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A client that is silent for so long is asked whether it is there, and has so long to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client without a request has to leave after the goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

pub(super) async fn drive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    layers: Arc<Layers>,
    place: ConnectionPlace,
    limits: Limits,
    streams: Streams,
    stop: Stop,
) -> hyper::Result<()> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        request.extensions_mut().insert(Entrance::Network);
        let layers = Arc::clone(&layers);
        async move { Ok::<_, Infallible>(Pieces::of(layers.answer(request).await)) }
    });
    let (executor, mut open) = streams.of_connection(limits.write_timeout);
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
        .max_local_error_reset_streams(MAX_MISTAKES)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(REQUEST_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut open_at_end = open.clone();
    let until = async {
        tokio::select! {
            // As over HTTP/1.1, where this is the time for the next head.
            () = open.none_for(limits.header_timeout) => {}
            () = stop.told() => {}
        }
    };
    let enough = open_at_end.none_for(GOODBYE);
    driver::drive(Box::pin(connection), http2::Connection::graceful_shutdown, until, enough).await
}
