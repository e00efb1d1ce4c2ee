//! The options of tracing.

use std::num::NonZeroUsize;

use clap::Args;
use humantime::Duration;
use program_support::values::{time_span, within};

use crate::config::{Config, OTLP_QUEUE_SPANS, OtlpEndpoint, SampleRatio};

/// Spans are exported where a collector is named.
#[derive(Debug, Clone, Args)]
pub(super) struct OtlpOptions {
    /// Export traces to this collector, by OTLP over HTTP: a span for each request, commit group and commit. /v1/traces is
    /// added to the path
    #[arg(long, env = "AGGREGATOR_OTLP_ENDPOINT", value_name = "URL")]
    pub(super) otlp_endpoint: Option<OtlpEndpoint>,

    /// The part of the requests without a traceparent that is traced, from 0 to 1; a traceparent says for itself whether
    /// its request is
    #[arg(long, env = "AGGREGATOR_OTLP_SAMPLE_RATIO", default_value_t = Config::default().otlp_sample_ratio,
          value_name = "RATIO")]
    pub(super) otlp_sample_ratio: SampleRatio,

    /// Spans that may wait for their export; spans beyond that are dropped and counted
    #[arg(long, env = "AGGREGATOR_OTLP_QUEUE_SPANS", default_value_t = Config::default().otlp_queue_spans,
          value_name = "N", value_parser = within::<NonZeroUsize>(OTLP_QUEUE_SPANS))]
    pub(super) otlp_queue_spans: NonZeroUsize,

    /// How long an export may take, and all that are left at the end of the server together
    #[arg(long, env = "AGGREGATOR_OTLP_TIMEOUT", default_value_t = Config::default().otlp_timeout.into(),
          value_name = "TIME", value_parser = time_span)]
    pub(super) otlp_timeout: Duration,
}
