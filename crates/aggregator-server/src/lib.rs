//! The aggregator as a service: HTTP in front, a bounded queue and a few workers behind it, and a
//! [`DedupStore`] at the end.
//!
//! ```text
//! routes/publish ─ decode ─ admission ─ worker ─ DedupStore::append
//!       ▲                                  │
//!       └────────── receipts ──────────────┘
//! routes/{events,lookup,topics,stats} ─ reads ─ DedupStore::{read,lookup,…}
//! ```
//!
//! Publish handlers never touch a store; workers never touch HTTP. [`run`] is the whole service: it
//! takes the listener, the store and the signal to stop from outside.

pub mod admin;
pub mod bind;
pub mod clock;
pub mod config;
mod health;
mod http;
pub mod log;
pub mod open_store;
pub mod options;
pub mod output;
mod publish;
mod read;
mod sync;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator_core::DedupStore;
use aggregator_core::fail_point::FailPoint;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{error, info};

pub use crate::config::Config;

use crate::health::Health;
use crate::http::connections;
use crate::http::routes::Routes;
use crate::publish::admission::Admission;
use crate::publish::worker::Workers;
use crate::read::pool::Reads;

/// What every handler shares.
struct App {
    config: Config,
    store: Arc<dyn DedupStore>,
    health: Arc<Health>,
    admission: Arc<Admission>,
    workers: Workers,
    reads: Reads,
    /// Request bodies that may be in memory at a time, in KiB.
    bodies: Arc<tokio::sync::Semaphore>,
    /// Large bodies that may be decoded at a time.
    decoders: Arc<tokio::sync::Semaphore>,
    /// Large responses that may be in memory at a time, in KiB.
    responses: Arc<tokio::sync::Semaphore>,
    /// Items refused since the start; the store knows nothing of them.
    rejected: std::sync::atomic::AtomicU64,
    started: Instant,
}

/// Why [`run`] ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The workers could not be started.
    #[error("the workers could not be started")]
    Start(#[source] std::io::Error),
    /// It had stopped acknowledging, for good. What had been acknowledged as durable is.
    #[error("stopped after a failure: {reason}")]
    Failed {
        /// The failure.
        reason: String,
    },
    /// What was admitted could not be committed in time. None of it had been acknowledged as durable.
    #[error(
        "{events} events were still queued when the drain timeout of {} ran out",
        humantime::format_duration(*.timeout)
    )]
    DrainTimeout {
        /// How many.
        events: usize,
        /// The time they had.
        timeout: Duration,
    },
}

/// Serves `store` on `listener` until `shutdown` completes; then takes no more requests, commits what
/// is queued, and returns.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    listener: TcpListener,
    store: Arc<dyn DedupStore>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let health = Arc::new(Health::default());
    let admission = Arc::new(Admission::new(config.queue_events, config.queue_bytes.0));
    let workers = Workers::start(&store, &config, &health).map_err(RunError::Start)?;
    let app = Arc::new(App {
        reads: Reads::new(Arc::clone(&store), Arc::clone(&health), &config),
        decoders: Arc::new(tokio::sync::Semaphore::new(
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        )),
        responses: Arc::new(tokio::sync::Semaphore::new(config.response_bytes.kib())),
        bodies: Arc::new(tokio::sync::Semaphore::new(config.request_bytes.kib())),
        rejected: std::sync::atomic::AtomicU64::new(0),
        started: Instant::now(),
        store,
        health,
        admission,
        workers,
        config,
    });

    // Before the first request is answered.
    health::look(&app.store, &app.health).await;
    let (stop_looking, stopped) = oneshot::channel();
    let looking = tokio::spawn(health::look_after(Arc::clone(&app.store), Arc::clone(&app.health), stopped));

    let exit_on_failure = app.config.exit_on_failure;
    let drain = async {
        tokio::select! {
            () = shutdown => {}
            _ = app.health.failed(), if exit_on_failure => {}
            () = clock::watch(&app.reads) => {}
        }
        app.health.drain();
        info!("draining: no more requests are taken");
        FailPoint::Draining.reach();
    };
    let drain_until = connections::serve(listener, Routes::new(Arc::clone(&app)), &app.config, drain).await;
    drop(stop_looking);
    let stopped = app.workers.stop(drain_until).await;
    // Whoever waits for the end may open the store anew.
    let _ = tokio::time::timeout_at(drain_until, looking).await;
    app.reads.stop(drain_until).await;
    if let health::State::Failed(reason) = app.health.state() {
        return Err(RunError::Failed { reason: reason.to_owned() });
    }
    if stopped {
        FailPoint::Drained.reach();
        info!("drained: everything admitted is committed");
        return Ok(());
    }
    let (events, timeout) = (app.admission.used().events, app.config.drain_timeout);
    error!(events, "the drain timeout ran out");
    Err(RunError::DrainTimeout { events, timeout })
}
