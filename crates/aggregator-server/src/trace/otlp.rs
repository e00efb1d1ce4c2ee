//! Sends spans to a collector: OTLP over HTTP, in protobuf.
//!
//! One export is under way at a time; what ends meanwhile gathers in the queue. What a collector does not take is dropped and
//! not sent again, and while it takes nothing it is asked seldom: nobody waits for a trace.

mod message;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::SpanCounters;
use super::span::Span;
use crate::config::OtlpEndpoint;
use crate::outbound;

/// Spans of one export.
const MAX_SPANS: usize = 512;
/// How long further spans are waited for, so that they go together.
const LINGER: Duration = Duration::from_millis(200);
/// How long the collector is left alone after it has not taken an export.
const REST: Duration = Duration::from_secs(2);
/// Between two log lines about a full queue.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Of an answer, no more is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

pub(super) struct Exporter {
    client: Client,
    endpoint: OtlpEndpoint,
    timeout: Duration,
    waiting: mpsc::Receiver<Span>,
    counters: Arc<SpanCounters>,
    /// Names this process for the collector.
    instance: String,
    is_failing: bool,
    told: Told,
}

/// What the log has said about dropped spans.
#[derive(Default)]
struct Told {
    dropped: u64,
    at: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(
        endpoint: &OtlpEndpoint,
        timeout: Duration,
        waiting: mpsc::Receiver<Span>,
        counters: Arc<SpanCounters>,
    ) -> Result<Self, String> {
        let client = outbound::client(endpoint.as_str()).timeout(timeout).pool_max_idle_per_host(1).build();
        let client = client
            .map_err(|error| format!("--otlp-endpoint {endpoint}: {}", outbound::in_words(error, timeout)))?;
        Ok(Self {
            client,
            endpoint: endpoint.clone(),
            timeout,
            waiting,
            counters,
            instance: ulid::Ulid::generate().to_string(),
            is_failing: false,
            told: Told::default(),
        })
    }

    /// Exports spans until the sender of `stop` is dropped, and then those that still wait.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut first = None;
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                span = self.waiting.recv() => first = span,
            }
            tokio::select! {
                biased;
                _ = &mut stop => break,
                () = sleep(if self.is_failing { REST } else { LINGER }) => {}
            }
            self.export_waiting(first.take()).await;
        }
        self.waiting.close();
        self.export_waiting(first).await;
        let left = self.waiting.len() as u64;
        self.counters.failed.fetch_add(left, Ordering::Relaxed);
        self.tell_dropped(true);
    }

    /// Exports `first` and what waits, until nothing does or the collector does not take it.
    async fn export_waiting(&mut self, first: Option<Span>) {
        let mut batch: Vec<_> = first.into_iter().collect();
        loop {
            while batch.len() < MAX_SPANS
                && let Ok(span) = self.waiting.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() || !self.export(&batch).await {
                return;
            }
            batch.clear();
            self.tell_dropped(false);
        }
    }

    /// Whether the collector took them.
    async fn export(&mut self, spans: &[Span]) -> bool {
        let body = message::of(spans, &self.instance).encode_to_vec();
        let sent = self.send(body).await;
        let (count, counters) = (spans.len() as u64, &self.counters);
        let was_failing = std::mem::replace(&mut self.is_failing, sent.is_err());
        let endpoint = &self.endpoint;
        match sent {
            Ok(refused) => {
                let refused = refused.min(count);
                counters.exported.fetch_add(count - refused, Ordering::Relaxed);
                counters.failed.fetch_add(refused, Ordering::Relaxed);
                if was_failing {
                    info!(%endpoint, "spans are exported again");
                }
            }
            Err(reason) => {
                counters.failed.fetch_add(count, Ordering::Relaxed);
                if !was_failing {
                    let hint = if self.endpoint.is_for_grpc() {
                        "; 4317 is the port of OTLP over gRPC as a rule, and 4318 that of OTLP over HTTP"
                    } else {
                        ""
                    };
                    warn!(%endpoint, reason, "spans cannot be exported: they are dropped until they can{hint}");
                }
            }
        }
        !self.is_failing
    }

    /// How many spans of an export the collector has refused.
    async fn send(&self, body: Vec<u8>) -> Result<u64, String> {
        let in_words = |error| outbound::in_words(error, self.timeout);
        let request = self.client.post(self.endpoint.as_str());
        let request = request.header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let mut response = request.send().await.map_err(in_words)?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("the answer is {status}"));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(in_words)? {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Ok(0);
            }
            answer.extend_from_slice(&chunk);
        }
        // Whatever else a collector may answer, it says that it took them.
        Ok(message::refused(&answer).unwrap_or(0))
    }

    /// Says how many spans were dropped since it was said last: now and then, or at the end.
    fn tell_dropped(&mut self, at_end: bool) {
        let dropped = self.counters.dropped();
        let is_time = at_end || self.told.at.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        if dropped > self.told.dropped && is_time {
            let spans = dropped - self.told.dropped;
            warn!(
                spans,
                "spans were dropped: --otlp-queue-spans of them waited, or the collector did not take them"
            );
            self.told = Told { dropped, at: Some(Instant::now()) };
        }
    }
}
