//! Asks the aggregator through `aggregator-client`: one attempt at a time. Gives failures their names in the report.
//!
//! Replies come as bytes. The simulator reads them with its own code ([`crate::receipt`], [`crate::verify`]): a
//! mistake in how the client reads receipts or pages must not hide a mistake of the server.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aggregator_client::retry::{AttemptError, Retry};
use aggregator_client::{
    Backoff, BuildError, Builder, Error, Problem, PublishOptions, Query, ServerUrl, StatusCode,
};
use bytes::Bytes;
use thiserror::Error;

use crate::SetupError;
use crate::config::Config;

pub use aggregator_client::Stats;

/// The longest piece of a server's own words that is repeated.
const MAX_DETAIL_CHARS: usize = 300;

/// How long the first look at the server may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for one server. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    attempts: aggregator_client::Client,
    url: ServerUrl,
}

/// The client library with the options of this program.
///
/// # Errors
/// When a file of keys or certificates cannot be read, or options make no sense.
pub fn builder(config: &Config) -> Result<Builder, SetupError> {
    let ms = |ms: u32| Duration::from_millis(ms.into());
    let request_timeout = ms(config.retry.request_timeout_ms);
    let builder = aggregator_client::Client::builder(config.url.to_string())
        .connect_timeout(ms(config.retry.connect_timeout_ms))
        .request_timeout(request_timeout)
        // Publishing and reading are retried by `retry::with_retries`, whose waits follow from the seed; the counters, which
        // are asked for through this, are not retried.
        .backoff(Backoff::once(request_timeout)?)
        .idle_connections(config.concurrency as usize)
        .user_agent(concat!("publisher-sim/", env!("CARGO_PKG_VERSION")));
    Ok(config.security.apply(builder)?)
}

/// Why an attempt failed, as far as it matters for what to do next.
#[derive(Debug, Error)]
pub enum Failure {
    /// The same bytes may be sent again.
    #[error("{cause}")]
    Retryable {
        /// What went wrong.
        cause: RetryCause,
        /// How long the server asked the client to wait.
        retry_after: Option<Duration>,
    },
    /// Sending the same bytes again would end the same way.
    #[error("{0}")]
    Final(String),
}

/// What made a retry necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryCause {
    /// No connection was made: refused, or nobody there.
    Connect,
    /// The connection broke before the reply was complete.
    Reset,
    /// No reply came in time.
    Timeout,
    /// The reply was thrown away on purpose.
    DroppedReply,
    /// The server said: not now.
    Status(u16),
}

impl fmt::Display for RetryCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Reset => f.write_str("connection reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::DroppedReply => f.write_str("reply dropped"),
            Self::Status(code) => write!(f, "{code}"),
        }
    }
}

/// There is no server to talk to.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProbeError {
    /// Nothing listens, or nothing answers.
    #[error(
        "no aggregator answers at {url} ({reason}): start one with `cargo run --release --bin aggregator-server`, or \
         name another one with --url"
    )]
    NoServer {
        /// Where it was looked for.
        url: String,
        /// What was found instead.
        reason: String,
    },
    /// Something answers, but not as an aggregator does.
    #[error("{url} is not an aggregator, GET /livez said {status}: name the URL of one with --url")]
    SomethingElse {
        /// Where it was looked for.
        url: String,
        /// What it said.
        status: StatusCode,
    },
}

impl Client {
    /// A client for the server at `url`.
    ///
    /// # Errors
    /// When the settings make no sense, or the HTTP library cannot be set up.
    pub fn new(url: ServerUrl, builder: Builder) -> Result<Self, BuildError> {
        Ok(Self { attempts: builder.build()?, url })
    }

    /// Looks whether the server is there.
    ///
    /// A server that answers 5xx is there and in trouble, which is what retries are for.
    ///
    /// # Errors
    /// When there is none.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let url = self.url.to_string();
        let reason = match self.attempts.live(PROBE_TIMEOUT).await {
            Ok(()) => return Ok(()),
            Err(Error::Refused { status, .. }) if status.is_server_error() => return Ok(()),
            Err(Error::Refused { status, .. }) => return Err(ProbeError::SomethingElse { url, status }),
            Err(Error::Timeout { .. }) => "no answer in time".to_owned(),
            Err(Error::Connect { reason, .. } | Error::Reset { reason, .. }) => reason,
            Err(other) => other.to_string(),
        };
        Err(ProbeError::NoServer { url, reason })
    }

    /// Publishes once and returns the reply.
    ///
    /// # Errors
    /// For anything but a complete 2xx reply within `limit`.
    pub async fn publish(&self, body: Bytes, limit: Duration) -> Result<Bytes, Failure> {
        let options = PublishOptions::default();
        self.attempts.publish_once(body, options, limit).await.map_err(Failure::of)
    }

    /// Reads one page of a topic in ascending order; `None` if the server does not know the topic.
    ///
    /// # Errors
    /// For anything but a complete 2xx or 404 reply within `limit`.
    pub async fn page(
        &self,
        topic: &str,
        page_size: u32,
        after: Option<&str>,
        limit: Duration,
    ) -> Result<Option<Bytes>, Failure> {
        let query = Query::new().topic(topic).limit(page_size);
        let query = after.into_iter().fold(query, Query::after);
        match self.attempts.page_once(&query, limit).await {
            Ok(body) => Ok(Some(body)),
            Err(Error::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(Failure::of(error)),
        }
    }

    /// The server's counters, or `None` if it does not give them. They are only shown.
    pub async fn stats(&self) -> Option<Stats> {
        self.attempts.stats().await.ok()
    }
}

impl Failure {
    fn of(error: Error) -> Self {
        let Retry::Allowed { after: retry_after } = error.retry() else {
            return Self::Final(match error {
                Error::Refused { status, problem, .. } => refusal(status, &problem),
                Error::Purged { problem, .. } => refusal(StatusCode::GONE, &problem),
                other => other.to_string(),
            });
        };
        let cause = match error {
            Error::Connect { .. } => RetryCause::Connect,
            Error::Timeout { .. } => RetryCause::Timeout,
            Error::Refused { status, .. } => RetryCause::Status(status.as_u16()),
            _ => RetryCause::Reset,
        };
        Self::Retryable { cause, retry_after }
    }
}

impl AttemptError for Failure {
    fn retry(&self) -> Retry {
        match self {
            Self::Retryable { retry_after, .. } => Retry::Allowed { after: *retry_after },
            Self::Final(_) => Retry::Never,
        }
    }
}

/// One line for a refused request. Which item was meant is left out, so that equal refusals are equal.
fn refusal(status: StatusCode, problem: &Problem) -> String {
    let mut line = status.to_string();
    let mut faults: BTreeMap<&str, &str> = BTreeMap::new();
    for error in &problem.errors {
        faults.entry(&error.field).or_insert(&error.detail);
    }
    let faults = faults.iter().map(|(field, detail)| format!("{field}: {detail}"));
    for part in [problem.title.clone(), problem.detail.clone()].into_iter().chain(faults) {
        if !part.is_empty() && !line.contains(&part) {
            line.push_str("; ");
            line.push_str(&part);
        }
    }
    line.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_same_kind_read_the_same() {
        let body = |index: u32| -> Problem {
            serde_json::from_str(&format!(
                r#"{{"title":"Invalid event","status":422,"detail":"1 of 50 is invalid","retryable":false,
                    "errors":[{{"index":{index},"field":"topic","detail":"is empty"}}]}}"#
            ))
            .unwrap()
        };
        let line = refusal(StatusCode::UNPROCESSABLE_ENTITY, &body(3));
        assert_eq!(line, "422 Unprocessable Entity; Invalid event; 1 of 50 is invalid; topic: is empty");
        assert_eq!(line, refusal(StatusCode::UNPROCESSABLE_ENTITY, &body(7)));
        assert_eq!(refusal(StatusCode::NOT_FOUND, &Problem::default()), "404 Not Found");
    }
}
