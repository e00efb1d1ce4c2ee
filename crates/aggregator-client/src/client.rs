//! The client: one attempt at a request, bounded in time and in bytes, and the retries around it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};

use crate::builder::Builder;
use crate::error::{Error, Problem, shown};
use crate::retry::GaveUp;
use crate::retry_after::retry_after;
use crate::url::ServerUrl;

/// A client for one aggregator, or for the balancer before several. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    url: ServerUrl,
    /// Made once, because most requests use it.
    publish: Url,
    settings: Builder,
}

impl Client {
    /// A builder with the default settings. `url` is `http://HOST:PORT` or `https://HOST:PORT`, with a path if the server is behind one.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn new(http: reqwest::Client, url: &ServerUrl, settings: Builder) -> Self {
        Self(Arc::new(Inner { http, publish: url.endpoint("/publish"), url: url.clone(), settings }))
    }

    pub(crate) fn settings(&self) -> &Builder {
        &self.0.settings
    }

    pub(crate) fn publish_url(&self) -> Url {
        self.0.publish.clone()
    }

    pub(crate) fn endpoint(&self, path: &str) -> Url {
        self.0.url.endpoint(path)
    }

    /// Encodes a body with `count` items, if it is within the limits of a batch.
    pub(crate) fn encode(
        &self,
        items: &'static str,
        count: usize,
        body: &impl Serialize,
    ) -> Result<Bytes, Error> {
        let check = |what, option, size, limit| match size > limit {
            true => Err(Error::TooLarge { what, size, limit, option }),
            false => Ok(()),
        };
        let settings = self.settings();
        check(items, "max_batch_events", count, settings.max_batch_events)?;
        let body = serde_json::to_vec(body).map_err(Error::Payload)?;
        check("bytes", "max_batch_bytes", body.len(), settings.max_batch_bytes)?;
        Ok(body.into())
    }

    /// Tries until it works, or until the policy says to give up.
    pub(crate) async fn with_retries<T, A>(&self, attempt: impl FnMut(Duration) -> A) -> Result<T, Error>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let rng = Xoshiro256PlusPlus::seed_from_u64(rand::random());
        self.settings().backoff.start(rng).run(|_| {}, attempt).await.map_err(|gave_up| match gave_up {
            GaveUp::Refused(error) => error,
            GaveUp::Exhausted { attempts, last } => Error::GaveUp { attempts, last: Box::new(last) },
        })
    }

    /// How long an attempt may take if its call has `limit` left.
    pub(crate) fn attempt_timeout(&self, limit: Duration) -> Duration {
        limit.min(self.settings().request_timeout)
    }

    /// One attempt to read a resource within `limit`.
    pub(crate) async fn get_once(&self, url: Url, limit: Duration) -> Result<Bytes, Error> {
        self.send(Request::new(Method::GET, url), limit).await
    }

    /// One attempt to send JSON within `limit`.
    pub(crate) async fn post_once(&self, url: Url, json: Bytes, limit: Duration) -> Result<Bytes, Error> {
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(json.into());
        self.send(request, limit).await
    }

    /// Sends a request, and returns the body of a 2xx reply.
    async fn send(&self, mut request: Request, limit: Duration) -> Result<Bytes, Error> {
        let url = without_query(request.url());
        *request.timeout_mut() = Some(limit);
        let sent = self.0.http.execute(request).await;
        let mut response = sent.map_err(|error| self.transport_error(&error, &url, limit))?;
        let body = self.body(&mut response, &url, limit).await?;
        if response.status().is_success() { Ok(body) } else { Err(refusal(&response, url, &body)) }
    }

    /// Asks for a stream, once. Its head has to come within `limit`, and nothing of its body is read.
    pub(crate) async fn open_stream(&self, url: Url, limit: Duration) -> Result<Opened, Error> {
        let shown = without_query(&url);
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        let opening = async {
            let sent = self.0.http.execute(request).await;
            let mut response = sent.map_err(|error| self.transport_error(&error, &shown, limit))?;
            match response.status() {
                status if status.is_success() => {
                    return Ok(if is_event_stream(&response) {
                        Opened::Stream(response)
                    } else {
                        Opened::Nothing
                    });
                }
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                    return Ok(Opened::Nothing);
                }
                _ => {}
            }
            let body = self.body(&mut response, &shown, limit).await?;
            Err(refusal(&response, shown.clone(), &body))
        };
        tokio::time::timeout(limit, opening).await.unwrap_or(Ok(Opened::Nothing))
    }

    async fn body(&self, response: &mut Response, url: &str, limit: Duration) -> Result<Bytes, Error> {
        let max_bytes = self.settings().max_reply_bytes;
        let mut body = BytesMut::new();
        let failed = |error: &reqwest::Error| self.transport_error(error, url, limit);
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(Error::ReplyTooLong { url: url.to_owned(), limit: max_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    pub(crate) fn transport_error(&self, error: &reqwest::Error, url: &str, limit: Duration) -> Error {
        let url = url.to_owned();
        match (error.is_timeout(), error.is_connect()) {
            (true, false) => Error::Timeout { url, limit },
            (true, true) => Error::Timeout { url, limit: limit.min(self.settings().connect_timeout) },
            (false, true) => Error::Connect { url, reason: deepest_cause(error) },
            (false, false) => Error::Reset { url, reason: self.reset_reason(error) },
        }
    }

    fn reset_reason(&self, error: &reqwest::Error) -> String {
        let mut reason = deepest_cause(error);
        if self.settings().security.lacks_certificate() {
            reason += "; the server has asked for a client certificate, and this client has none";
        }
        reason
    }
}

/// What came of asking for a stream.
pub(crate) enum Opened {
    /// A stream: its head is here, its body follows.
    Stream(Response),
    /// No stream gets through to here: the route is not known, or its answer is something else or is held back.
    Nothing,
}

const EVENT_STREAM: &str = "text/event-stream";

fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(EVENT_STREAM)
}

/// The error for a reply that is not 2xx, with this body.
fn refusal(response: &Response, url: String, body: &[u8]) -> Error {
    let status = response.status();
    let mut problem = Box::new(Problem::of(body));
    if status == StatusCode::GONE
        && let Some(oldest) = problem.oldest.take()
    {
        return Error::Purged { oldest, problem };
    }
    let retry_after = retry_after(response.headers(), SystemTime::now());
    Error::Refused { status, url, problem, retry_after }
}

/// Parses the body of a reply.
pub(crate) fn parse<'de, T: Deserialize<'de>>(body: &'de [u8], url: &Url) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| bad_reply(url, error.to_string()))
}

/// The detail may repeat what the peer sent.
pub(crate) fn bad_reply(url: &Url, detail: impl AsRef<str>) -> Error {
    Error::BadReply { url: without_query(url), detail: shown(detail.as_ref()) }
}

pub(crate) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

/// "Connection refused", not "error sending request".
fn deepest_cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
