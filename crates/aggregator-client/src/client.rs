//! The client: one attempt at a request, bounded in time and in bytes, and the retries around it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use serde::{Deserialize, Serialize};

use crate::builder::Builder;
use crate::error::{Error, Problem};
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
    /// A builder with the default settings. `url` is `http://HOST:PORT`, with a path if the server is behind one.
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
        let failed = |error: &reqwest::Error| self.transport_error(error, &url, limit);
        *request.timeout_mut() = Some(limit);
        let mut response = self.0.http.execute(request).await.map_err(|error| failed(&error))?;
        let max_bytes = self.settings().max_reply_bytes;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(Error::ReplyTooLong { url, limit: max_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        if status.is_success() {
            return Ok(body.freeze());
        }
        let mut problem = Box::new(Problem::of(&body));
        if status == StatusCode::GONE
            && let Some(oldest) = problem.oldest.take()
        {
            return Err(Error::Purged { oldest, problem });
        }
        let retry_after = retry_after(response.headers(), SystemTime::now());
        Err(Error::Refused { status, url, problem, retry_after })
    }

    fn transport_error(&self, error: &reqwest::Error, url: &str, limit: Duration) -> Error {
        let url = url.to_owned();
        match (error.is_timeout(), error.is_connect()) {
            (true, false) => Error::Timeout { url, limit },
            (true, true) => Error::Timeout { url, limit: limit.min(self.settings().connect_timeout) },
            (false, true) => Error::Connect { url, reason: deepest_cause(error) },
            (false, false) => Error::Reset { url, reason: deepest_cause(error) },
        }
    }
}

/// Parses the body of a reply.
pub(crate) fn parse<'de, T: Deserialize<'de>>(body: &'de [u8], url: &Url) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| bad_reply(url, error.to_string()))
}

pub(crate) fn bad_reply(url: &Url, detail: impl Into<String>) -> Error {
    Error::BadReply { url: without_query(url), detail: detail.into() }
}

fn without_query(url: &Url) -> String {
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
