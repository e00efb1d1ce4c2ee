//! Tracing: spans of requests, of commit groups and of their commits, for a collector that speaks OTLP (docs/tracing.md).
//!
//! ```text
//! Layers::answer ─► RequestSpan ── of one sampled request: ends with its answer
//!                      ▲ │ links
//!                      │ ▼
//! GroupCommitter ─► GroupSpan ──── of the sampled requests of a turn, in a trace of its own
//!                      └─► commit  one for each call of the store
//! ```
//!
//! A request that is not sampled has no span, and neither has a group without a sampled request. So the rest of the server asks
//! one `Option` for each request and for each group. A span is handed over when it has ended. That never waits: a span that finds
//! the queue full is dropped and counted. One task exports what waits ([`otlp`]).

mod context;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod group;
#[cfg(feature = "otlp")]
mod otlp;
mod request;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Request;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use self::context::TraceParent;
pub(crate) use self::group::GroupSpan;
pub(crate) use self::request::RequestSpan;
use self::span::Span;
use crate::config::{Config, SampleRatio};

/// Starts the export, if the settings name a collector.
///
/// # Errors
/// Says why no client for the collector can be made.
pub(crate) fn start(config: &Config) -> Result<Option<(Arc<Tracer>, Export)>, String> {
    #[cfg(feature = "otlp")]
    if let Some(endpoint) = &config.otlp_endpoint {
        let (queue, waiting) = mpsc::channel(config.otlp_queue_spans.get());
        let counters = Arc::<SpanCounters>::default();
        let exporter = otlp::Exporter::new(endpoint, config.otlp_timeout, waiting, Arc::clone(&counters))?;
        let (stop, stopped) = oneshot::channel();
        let tracer = Tracer {
            ratio: config.otlp_sample_ratio,
            scheme: if config.tls_cert.is_some() { "https" } else { "http" },
            queue,
            counters,
        };
        let task = tokio::spawn(exporter.run(stopped));
        let export = Export { stop: Some(stop), task, limit: config.otlp_timeout };
        return Ok(Some((Arc::new(tracer), export)));
    }
    // Without the feature, `Config::check` has refused the endpoint.
    let _ = config;
    Ok(None)
}

/// The task that exports spans. It ends when this is dropped.
pub(crate) struct Export {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    limit: Duration,
}

impl Export {
    /// Exports what still waits, for a limited time.
    pub(crate) async fn finish(mut self) {
        drop(self.stop.take());
        // A panic of the task was logged by its hook.
        if tokio::time::timeout(self.limit, &mut self.task).await.is_err() {
            warn!("the last spans are lost: the collector did not take them within --otlp-timeout");
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of the spans since the start.
#[derive(Debug, Default)]
pub(crate) struct SpanCounters {
    exported: AtomicU64,
    /// The queue was full.
    overflowed: AtomicU64,
    /// The collector did not take them.
    failed: AtomicU64,
}

impl SpanCounters {
    pub(crate) fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

/// Begins the spans of requests.
#[derive(Debug)]
pub(crate) struct Tracer {
    ratio: SampleRatio,
    /// That of the URLs of this server.
    scheme: &'static str,
    queue: mpsc::Sender<Span>,
    pub(crate) counters: Arc<SpanCounters>,
}

impl Tracer {
    /// Begins the span of a request, if the request is sampled: its client says so, or chance does where the client says nothing.
    pub(crate) fn begin<B>(self: &Arc<Self>, request: &Request<B>) -> Option<Arc<RequestSpan>> {
        let parent = TraceParent::of(request.headers());
        if !parent.map_or_else(|| rand::random_bool(self.ratio.get()), |parent| parent.is_sampled) {
            return None;
        }
        let parent = parent.map(|parent| parent.context);
        Some(Arc::new(RequestSpan::begin(Arc::clone(self), request, parent)))
    }

    fn export(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
