//! Answers while the store is being opened: the process is alive, and not ready yet.
//!
//! A store that was not closed in order, and an index that has to be made anew, take their time. Whoever watches the
//! process has to see that it lives, and everybody else is told to come again.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aggregator_core::store::OpenProgress;
use aggregator_core::{DedupStore, StoreError};
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::http::problem::{self, Problem};
use crate::http::request_id::RequestId;
use crate::http::response::json;
use crate::open_store;

/// Connections at a time. Further ones are closed.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to open a store that is in use.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens the store that `config` names, and answers at `listener` until it is open, unless it is for TLS. A store that
/// another process has open, or that cannot be reached, is tried again for [`Config::lock_wait`].
///
/// # Errors
/// Those of [`open_store::open`].
pub async fn open(listener: &TcpListener, config: &Config) -> Result<Arc<dyn DedupStore>, StoreError> {
    let began = Instant::now();
    // A server with TLS shakes no hands before it serves: its clients wait for that.
    let answers = config.tls_cert.is_none();
    let config = config.clone();
    let progress = Arc::new(Progress { began, last: Mutex::new(None) });
    let noted = Arc::clone(&progress);
    let mut opening = tokio::task::spawn_blocking(move || open_in_time(&config, &noted));
    let mut connections = JoinSet::new();
    let opened = loop {
        tokio::select! {
            biased;
            opened = &mut opening => break opened,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if answers => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(tokio::time::timeout(PATIENCE, answer(stream, Arc::clone(&progress))));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    };
    // Answers that are on their way arrive. Each connection has one.
    let _ = tokio::time::timeout(PATIENCE, async { while connections.join_next().await.is_some() {} }).await;
    opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Since when the store is being opened, and how far that has come.
struct Progress {
    began: Instant,
    /// What the store has told last.
    last: Mutex<Option<OpenProgress>>,
}

impl Progress {
    fn note(&self, progress: OpenProgress) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    fn problem(&self) -> Problem {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Problem::opening(self.began.elapsed(), last)
    }
}

fn open_in_time(config: &Config, progress: &Arc<Progress>) -> Result<Arc<dyn DedupStore>, StoreError> {
    let mut is_told = false;
    loop {
        let noted = Arc::clone(progress);
        match open_store::open_to_serve(config, Arc::new(move |progress| noted.note(progress))) {
            Err(error) if error.is_retryable() && progress.began.elapsed() + PAUSE <= config.lock_wait => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "the store cannot be opened yet: it is tried again for --lock-wait");
                }
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

async fn answer(stream: tokio::net::TcpStream, progress: Arc<Progress>) {
    let service =
        service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(respond(&request, &progress)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away needs no answer.
    let _ = connection.await;
}

fn respond(request: &Request<Incoming>, progress: &Progress) -> Response<Body> {
    let request_id = RequestId::of(request.headers());
    if request.uri().path() == "/livez" {
        let mut response = json(&serde_json::json!({"status": "alive"}));
        request_id.add_to(response.headers_mut());
        return response;
    }
    problem::unread(progress.problem(), request_id)
}
