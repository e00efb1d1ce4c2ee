//! The aggregator as a service: HTTP in front, a bounded queue and a few workers behind it, and a
//! [`DedupStore`] at the end.
//!
//! ```text
//! serve/connections ─ layers ─ routes ─┬─ publish/handler ─ admission ─ decode ─ queue ─ worker ─ DedupStore::append
//!                                      └─ read/… ─ read_pool ─ DedupStore::{read, lookup, …}
//! ```
//!
//! [`run`] is the whole service. It takes the listener, the store and the signal to stop from outside, and knows neither
//! the command line nor the environment. A publish handler never waits for a store, and a worker never touches HTTP.

pub mod admin;
pub mod admin_socket;
mod amend;
mod app;
mod auth;
mod backup;
pub mod bind;
pub mod clock;
pub mod config;
mod dashboard;
mod fair;
mod file_stamp;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod health;
mod http;
mod insight;
mod json_object;
pub mod jwks;
pub mod log;
mod metrics;
pub mod open_store;
pub mod opening;
pub mod options;
mod outbound;
pub mod output;
mod publish;
mod read;
mod read_pool;
mod retention;
mod serve;
pub mod service_manager;
mod sync;
pub mod tls;
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "without an exporter nobody makes a tracer"))]
mod trace;
mod utf8;
mod work_lines;

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::DedupStore;
use aggregator_core::fail_point::FailPoint;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

pub use crate::config::Config;

use crate::admin_socket::AdminListener;
use crate::app::App;
use crate::auth::{Anonymity, Jwt};
use crate::jwks::{Jwks, JwksError};
use crate::serve::connections;
use crate::serve::layers::Layers;
use crate::tls::{Tls, TlsError};

/// Why [`run`] did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings are out of bounds or contradict each other: see [`Config::check`].
    #[error("{0}")]
    Settings(String),
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file with the keys of the issuer of tokens cannot be used.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// The workers could not be started.
    #[error("the workers could not be started")]
    Start(#[source] std::io::Error),
    /// The service had stopped acknowledging for good. Every event that it had acknowledged as durable is durable.
    #[error("stopped after a failure: {reason}")]
    Failed {
        /// The failure.
        reason: String,
    },
    /// Admitted events could not be committed in time. None of them had been acknowledged as durable.
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

/// Where a service listens.
#[derive(Debug)]
pub struct Listeners {
    /// For everybody.
    pub http: TcpListener,
    /// For the operator: whoever can open this socket may do everything. See [`admin_socket::bind`].
    pub admin: Option<AdminListener>,
}

impl From<TcpListener> for Listeners {
    fn from(http: TcpListener) -> Self {
        Self { http, admin: None }
    }
}

/// Serves `store` on `listeners` until `shutdown` completes. Then takes no more requests, commits the queue, and returns.
///
/// Of `config` it uses the limits, the times, the files of TLS and the issuer of tokens. Where to listen, which store, and how
/// to log is the caller's part. As long as the store has no key, everybody who reaches the port may publish and read if that
/// is on this machine only, or if [`Config::allow_anonymous`] says so; otherwise nobody may.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    listeners: impl Into<Listeners>,
    store: Arc<dyn DedupStore>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    config.check().map_err(RunError::Settings)?;
    config.check_store(&*store).map_err(RunError::Settings)?;
    let tls = Tls::load(&config)?.map(Arc::new);
    let jwks = Jwks::load(&config)?.map(Arc::new);
    let jwt = Jwt::new(&config, jwks.clone());
    let listeners = listeners.into();
    let is_local = listeners.http.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let anonymity = match (config.allow_anonymous, is_local) {
        (true, _) => Anonymity::Allowed,
        (false, true) => Anonymity::OfThisMachine(config.allowed_hosts.clone()),
        (false, false) => Anonymity::Refused,
    };
    let (tracer, export) = trace::start(&config).map_err(RunError::Settings)?.unzip();
    let app = App::start(store, config, anonymity, jwt, tls.clone(), tracer).map_err(RunError::Start)?;
    let app = Arc::new(app);

    // Before the first request is answered.
    health::check(&app.store, &app.health).await;
    auth::begin(&app.guard).await;
    insight::begin(&app).await;
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    tasks.spawn(health::monitor(Arc::clone(&app.store), Arc::clone(&app.health), stopped.clone()));
    let readers = Arc::clone(&app);
    let wake_readers = move || readers.tails.wake_all();
    tasks.spawn(auth::follow(Arc::clone(&app.guard), wake_readers, stopped.clone()));
    tasks.spawn(auth::note_uses_of(Arc::clone(&app.guard), stopped.clone()));
    if let Some(jwks) = jwks {
        let readers = Arc::clone(&app);
        let end_readers = move || {
            readers.guard.forget_withdrawn();
            readers.tails.wake_all();
        };
        tasks.spawn(jwks::follow(jwks, end_readers, stopped.clone()));
    }
    tasks.spawn(read::tail::follow(Arc::clone(&app)));
    tasks.spawn(insight::follow(Arc::clone(&app), stopped.clone()));
    tasks.spawn(retention::follow(Arc::clone(&app), stopped.clone()));
    tasks.spawn(amend::follow(Arc::clone(&app), stopped.clone()));
    if let Some(tls) = tls.clone() {
        tasks.spawn(tls::follow(tls, stopped));
    }

    let exit_on_failure = app.config.exit_on_failure;
    let drain = async {
        tokio::select! {
            () = shutdown => {}
            _ = app.health.failed(), if exit_on_failure => {}
            () = clock::watch(&app.reads) => {}
        }
        app.health.drain();
        app.tails.close();
        info!("draining: no more requests are taken");
        FailPoint::Draining.reach();
    };
    let layers = Layers::new(Arc::clone(&app));
    let drain_until = connections::serve(listeners, layers, &app, drain).await;
    drop(stop);
    let stopped = app.workers.stop(drain_until).await;
    // The caller may open the store again, so nothing may hold it when this returns.
    let all_end = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout_at(drain_until, all_end).await;
    insight::end(&app, drain_until).await;
    app.reads.stop(drain_until).await;
    app.decoders.stop(drain_until).await;
    app.backups.stop(drain_until).await;
    app.erasures.stop(drain_until).await;
    app.releases.stop(drain_until).await;
    // Nothing ends a span any more.
    if let Some(export) = export {
        export.finish().await;
    }
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
