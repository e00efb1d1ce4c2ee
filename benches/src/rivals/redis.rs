//! Redis: a key for each identity, and a stream.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use redis::{Connection, cmd, pipe};

use super::drive::{Client, Events, drive};
use super::programs::{find, socket_directory};
use super::{Measured, Tried};
use crate::measures::Scratch;
use crate::options::Options;
use crate::process::{Memory, Process, disk_bytes};
use crate::workload::Workload;

pub(super) const NAME: &str = "Redis, SET NX and XADD";
pub(super) const HOW: &str = "Unix socket, 4 connections, batches of 500: their SET NX in one pipeline, then the XADD of \
    those that were new in another; appendonly, appendfsync always, no snapshots and \
    no rewriting of the log (auto-aof-rewrite-percentage 0). A crash between the two pipelines \
    leaves ids that are marked as seen and were never stored";
pub(super) const DURABILITY: &str = "fsynced, but identity and event apart";

const BATCH: u64 = 500;
const CONNECTIONS: usize = 4;

pub(super) fn measure(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    let Some(program) = find("redis-server") else {
        return Ok(Tried::NotInstalled("apt-get install redis-server"));
    };
    let directory = Scratch::new(options, "redis")?;
    let sockets = socket_directory(options)?;
    let socket = sockets.path().join("redis.sock");
    // SIGTERM shuts it down in order. If it were killed, it could leave a child behind.
    let mut process =
        Process::start("redis-server", &mut command(&program, directory.path(), &socket))?.stopped_by("TERM");
    let client = redis::Client::open(format!("redis+unix://{}", socket.display()))?;
    process.await_ready(|| client.get_connection().is_ok())?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Redis(client.get_connection().context("connecting to Redis")?));
    }
    let driven = drive(options, workload, BATCH, &mut clients)?;
    let resident_bytes = Memory::of(process.id())?.resident;
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

fn command(program: &Path, directory: &Path, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    command.args(["--auto-aof-rewrite-percentage", "0"]);
    command.arg("--dir").arg(directory).arg("--unixsocket").arg(socket);
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

struct Redis(Connection);

impl Client for Redis {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        let mut marks = pipe();
        for row in events.rows() {
            marks.add_command(
                cmd("SET").arg(format!("{}/{}", row.topic, row.event_id)).arg(1).arg("NX").take(),
            );
        }
        let new: Vec<Option<String>> = marks.query(&mut self.0).context("SET NX")?;
        let mut adds = pipe();
        for (row, _) in events.rows().zip(&new).filter(|(_, new)| new.is_some()) {
            let fields = [
                ("event_id", row.event_id),
                ("timestamp", row.timestamp),
                ("source", row.source),
                ("payload", row.payload),
            ];
            adds.xadd(row.topic, "*", &fields);
        }
        let added: Vec<String> = adds.query(&mut self.0).context("XADD")?;
        Ok(added.len() as u64)
    }
}
