//! The aggregator as seen over HTTP: one attempt at a time, and what its failure means.
//!
//! Nothing is retried in here; see [`crate::retry`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Request, StatusCode, Url};
use serde::Deserialize;
use thiserror::Error;

use crate::config::{RetryArgs, ServerUrl};

/// The longest reply that is read.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// The longest piece of a server's own words that is repeated.
const MAX_DETAIL_CHARS: usize = 300;

/// How long the first look at the server may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for one server. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: ServerUrl,
    publish: Url,
    request_timeout: Duration,
}

/// The client could not be built.
#[derive(Debug, Error)]
#[error("no HTTP client")]
pub struct NoClient(#[from] reqwest::Error);

/// Why an attempt failed, as far as it matters for what to do next.
#[derive(Debug)]
pub enum Failure {
    /// The same bytes may be sent again.
    Retryable {
        /// What went wrong.
        cause: RetryCause,
        /// How long the server asked to stay away.
        retry_after: Option<Duration>,
    },
    /// Sending the same bytes again would end the same way.
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

/// The server's own counters (`GET /stats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Stats {
    /// Deliveries received.
    pub received: u64,
    /// Events stored.
    pub unique_processed: u64,
    /// Repeats with the same payload.
    pub duplicate_dropped: u64,
    /// Repeats with another payload.
    #[serde(default)]
    pub conflicts: u64,
}

impl Client {
    /// A client that holds up to `connections` connections.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up.
    pub fn new(url: ServerUrl, connections: usize, args: &RetryArgs) -> Result<Self, NoClient> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(args.connect_timeout_ms.into()))
            .pool_max_idle_per_host(connections)
            .tcp_nodelay(true)
            // A proxy from the environment would answer in place of the server under test, a followed
            // redirect would turn POST into GET, and hidden retries would not be counted.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("publisher-sim/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let request_timeout = Duration::from_millis(args.request_timeout_ms.into());
        Ok(Self { http, publish: url.endpoint("/publish"), url, request_timeout })
    }

    /// Looks whether the server is there.
    ///
    /// A server that answers 5xx is there and in trouble, which is what retries are for.
    ///
    /// # Errors
    /// When there is none.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let request = self.http.get(self.url.endpoint("/livez")).timeout(PROBE_TIMEOUT);
        match request.send().await.map(|response| response.status()) {
            Ok(status) if status.is_success() || status.is_server_error() => Ok(()),
            Ok(status) => Err(ProbeError::SomethingElse { url: self.url.to_string(), status }),
            Err(error) => Err(ProbeError::NoServer { url: self.url.to_string(), reason: reason(&error) }),
        }
    }

    /// Publishes once and returns the reply.
    ///
    /// # Errors
    /// For anything but a complete 2xx reply within `limit`.
    pub async fn publish(&self, body: Bytes, limit: Duration) -> Result<Bytes, Failure> {
        let mut request = Request::new(reqwest::Method::POST, self.publish.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        let (_, reply) = self.send(request, limit).await?;
        Ok(reply)
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
        let mut url = self.url.endpoint("/events");
        url.query_pairs_mut()
            .append_pair("topic", topic)
            .append_pair("limit", &page_size.to_string())
            .extend_pairs(after.map(|cursor| ("after", cursor)));
        let (status, body) = self.send(Request::new(reqwest::Method::GET, url), limit).await?;
        Ok((status != StatusCode::NOT_FOUND).then_some(body))
    }

    /// The server's counters, or `None` if it does not give them: they are shown, nothing hangs on them.
    pub async fn stats(&self) -> Option<Stats> {
        let request = Request::new(reqwest::Method::GET, self.url.endpoint("/stats"));
        let (_, body) = self.send(request, self.request_timeout).await.ok()?;
        serde_json::from_slice(&body).ok()
    }

    async fn send(&self, mut request: Request, limit: Duration) -> Result<(StatusCode, Bytes), Failure> {
        let reading = request.method() == reqwest::Method::GET;
        *request.timeout_mut() = Some(limit.min(self.request_timeout));
        let mut response = self.http.execute(request).await.map_err(Failure::of_transport)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(delta_seconds);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(Failure::of_transport)? {
            if body.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err(Failure::Final(format!("the reply is longer than {MAX_REPLY_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        match status {
            _ if status.is_success() => Ok((status, body.freeze())),
            StatusCode::NOT_FOUND if reading => Ok((status, body.freeze())),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Retryable { cause: RetryCause::Status(status.as_u16()), retry_after })
            }
            _ if status.is_server_error() => {
                Err(Failure::Retryable { cause: RetryCause::Status(status.as_u16()), retry_after })
            }
            _ => Err(Failure::Final(refusal(status, &body))),
        }
    }
}

impl Failure {
    #[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
    fn of_transport(error: reqwest::Error) -> Self {
        let cause = match () {
            () if error.is_timeout() => RetryCause::Timeout,
            () if error.is_connect() => RetryCause::Connect,
            () if error.is_builder() => return Self::Final(reason(&error)),
            () => RetryCause::Reset,
        };
        Self::Retryable { cause, retry_after: None }
    }
}

/// `Retry-After` in its seconds form (RFC 9110, 10.2.3), the one the aggregator uses.
fn delta_seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The deepest cause: "Connection refused", not "error sending request".
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// RFC 9457, the fields that are shown.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<ItemError>,
}

#[derive(Deserialize)]
struct ItemError {
    #[serde(default)]
    field: String,
    #[serde(default)]
    detail: String,
}

/// One line for a refused request. Which item was meant is left out, so that equal refusals are equal.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let mut line = status.to_string();
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        let mut faults: BTreeMap<&str, &str> = BTreeMap::new();
        for error in &problem.errors {
            faults.entry(&error.field).or_insert(&error.detail);
        }
        let faults = faults.iter().map(|(field, detail)| format!("{field}: {detail}"));
        for part in [problem.title, problem.detail].into_iter().chain(faults) {
            if !part.is_empty() && !line.contains(&part) {
                line.push_str("; ");
                line.push_str(&part);
            }
        }
    }
    line.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds_and_nothing_else() {
        let parse = |text| delta_seconds(&HeaderValue::from_static(text));
        assert_eq!(parse("3"), Some(Duration::from_secs(3)));
        assert_eq!(parse(" 0 "), Some(Duration::ZERO));
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }

    #[test]
    fn refusals_of_the_same_kind_read_the_same() {
        let body = |index: u32| {
            format!(
                r#"{{"title":"Invalid event","status":422,"detail":"1 of 50 is invalid","retryable":false,
                    "errors":[{{"index":{index},"field":"topic","detail":"is empty"}}]}}"#
            )
        };
        let line = refusal(StatusCode::UNPROCESSABLE_ENTITY, body(3).as_bytes());
        assert_eq!(line, "422 Unprocessable Entity; Invalid event; 1 of 50 is invalid; topic: is empty");
        assert_eq!(line, refusal(StatusCode::UNPROCESSABLE_ENTITY, body(7).as_bytes()));
        assert_eq!(refusal(StatusCode::NOT_FOUND, b"<html>"), "404 Not Found");
    }
}
