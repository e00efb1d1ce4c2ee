//! Server-Sent Events over one connection after the other, as little of them as the judge needs.
//!
//! The client library has a parser, too. This one is the simulator's own, so that no mistake of that one is hidden.

use std::time::Duration;

use aggregator_client::Backoff;
use aggregator_client::backoff::Retries;
use bytes::BytesMut;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use tokio::time::{Instant, sleep, timeout};

use crate::seed::{SimRng, Stream, Streams};

/// A stream that brings nothing for so long is dead: the server's heartbeat comes every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The longest block. A payload has at most 1 MiB.
const MAX_BLOCK_BYTES: usize = 8 << 20;

/// A complete block.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Where a later connection goes on.
    pub(super) id: String,
    /// The kind of event; empty for a stored one.
    pub(super) event: String,
    /// Empty where the block only has an id.
    pub(super) data: String,
}

/// The blocks of a stream, whatever becomes of its connections.
pub(super) struct EventStream<'a> {
    http: &'a reqwest::Client,
    url: &'a str,
    streams: &'a Streams,
    backoff: Backoff,
    response: Option<reqwest::Response>,
    buffer: BytesMut,
    last_id: String,
    retry: Option<Duration>,
    /// Connections that were answered with a stream.
    connections: u64,
    /// The failures since the last block.
    failing: Option<(Instant, Retries<SimRng>)>,
}

impl<'a> EventStream<'a> {
    pub(super) fn new(
        http: &'a reqwest::Client,
        url: &'a str,
        streams: &'a Streams,
        backoff: Backoff,
    ) -> Self {
        Self {
            http,
            url,
            streams,
            backoff,
            response: None,
            buffer: BytesMut::new(),
            last_id: String::new(),
            retry: None,
            connections: 0,
            failing: None,
        }
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// Leaves the connection. The next block comes over another one.
    pub(super) fn disconnect(&mut self) {
        self.response = None;
        self.buffer.clear();
    }

    /// The next block. The future can be dropped: nothing of the stream is lost.
    ///
    /// # Errors
    /// When the server refuses, sends what is no stream of events, or cannot be reached within the retry policy.
    pub(super) async fn next(&mut self) -> Result<Block, String> {
        loop {
            if let Some(block) = self.take_block()? {
                self.last_id.clone_from(&block.id);
                self.failing = None;
                return Ok(block);
            }
            let Some(response) = &mut self.response else {
                self.connect().await?;
                continue;
            };
            match timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.buffer.extend_from_slice(&chunk),
                Ok(Ok(None)) => self.pause("the stream ended", self.retry).await?,
                Ok(Err(error)) => self.pause(&error.to_string(), None).await?,
                Err(_) => self.pause("the stream is silent", None).await?,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.retry = None;
        let mut request = self.http.get(self.url).header(ACCEPT, "text/event-stream");
        if !self.last_id.is_empty() {
            request = request.header("last-event-id", &self.last_id);
        }
        let response = match timeout(SILENCE, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return self.pause(&error.to_string(), None).await,
            Err(_) => return self.pause("no answer", None).await,
        };
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return self.pause(&format!("the stream was answered {status}"), None).await;
        }
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
        if status != StatusCode::OK || !content_type.is_some_and(|ty| ty.starts_with(b"text/event-stream")) {
            return Err(format!("GET /events/stream was answered {status}, and with no stream of events"));
        }
        self.connections += 1;
        self.response = Some(response);
        Ok(())
    }

    /// Leaves the connection after a failure, and waits before the next one.
    async fn pause(&mut self, reason: &str, asked: Option<Duration>) -> Result<(), String> {
        self.disconnect();
        let (streams, backoff) = (self.streams, self.backoff);
        let (since, retries) = self.failing.get_or_insert_with(|| {
            (Instant::now(), backoff.start(streams.rng(Stream::Backoff, u64::MAX - 1)))
        });
        let Some(wait) = retries.next_wait(since.elapsed(), asked) else {
            return Err(format!(
                "gave up after {} attempts; the last one ended with: {reason}",
                retries.failed()
            ));
        };
        sleep(wait).await;
        Ok(())
    }

    /// The next block that is complete and has an id.
    fn take_block(&mut self) -> Result<Option<Block>, String> {
        while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
            let text = self.buffer.split_to(end + 2);
            let text = str::from_utf8(&text).map_err(|_| "the stream is no text".to_owned())?;
            let mut block = Block::default();
            for line in text.lines() {
                match line.split_once(": ").unwrap_or((line, "")) {
                    ("id", id) => id.clone_into(&mut block.id),
                    ("event", event) => event.clone_into(&mut block.event),
                    ("data", data) => data.clone_into(&mut block.data),
                    ("retry", ms) => self.retry = ms.parse().ok().map(Duration::from_millis),
                    _ => {}
                }
            }
            if !block.id.is_empty() {
                return Ok(Some(block));
            }
            if !block.data.is_empty() {
                return Err("an event of the stream has no id".to_owned());
            }
        }
        if self.buffer.len() > MAX_BLOCK_BYTES {
            return Err(format!("a block of the stream has more than {MAX_BLOCK_BYTES} bytes"));
        }
        Ok(None)
    }
}
