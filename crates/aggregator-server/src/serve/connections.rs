//! Connections: accepts them up to a limit, times them, and ends them in order.

mod driver;
mod handshake;
mod http1;
mod http2;
mod refusal;
mod streams;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::Listeners;
use crate::admin_socket::AdminListener;
use crate::app::App;
use crate::auth::Entrance;
use crate::config::Config;
use crate::http::connection_place::ConnectionPlace;
use crate::tls::Tls;

use self::driver::Stop;
use self::handshake::{Handshaken, shake_hands};
use self::streams::Streams;
use super::layers::Layers;

/// How many connections over the limit are answered at a time. Further ones are closed without an answer.
const MAX_REFUSALS: usize = 64;

/// Connections of the admin socket at a time. Further ones are closed.
const MAX_OPERATORS: usize = 16;

/// Serves until `shutdown` completes. Then requests under way may finish for half of the drain timeout. Returns the end
/// of the whole drain timeout.
pub(crate) async fn serve(
    listeners: Listeners,
    layers: Layers,
    app: &App,
    shutdown: impl Future<Output = ()>,
) -> Instant {
    let (Listeners { http, admin }, config) = (listeners, &app.config);
    let (stop, stopped) = watch::channel(false);
    let door =
        Door { layers: Arc::new(layers), limits: Limits::of(config), streams: Streams::default(), stopped };
    let operators = Arc::new(Semaphore::new(MAX_OPERATORS));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
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
                connections.spawn(door.clone().admit_operator(stream, place));
                continue;
            }
            Err(error) => {
                rest_after(&error).await;
                continue;
            }
        };
        set_up(&stream);
        match (Arc::clone(&app.connection_places).try_acquire_owned(), &app.tls) {
            (Ok(place), None) => drop(connections.spawn(door.clone().admit(stream, place))),
            (Ok(place), Some(tls)) => {
                connections.spawn(door.clone().admit_secure(stream, Arc::clone(tls), place));
            }
            (Err(_), None) => {
                app.requests.shed("connections");
                if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        let _refusal = refusal;
                        refusal::too_many(stream).await;
                    });
                }
            }
            // A handshake is what a server with too many connections has no time for.
            (Err(_), Some(_)) => app.requests.shed("connections"),
        }
    }
    drop((http, admin));
    let now = Instant::now();
    let drain_timeout = config.drain_timeout;
    stop.send_replace(true);
    let all_end = async { while connections.join_next().await.is_some() {} };
    // A client that never ends its request must not take the workers' time to commit.
    if timeout_at(now + drain_timeout / 2, all_end).await.is_err() {
        warn!("requests that were still under way at half of the drain timeout are broken off");
    }
    // The rest is broken off. After that no connection holds the store.
    connections.shutdown().await;
    door.streams.shutdown().await;
    now + drain_timeout
}

/// How many bytes the system takes from a connection before it has sent those it took earlier. Without a limit it takes
/// megabytes for a client that reads nothing.
const UNSENT_BYTES: u32 = 64 << 10;

/// Both settings make things better, and neither is needed.
fn set_up(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
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

/// What every connection needs.
#[derive(Clone)]
struct Door {
    layers: Arc<Layers>,
    limits: Limits,
    streams: Streams,
    stopped: watch::Receiver<bool>,
}

/// What connections are bounded by: see [`Config`].
#[derive(Clone, Copy)]
struct Limits {
    max_head_bytes: usize,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self {
            max_head_bytes: config.max_head_bytes.0,
            header_timeout: config.header_timeout,
            write_timeout: config.write_timeout,
        }
    }
}

impl Door {
    fn admit_operator(self, stream: UnixStream, place: OwnedSemaphorePermit) -> impl Future<Output = ()> {
        self.http1(stream, Entrance::AdminSocket, place)
    }

    fn admit(self, stream: TcpStream, place: OwnedSemaphorePermit) -> impl Future<Output = ()> {
        self.http1(stream, Entrance::Network, place)
    }

    async fn admit_secure(self, stream: TcpStream, tls: Arc<Tls>, place: OwnedSemaphorePermit) {
        let handshaken = tokio::select! {
            handshaken = shake_hands(stream, &tls, self.limits) => handshaken,
            // There is no request yet.
            () = Stop(self.stopped.clone()).told() => return,
        };
        match handshaken {
            Some(Handshaken::Http1(stream)) => self.http1(*stream, Entrance::Network, place).await,
            Some(Handshaken::Http2(stream)) => {
                let place = ConnectionPlace::new(place).shared();
                let ended =
                    http2::drive(*stream, self.layers, place, self.limits, self.streams, Stop(self.stopped));
                note(ended.await);
            }
            None => {}
        }
    }

    fn http1<S>(
        self,
        stream: S,
        entrance: Entrance,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let place = ConnectionPlace::new(place);
        let ended = http1::drive(stream, self.layers, entrance, place, self.limits, Stop(self.stopped));
        async { note(ended.await) }
    }
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        debug!(%error, "a connection broke off");
    }
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
