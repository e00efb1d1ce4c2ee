//! The client's settings, each with its default.

use std::time::Duration;

use thiserror::Error;

use crate::backoff::{Backoff, BackoffError};
use crate::client::Client;
use crate::security::{Secret, Security};
use crate::url::{ServerUrl, ServerUrlError};

/// Settings of a [`Client`], made by [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    pub(crate) url: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) idle_connections: usize,
    pub(crate) max_batch_events: usize,
    pub(crate) max_batch_bytes: usize,
    pub(crate) max_reply_bytes: usize,
    pub(crate) silence_timeout: Duration,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) stream_retry_interval: Duration,
    pub(crate) user_agent: String,
    pub(crate) security: Security,
}

/// Why a client cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The URL is invalid.
    #[error("the URL of the server, {url:?}, {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        #[source]
        reason: ServerUrlError,
    },
    /// The retry policy makes no sense.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
    /// A limit that would allow nothing.
    #[error("{0} must be more than 0")]
    Zero(&'static str),
    /// The key cannot be one. The error does not show it.
    #[error("the key must be visible ASCII characters without white space")]
    Key,
    /// The certificates that are trusted beside those of the system cannot be used.
    #[error("the certificates to trust cannot be used: {0}")]
    Ca(String),
    /// The certificate that the client presents cannot be used.
    #[error("the client's certificate cannot be used: {0}")]
    ClientCertificate(String),
    /// The HTTP library cannot be set up.
    #[error("no HTTP client: {0}")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            backoff: Backoff::default(),
            idle_connections: 16,
            max_batch_events: 10_000,
            max_batch_bytes: 16 << 20,
            max_reply_bytes: 64 << 20,
            silence_timeout: Duration::from_secs(45),
            first_byte_timeout: Duration::from_secs(5),
            stream_retry_interval: Duration::from_secs(300),
            user_agent: concat!("aggregator-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            security: Security::default(),
        }
    }

    /// How long making a connection may take. The default is 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one attempt may take, from the first byte of the request to the last byte of the reply. The default is
    /// 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often and how long failures are retried. See [`Backoff`] for the default.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How many connections are kept open while nothing is sent over them. The default is 16. It does not limit the
    /// connections in use: each request under way has one of its own.
    pub fn idle_connections(mut self, connections: usize) -> Self {
        self.idle_connections = connections;
        self
    }

    /// The most events in one batch. The default is 10,000, as is the server's (`--max-batch-events`).
    pub fn max_batch_events(mut self, events: usize) -> Self {
        self.max_batch_events = events;
        self
    }

    /// The most bytes of one batch, as JSON. The default is 16 MiB, as is the server's (`--max-body-bytes`).
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// The most bytes of one reply, or of one event of a stream; reading stops there. The default is 64 MiB. A page of
    /// 1,000 events with large payloads can be longer: ask for fewer events.
    pub fn max_reply_bytes(mut self, bytes: usize) -> Self {
        self.max_reply_bytes = bytes;
        self
    }

    /// A [`Tail`](crate::Tail) whose stream brings nothing at all for so long connects again. The default is 45 s: three
    /// heartbeats of the server (`--heartbeat`).
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.silence_timeout = timeout;
        self
    }

    /// A [`Tail`](crate::Tail) whose stream has no first byte for so long after its head asks with long polls instead:
    /// something on the way keeps streams back. The default is 5 s.
    pub fn first_byte_timeout(mut self, timeout: Duration) -> Self {
        self.first_byte_timeout = timeout;
        self
    }

    /// After so long a [`Tail`](crate::Tail) that asks with long polls tries the stream again. The default is 5 minutes.
    pub fn stream_retry_interval(mut self, interval: Duration) -> Self {
        self.stream_retry_interval = interval;
        self
    }

    /// What the client calls itself. The default is `aggregator-client` and its version.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Proves with this key who the client is: it is sent with every request, as `Authorization: Bearer KEY`. Neither
    /// `Debug` nor an error shows it. Over `http://` everybody on the way can read it.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.security.key = Some(Secret(key.into()));
        self
    }

    /// Over `https://`, trusts servers whose certificate one of these signed, beside those that the system trusts. PEM.
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.security.ca = Some(pem.into());
        self
    }

    /// Over `https://`, presents this certificate where the server asks for one. Both are PEM: the chain with the client's
    /// own certificate first, and its private key, not encrypted.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.security.certificate = Some((chain.into(), Secret(key.into())));
        self
    }

    /// Checks the settings and makes the client. It connects with the first request.
    ///
    /// # Errors
    /// When a setting makes no sense. The error names it.
    pub fn build(mut self) -> Result<Client, BuildError> {
        self.security.be_of_its_own();
        let url = self.server_url()?;
        let limits = [
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("request_timeout", self.request_timeout.is_zero()),
            ("max_batch_events", self.max_batch_events == 0),
            ("max_batch_bytes", self.max_batch_bytes == 0),
            ("max_reply_bytes", self.max_reply_bytes == 0),
            ("silence_timeout", self.silence_timeout.is_zero()),
            ("first_byte_timeout", self.first_byte_timeout.is_zero()),
            ("stream_retry_interval", self.stream_retry_interval.is_zero()),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, is_zero)| *is_zero) {
            return Err(BuildError::Zero(name));
        }
        let http = self.http_client()?;
        Ok(Client::new(http, &url, self))
    }

    fn server_url(&self) -> Result<ServerUrl, BuildError> {
        self.url.parse().map_err(|reason| BuildError::Url { url: self.url.clone(), reason })
    }

    /// The HTTP that [`build`](Self::build) gives to the client, for a caller who reads replies with code of their own. It
    /// speaks HTTP/1.1: each request has a connection of its own, so that a slow one holds up no other.
    ///
    /// # Errors
    /// When a setting makes no sense. The error names it.
    pub fn http_client(&self) -> Result<reqwest::Client, BuildError> {
        let tls = self.security.tls(self.server_url()?.is_https())?;
        reqwest::Client::builder()
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(self.idle_connections)
            .tcp_nodelay(true)
            // A proxy from the environment could answer in place of the server, a followed redirect would turn POST into
            // GET, and hidden retries would not be counted.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(&self.user_agent)
            .http1_only()
            .tls_backend_preconfigured(tls)
            .default_headers(self.security.headers()?)
            .build()
            .map_err(|error| BuildError::Http(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(builder: Builder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_name() {
        let builder = || Client::builder("http://127.0.0.1:8080");
        builder().build().unwrap();
        for (builder, named) in [
            (builder().connect_timeout(Duration::ZERO), "connect_timeout must be more than 0"),
            (builder().request_timeout(Duration::ZERO), "request_timeout must be more than 0"),
            (builder().max_batch_events(0), "max_batch_events must be more than 0"),
            (builder().max_batch_bytes(0), "max_batch_bytes must be more than 0"),
            (builder().max_reply_bytes(0), "max_reply_bytes must be more than 0"),
            (builder().silence_timeout(Duration::ZERO), "silence_timeout must be more than 0"),
            (builder().first_byte_timeout(Duration::ZERO), "first_byte_timeout must be more than 0"),
            (builder().stream_retry_interval(Duration::ZERO), "stream_retry_interval must be more than 0"),
        ] {
            assert_eq!(error(builder), named);
        }
        assert!(error(builder().user_agent("a\nb")).starts_with("no HTTP client: "));
    }

    #[test]
    fn what_proves_who_the_client_is_is_shown_nowhere() {
        let builder =
            Client::builder("https://localhost").key("s3cret").client_certificate("chain", "s3cret");
        assert!(!format!("{builder:?}").contains("s3cret"), "{builder:?}");
        assert_eq!(
            error(builder),
            "the client's certificate cannot be used: there is no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        );
        let client = Client::builder("https://localhost").key("s3cret").build().unwrap();
        assert!(!format!("{client:?}").contains("s3cret"), "{client:?}");
        for key in ["", "s3cret s3cret", "s3cret\n", "s3crét"] {
            let error = error(Client::builder("https://localhost").key(key));
            assert_eq!(error, "the key must be visible ASCII characters without white space", "{key:?}");
        }
        let ca = Client::builder("https://localhost").ca_certificates("-----BEGIN CERTIFICATE-----\nAA");
        assert_eq!(error(ca), "the certificates to trust cannot be used: the PEM is malformed or cut off");
    }

    #[test]
    fn a_url_that_cannot_be_right_is_refused_with_the_one_that_was_meant() {
        for (url, reason) in [
            ("localhost:8080", "did you mean http://localhost:8080?"),
            ("ftp://localhost", "must begin with http:// or https://"),
            ("http://localhost?a=b", "must have no user, password, ?query or #fragment"),
            ("", "must be a URL, such as http://127.0.0.1:8080"),
        ] {
            let error = error(Client::builder(url));
            assert!(error.contains(reason) && error.contains(&format!("{url:?}")), "{error}");
        }
    }
}
