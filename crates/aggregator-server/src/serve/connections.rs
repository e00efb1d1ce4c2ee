//! Connections: accepts them up to a limit, times them, and ends them in order.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

use crate::Listeners;
use crate::admin_socket::AdminListener;
use crate::auth::Entrance;
use crate::config::Config;
use crate::http::connection_place::ConnectionPlace;
use crate::http::problem::{self, Problem};

use super::layers::Layers;

/// How many connections over the limit are answered at a time. Further ones are closed without an answer.
const MAX_REFUSALS: usize = 64;

/// Connections of the admin socket at a time. Further ones are closed.
const MAX_OPERATORS: usize = 16;

/// How much input a connection buffers.
const BUFFER_BYTES: usize = 64 << 10;

/// Serves until `shutdown` completes. Then requests under way may finish for half of the drain timeout. Returns the end
/// of the whole drain timeout.
pub(crate) async fn serve(
    listeners: Listeners,
    layers: Layers,
    config: &Config,
    shutdown: impl Future<Output = ()>,
) -> Instant {
    let Listeners { http, admin } = listeners;
    let layers = Arc::new(layers);
    let operators = Arc::new(Semaphore::new(MAX_OPERATORS));
    let places = Arc::new(Semaphore::new(config.max_connections.get().min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            // Connections that have ended are removed, so that the set does not grow.
            Some(_) = connections.join_next() => continue,
            accepted = http.accept() => accepted.map(|(stream, _)| Accepted::Http(stream)),
            accepted = accept_operator(admin.as_ref()) => accepted.map(Accepted::Admin),
        };
        let stream = match accepted {
            Ok(Accepted::Http(stream)) => stream,
            Ok(Accepted::Admin(stream)) => {
                // Beside the limit: the operator gets in even if nobody else does.
                let Ok(place) = Arc::clone(&operators).try_acquire_owned() else { continue };
                let place = ConnectionPlace::new(place);
                let entrance = Entrance::AdminSocket;
                let connection = connection(stream, entrance, Arc::clone(&layers), config, place);
                connections.spawn(watched(graceful.watch(connection)));
                continue;
            }
            Err(error) => {
                rest_after(&error).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(async move {
                    let _refusal = refusal;
                    refuse(stream).await;
                });
            }
            continue;
        };
        let place = ConnectionPlace::new(place);
        let connection = connection(stream, Entrance::Network, Arc::clone(&layers), config, place);
        connections.spawn(watched(graceful.watch(connection)));
    }
    drop((http, admin));
    let now = Instant::now();
    let drain_timeout = config.drain_timeout;
    // A client that never ends its request must not take the workers' time to commit.
    if timeout_at(now + drain_timeout / 2, graceful.shutdown()).await.is_err() {
        warn!("requests that were still under way at half of the drain timeout are broken off");
    }
    // The rest is broken off. After that no connection holds the store.
    connections.shutdown().await;
    now + drain_timeout
}

/// A connection, and where it came in.
enum Accepted {
    Http(TcpStream),
    Admin(UnixStream),
}

/// A connection of the operator, if there is a socket for them.
async fn accept_operator(listener: Option<&AdminListener>) -> std::io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn watched(connection: impl Future<Output = Result<(), hyper::Error>>) {
    if let Err(error) = connection.await {
        debug!(%error, "a connection broke off");
    }
}

/// The HTTP of one connection, with its limits.
fn connection<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    entrance: Entrance,
    layers: Arc<Layers>,
    config: &Config,
    place: ConnectionPlace,
) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static {
    let mut timed = TimeoutStream::new(stream);
    timed.set_write_timeout(Some(config.write_timeout));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        request.extensions_mut().insert(entrance);
        let layers = Arc::clone(&layers);
        async move { Ok::<_, Infallible>(layers.answer(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.max_head_bytes.0)
        .max_buf_size(BUFFER_BYTES.max(config.max_head_bytes.0))
        // A client that closes its side after the request still waits for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(Box::pin(timed)), service)
}

/// Waits after an error of `accept`. Errors of one connection do not matter. Errors of the process (too many open files)
/// would come again at once.
async fn rest_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    warn!(%error, "no connection can be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Answers 503 without reading a request, and closes.
async fn refuse(mut stream: TcpStream) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let response = problem::unread(Problem::overloaded("too many connections (--max-connections)"));
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return };
    let body = body.to_bytes();
    let mut text =
        format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", head.status, body.len());
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str("\r\n");
    let exchange = async {
        stream.write_all(text.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await?;
        // Closing with unread input would reset the connection before the client has read the answer.
        let mut rest = [0; 4096];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(PATIENCE, exchange).await;
}
