//! A connection to NATS.
//!
//! The protocol is lines of text, and is implemented here. async-nats brings an async runtime, TLS and a task per
//! acknowledgement, which would take processor time from the server under test.

use std::fmt::Arguments;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// Where answers come: below it, each connection has a subject of its own, which is named after its local port.
pub(super) const INBOX: &str = "_INBOX.bench";

pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    /// The local port.
    pub(super) own: u16,
    out: Vec<u8>,
    head: Vec<u8>,
    line: String,
    payload: Vec<u8>,
}

/// JetStream's answer to a message, or to several.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    /// `ack`, `gap` or `err`: about a batch of fast ingest that goes on.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    /// The number of a message, in the batch if the answer has a kind.
    #[serde(default)]
    pub(super) seq: u64,
    /// After how many messages of a batch the next answer comes.
    #[serde(default)]
    pub(super) msgs: u64,
    /// How many messages a batch had, if this is the end of one.
    #[serde(default)]
    pub(super) count: u64,
    #[serde(default)]
    pub(super) duplicate: bool,
    pub(super) error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    pub(super) err_code: u32,
}

#[derive(Debug, Deserialize)]
struct Info {
    state: State,
}

#[derive(Debug, Deserialize)]
struct State {
    messages: u64,
}

impl Connection {
    pub(super) fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting to NATS")?;
        stream.set_nodelay(true)?;
        let own = stream.local_addr()?.port();
        let stream = BufReader::with_capacity(64 << 10, stream);
        let (out, head, line, payload) = (Vec::new(), Vec::new(), String::new(), Vec::new());
        let mut connection = Self { stream, own, out, head, line, payload };
        write!(
            connection.out,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB {INBOX}.{own} 1\r\nSUB {INBOX}.{own}.> 2\r\n"
        )?;
        connection.flush()?;
        Ok(connection)
    }

    /// Creates the stream. Returns false if the server does not know one of the settings.
    pub(super) fn create_stream(&mut self, settings: &str) -> anyhow::Result<bool> {
        let config = format!(
            r#"{{"name":"bench","subjects":["bench.>"],"storage":"file","num_replicas":1,{settings}}}"#
        );
        let created = self.request("$JS.API.STREAM.CREATE.bench", &config)?;
        let answer: Answer = serde_json::from_slice(created)?;
        ensure!(answer.error.is_none(), "the stream cannot be created: {}", String::from_utf8_lossy(created));
        // A server leaves out what it does not know.
        let text = String::from_utf8_lossy(created);
        Ok(settings.split(',').all(|setting| text.contains(setting)))
    }

    /// How many messages the stream has.
    pub(super) fn stored_messages(&mut self) -> anyhow::Result<u64> {
        let info: Info = serde_json::from_slice(self.request("$JS.API.STREAM.INFO.bench", "")?)?;
        Ok(info.state.messages)
    }

    /// Sends a request, and reads the first answer.
    pub(super) fn request(&mut self, subject: &str, body: &str) -> anyhow::Result<&[u8]> {
        let (own, length) = (self.own, body.len());
        write!(self.out, "PUB {subject} {INBOX}.{own} {length}\r\n{body}\r\n")?;
        self.flush()?;
        self.message()
    }

    /// Adds a message to what [`Self::flush`] sends. `reply` is where the answer goes, if there shall be one; `headers`
    /// are lines that end in CRLF.
    pub(super) fn publish(
        &mut self,
        subject: Arguments<'_>,
        reply: Arguments<'_>,
        headers: Arguments<'_>,
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.head.clear();
        write!(self.head, "NATS/1.0\r\n{headers}\r\n")?;
        let (head, length) = (self.head.len(), self.head.len() + body.len());
        write!(self.out, "HPUB {subject} {reply} {head} {length}\r\n")?;
        self.out.extend_from_slice(&self.head);
        self.out.extend_from_slice(body);
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads the next answer.
    pub(super) fn answer(&mut self) -> anyhow::Result<Answer> {
        let answer = self.message()?;
        serde_json::from_slice(answer)
            .with_context(|| format!("NATS says {}", String::from_utf8_lossy(answer)))
    }

    /// Reads the next message. Answers pings in between.
    pub(super) fn message(&mut self) -> anyhow::Result<&[u8]> {
        loop {
            self.line.clear();
            ensure!(self.stream.read_line(&mut self.line)? > 0, "NATS closed the connection");
            match self.line.split(' ').next().unwrap_or_default().trim_end() {
                "INFO" | "+OK" | "PONG" => {}
                "PING" => self.stream.get_mut().write_all(b"PONG\r\n")?,
                // A message with headers counts them in its length, too.
                "MSG" | "HMSG" => {
                    let length =
                        self.line.trim_end().rsplit(' ').next().and_then(|length| length.parse().ok());
                    let length: usize = length.with_context(|| format!("NATS says {}", self.line))?;
                    self.payload.resize(length + 2, 0);
                    self.stream.read_exact(&mut self.payload)?;
                    return Ok(&self.payload[..length]);
                }
                _ => bail!("NATS says {}", self.line.trim_end()),
            }
        }
    }
}
