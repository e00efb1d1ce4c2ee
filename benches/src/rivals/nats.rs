//! NATS JetStream, deduplicating by message id and by subject.
//!
//! The protocol is lines of text, and is implemented here. async-nats brings an async runtime, TLS and a task per
//! acknowledgement, which would take processor time from the server under test.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::drive::{Client, Events, drive};
use super::programs::{find, free_port};
use super::{Measured, Tried};
use crate::measures::Scratch;
use crate::options::Options;
use crate::process::{Memory, Process, disk_bytes};
use crate::workload::{Row, Workload};

pub(super) const MSG_ID: &str = "NATS JetStream, Nats-Msg-Id";
pub(super) const MSG_ID_HOW: &str = "4 connections, 500 messages under way on each, file storage, one replica; \
    a duplicate window of one hour, which is kept in memory: a repeat after that is stored again";
pub(super) const SUBJECTS: &str = "NATS JetStream, one subject per id";
pub(super) const SUBJECTS_HOW: &str = "4 connections, 500 messages under way on each, file storage, one replica; \
    `Nats-Expected-Last-Subject-Sequence: 0` refuses repeats without a window";
pub(super) const SYNCED: &str = "NATS JetStream, Nats-Msg-Id, sync_interval: always";
pub(super) const SYNCED_HOW: &str = "as with Nats-Msg-Id above, and `sync_interval: always`: the line to compare at equal \
    durability";
pub(super) const SYNCED_DURABILITY: &str = "fsynced";
pub(super) const DURABILITY: &str = "written to the operating system, fsynced every two minutes";

const IN_FLIGHT: u64 = 500;
const CONNECTIONS: usize = 4;

pub(super) fn msg_id(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    measure(options, workload, Key::MessageId, Sync::Default)
}

pub(super) fn subjects(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    measure(options, workload, Key::Subject, Sync::Default)
}

pub(super) fn synced(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    measure(options, workload, Key::MessageId, Sync::Always)
}

/// By what NATS recognizes a repeat.
#[derive(Clone, Copy)]
enum Key {
    MessageId,
    Subject,
}

/// When NATS calls fsync.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// Every two minutes.
    Default,
    /// Before it acknowledges.
    Always,
}

fn measure(options: &Options, workload: &Workload, key: Key, sync: Sync) -> anyhow::Result<Tried> {
    let Some(program) = find("nats-server") else {
        return Ok(Tried::NotInstalled("apt-get install nats-server"));
    };
    let directory = Scratch::new(options, "nats")?;
    let port = free_port()?;
    let config = directory.path().with_extension("conf");
    fs::write(&config, configuration(&directory.path().display().to_string(), sync))?;
    // Older versions do not know this setting, and refuse to start.
    if sync == Sync::Always && !accepts(&program, &config)? {
        return Ok(Tried::NotInstalled("nats-server 2.10 or newer, which knows sync_interval"));
    }
    let mut process = Process::start("nats-server", &mut command(&program, &config, port))?;
    process.await_ready(|| TcpStream::connect(("127.0.0.1", port)).is_ok())?;
    Nats::connect(port, key)?.create_stream()?;
    let mut clients =
        (0..CONNECTIONS).map(|_| Nats::connect(port, key)).collect::<anyhow::Result<Vec<_>>>()?;
    let driven = drive(options, workload, IN_FLIGHT, &mut clients)?;
    let resident_bytes = Memory::of(process.id())?.resident;
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

fn configuration(directory: &str, sync: Sync) -> String {
    let sync = if sync == Sync::Always { "sync_interval: always" } else { "" };
    format!("jetstream {{\n  store_dir: {directory:?}\n  {sync}\n}}\n")
}

/// Whether the server knows all settings of the file.
fn accepts(program: &Path, config: &Path) -> anyhow::Result<bool> {
    Ok(Command::new(program).arg("-t").arg("-c").arg(config).output()?.status.success())
}

fn command(program: &Path, config: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "-c"]).arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Nats {
    stream: BufReader<TcpStream>,
    key: Key,
    out: Vec<u8>,
    line: String,
    payload: Vec<u8>,
}

/// JetStream's answer to a message.
#[derive(Debug, Deserialize)]
struct Ack {
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    err_code: u32,
    description: String,
}

/// The error code for a last sequence that is not the expected one.
const WRONG_LAST_SEQUENCE: u32 = 10_071;

const INBOX: &str = "_INBOX.bench";

impl Nats {
    fn connect(port: u16, key: Key) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting to NATS")?;
        stream.set_nodelay(true)?;
        let mut nats = Self {
            stream: BufReader::with_capacity(64 << 10, stream),
            key,
            out: Vec::new(),
            line: String::new(),
            payload: Vec::new(),
        };
        // Each connection listens to its own inbox, which is named after its local port.
        let own = nats.stream.get_ref().local_addr()?.port();
        write!(
            nats.out,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB {INBOX}.{own} 1\r\n"
        )?;
        nats.flush()?;
        Ok(nats)
    }

    fn create_stream(&mut self) -> anyhow::Result<()> {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let config = match self.key {
            Key::MessageId => format!(r#""subjects":["bench.>"],"duplicate_window":{HOUR_NS}"#),
            Key::Subject => r#""subjects":["bench.>"]"#.to_owned(),
        };
        let config = format!(r#"{{"name":"bench","storage":"file","num_replicas":1,{config}}}"#);
        let own = self.stream.get_ref().local_addr()?.port();
        let length = config.len();
        write!(self.out, "PUB $JS.API.STREAM.CREATE.bench {INBOX}.{own} {length}\r\n{config}\r\n")?;
        self.flush()?;
        let created = self.message()?;
        ensure!(created.error.is_none(), "the stream cannot be created: {created:?}");
        Ok(())
    }

    fn publish(&mut self, own: u16, row: Row<'_>, event: &[u8]) -> anyhow::Result<()> {
        let (topic, id) = (row.topic, row.event_id);
        let (subject, header) = match self.key {
            Key::MessageId => (topic.to_owned(), format!("Nats-Msg-Id: {topic}/{id}")),
            Key::Subject => (format!("{topic}.{id}"), "Nats-Expected-Last-Subject-Sequence: 0".to_owned()),
        };
        let head = format!("NATS/1.0\r\n{header}\r\n\r\n");
        let (head_length, length) = (head.len(), head.len() + event.len());
        write!(self.out, "HPUB {subject} {INBOX}.{own} {head_length} {length}\r\n{head}")?;
        self.out.extend_from_slice(event);
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads the next message. Answers pings in between.
    fn message(&mut self) -> anyhow::Result<Ack> {
        loop {
            self.line.clear();
            ensure!(self.stream.read_line(&mut self.line)? > 0, "NATS closed the connection");
            match self.line.split(' ').next().unwrap_or_default().trim_end() {
                "INFO" | "+OK" | "PONG" => {}
                "PING" => self.stream.get_mut().write_all(b"PONG\r\n")?,
                "MSG" => {
                    let length =
                        self.line.trim_end().rsplit(' ').next().and_then(|length| length.parse().ok());
                    let length: usize = length.with_context(|| format!("NATS says {}", self.line))?;
                    self.payload.resize(length + 2, 0);
                    self.stream.read_exact(&mut self.payload)?;
                    return Ok(serde_json::from_slice(&self.payload[..length])?);
                }
                _ => bail!("NATS says {}", self.line.trim_end()),
            }
        }
    }
}

impl Client for Nats {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        let own = self.stream.get_ref().local_addr()?.port();
        for (row, event) in events.rows().zip(events.json()) {
            self.publish(own, row, event)?;
        }
        self.flush()?;
        let mut stored = 0;
        for _ in 0..events.json().count() {
            match self.message()? {
                Ack { error: None, duplicate } => stored += u64::from(!duplicate),
                Ack { error: Some(Refusal { err_code: WRONG_LAST_SEQUENCE, .. }), .. } => {}
                Ack { error: Some(refusal), .. } => bail!("NATS refuses a message: {}", refusal.description),
            }
        }
        Ok(stored)
    }
}
