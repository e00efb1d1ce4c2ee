//! HTTP/1.1 for the load generator: requests are rendered into the same bytes, and replies are read by their length.

use std::io::Read;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::workload::{TEMPLATE, Workload};

/// What a publisher wants to know in the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Results {
    /// Only the counts (`?results=none`).
    Counts,
    /// Also a result for each event.
    PerEvent,
    /// Only that the events were queued: their outcomes are not decided when the reply is sent.
    #[cfg(feature = "rivals")]
    Queued,
}

/// A key of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key([u8; Self::BYTES]);

impl Key {
    const BYTES: usize = 60;

    /// The key that the program has printed.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(Self(text.trim_end().as_bytes().try_into().context("a key has 60 characters")?))
    }

    /// The line of a request that has it.
    pub(crate) fn header(self) -> String {
        format!("authorization: Bearer {}\r\n", String::from_utf8_lossy(&self.0))
    }
}

/// A publish request with a fixed number of events. Every batch is rendered into the same bytes.
pub(crate) struct Request {
    bytes: Vec<u8>,
    body_at: usize,
    events: usize,
}

impl Request {
    pub(crate) fn new(events: u32, results: Results, key: Option<Key>) -> Self {
        let events = events as usize;
        let body = match events {
            1 => TEMPLATE.to_vec(),
            _ => [b"[", vec![TEMPLATE; events].join(&b',').as_slice(), b"]"].concat(),
        };
        let query = match results {
            Results::Counts => "?results=none",
            Results::PerEvent => "",
            #[cfg(feature = "rivals")]
            Results::Queued => "",
        };
        let mut bytes = format!(
            "POST /publish{query} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             {}content-length: {}\r\n\r\n",
            key.map(Key::header).unwrap_or_default(),
            body.len()
        )
        .into_bytes();
        let body_at = bytes.len();
        bytes.extend_from_slice(&body);
        Self { bytes, body_at, events }
    }

    /// Renders the request with the deliveries from `first` on.
    pub(crate) fn render(&mut self, workload: &Workload, first: u64) -> &[u8] {
        let bracket = usize::from(self.events > 1);
        let body = &mut self.bytes[self.body_at + bracket..];
        for (n, event) in (first..).zip(body.chunks_mut(TEMPLATE.len() + 1).take(self.events)) {
            workload.render(workload.identity(n), event);
        }
        &self.bytes
    }
}

/// The whole reply to one request, in a buffer that is reused.
#[derive(Default)]
pub(crate) struct Reply {
    buffer: Vec<u8>,
    filled: usize,
    /// Status, start of the body and its end, once the head has come.
    head: Option<(u16, usize, usize)>,
}

impl Reply {
    /// Room for the next bytes of the connection.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        const LEAST: usize = 16 << 10;
        if self.buffer.len() < self.filled + LEAST {
            self.buffer.resize(self.filled + LEAST * 2, 0);
        }
        &mut self.buffer[self.filled..]
    }

    pub(crate) fn clear(&mut self) {
        self.filled = 0;
        self.head = None;
    }

    /// Adds `read` bytes. Returns whether the reply is complete.
    pub(crate) fn advance(&mut self, read: usize) -> anyhow::Result<bool> {
        ensure!(read > 0, "the connection was closed in the middle of a reply");
        self.filled += read;
        if self.head.is_none() {
            let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") else { return Ok(false) };
            let body_at = end + 4;
            let (status, length) = parse_head(&self.buffer[..end])?;
            self.head = Some((status, body_at, body_at + length));
        }
        Ok(self.head.is_some_and(|(_, _, end)| self.filled >= end))
    }

    /// Reads the next reply of a connection.
    pub(crate) fn read_from(&mut self, stream: &mut impl Read) -> anyhow::Result<()> {
        self.clear();
        loop {
            let read = stream.read(self.space())?;
            if self.advance(read)? {
                return Ok(());
            }
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.map_or(0, |(status, ..)| status)
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.head.map_or(&[], |(_, start, end)| &self.buffer[start..end])
    }

    /// The body as a message, for errors.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body()[..self.body().len().min(500)]).into_owned()
    }

    /// The counts of a 202.
    pub(crate) fn counts(&self) -> anyhow::Result<Counts> {
        if self.status() != 202 {
            bail!("status {}: {}", self.status(), self.text());
        }
        // The results come last, and are not parsed: that would measure the parser.
        let body = self.body();
        let start = &body[..body.len().min(512)];
        let counts = match find(start, b",\"results\":") {
            Some(end) => serde_json::from_slice(&[&body[..end], b"}"].concat()),
            None => serde_json::from_slice(body),
        };
        counts.with_context(|| format!("a reply without counts: {}", self.text()))
    }
}

/// The counts of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    #[serde(default)]
    pub(crate) stored: u64,
    #[serde(default)]
    pub(crate) duplicates: u64,
    #[serde(default)]
    pub(crate) conflicts: u64,
    #[serde(default)]
    pub(crate) rejected: u64,
}

/// The status and the content-length.
fn parse_head(head: &[u8]) -> anyhow::Result<(u16, usize)> {
    let head = std::str::from_utf8(head).context("a reply's head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok((status, length)),
        _ => bail!("a reply without status or content-length: {head}"),
    }
}

pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::RECENT;

    #[test]
    fn a_request_holds_its_deliveries_and_its_length() {
        let workload = Workload::new(3, RECENT, 4_u16);
        for events in [1, 2, 50] {
            let mut request = Request::new(events, Results::Counts, None);
            let bytes = request.render(&workload, 1000).to_vec();
            let body_at = find(&bytes, b"\r\n\r\n").unwrap() + 4;
            let (head, body) = bytes.split_at(body_at);
            let length = format!("content-length: {}\r\n", body.len());
            assert!(find(head, length.as_bytes()).is_some());
            let parsed: serde_json::Value = serde_json::from_slice(body).unwrap();
            let events = if events == 1 { vec![parsed] } else { parsed.as_array().unwrap().clone() };
            for (n, event) in (1000..).zip(events) {
                assert_eq!(event["payload"]["order"], 1_000_000_000_000 + workload.identity(n));
            }
        }
    }

    #[test]
    fn a_reply_is_read_however_it_is_cut_and_its_results_are_left_alone() {
        let body = r#"{"status":"accepted","received":3,"stored":2,"duplicates":1,"conflicts":0,"rejected":0,"results":[{}]}"#;
        let bytes = format!("HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for cut in 1..bytes.len() {
            let mut reply = Reply::default();
            for part in [&bytes.as_bytes()[..cut], &bytes.as_bytes()[cut..]] {
                reply.space()[..part.len()].copy_from_slice(part);
                let complete = reply.advance(part.len()).unwrap();
                assert_eq!(complete, reply.filled == bytes.len());
            }
            let counts = Counts { received: 3, stored: 2, duplicates: 1, conflicts: 0, rejected: 0 };
            assert_eq!(reply.counts().unwrap(), counts);
        }
    }
}
