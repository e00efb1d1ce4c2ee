//! The options that say how long something may take.

use clap::Args;
use humantime::Duration;
use program_support::values::time_span;

use crate::config::{ByteSize, Config};

/// How long requests, their parts and the end of the server may take.
#[derive(Debug, Clone, Args)]
pub(super) struct Timeouts {
    /// How long a read may take, the wait for its turn included; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_READ_TIMEOUT", default_value_t = Config::default().read_timeout.into(),
          value_name = "TIME",
          value_parser = time_span)]
    pub(super) read_timeout: Duration,

    /// How long a connection may take to send a request's head, idle time included
    #[arg(long, env = "AGGREGATOR_HEADER_TIMEOUT", default_value_t = Config::default().header_timeout.into(),
          value_name = "TIME",
          value_parser = time_span)]
    pub(super) header_timeout: Duration,

    /// How long a request's body may take to arrive
    #[arg(long, env = "AGGREGATOR_BODY_TIMEOUT", default_value_t = Config::default().body_timeout.into(),
          value_name = "TIME",
          value_parser = time_span)]
    pub(super) body_timeout: Duration,

    /// How many bytes of a request's body have to arrive in a second, on average, after the first five seconds
    #[arg(long, env = "AGGREGATOR_MIN_BODY_RATE", default_value_t = Config::default().min_body_rate,
          value_name = "BYTES")]
    pub(super) min_body_rate: ByteSize,

    /// How long a response may wait for a client that does not take it
    #[arg(long, env = "AGGREGATOR_WRITE_TIMEOUT", default_value_t = Config::default().write_timeout.into(),
          value_name = "TIME",
          value_parser = time_span)]
    pub(super) write_timeout: Duration,

    /// How long a publisher waits for its commit before it is told to try again
    #[arg(long, env = "AGGREGATOR_COMMIT_TIMEOUT", default_value_t = Config::default().commit_timeout.into(),
          value_name = "TIME",
          value_parser = time_span)]
    pub(super) commit_timeout: Duration,

    /// How long a shutdown may take to finish requests and commit the queue
    #[arg(long, env = "AGGREGATOR_DRAIN_TIMEOUT", default_value_t = Config::default().drain_timeout.into(),
          value_name = "TIME",
          value_parser = time_span)]
    pub(super) drain_timeout: Duration,
}
