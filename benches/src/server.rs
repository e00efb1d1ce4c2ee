//! The server under test: the real program, on a free port, with its own store.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::process::Process;
use crate::wire::{Key, Reply};
use crate::workload::Workload;

/// Which store the server uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Memory,
}

pub(crate) struct Server {
    process: Process,
    pub(crate) address: SocketAddr,
    /// The directory of its files.
    pub(crate) directory: PathBuf,
    /// The one key that there is, if requests need one.
    pub(crate) key: Option<Key>,
}

impl Server {
    /// Starts `program` with the store in `directory`, if there is one, and waits until it is ready.
    pub(crate) fn start(program: &Path, store: Store, directory: &Path) -> anyhow::Result<Self> {
        let store = match store {
            Store::Sqlite => format!("sqlite:{}", directory.join("events.db").display()),
            Store::Memory => "memory:".to_owned(),
        };
        Self::start_with(program, &["--store", &store], directory)
    }

    /// As [`Self::start`] with a file, and with a key that every request needs.
    pub(crate) fn start_with_key(program: &Path, directory: &Path) -> anyhow::Result<Self> {
        let store = format!("sqlite:{}", directory.join("events.db").display());
        let mut command = Command::new(program);
        command.args([
            "key",
            "new",
            "--name",
            "bench",
            "--scope",
            "publish:*",
            "--scope",
            "metrics",
            "--store",
            &store,
        ]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let key = Key::parse(&String::from_utf8(output.stdout)?)?;
        Ok(Self { key: Some(key), ..Self::start(program, Store::Sqlite, directory)? })
    }

    /// As [`Self::start`], with these options instead of one for the store.
    pub(crate) fn start_with(program: &Path, options: &[&str], directory: &Path) -> anyhow::Result<Self> {
        let log_path = directory.with_extension("log");
        let log = File::create(&log_path).with_context(|| format!("{}", log_path.display()))?;
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--log", "warn"]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // Options in the caller's environment would be measured instead of the defaults.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AGGREGATOR_"))
        {
            command.env_remove(name);
        }
        let mut process = Process::start("aggregator-server", &mut command)?;
        let stdout = process.child().stdout.take().context("the server's output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.split(',').next())
            .and_then(|address| address.parse().ok())
            .with_context(|| {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                format!("the server did not start: {line}{log}")
            })?;
        process.await_ready(|| get(address, "/readyz").is_ok_and(|reply| reply.status() == 200))?;
        Ok(Self { process, address, directory: directory.to_owned(), key: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(self) {
        self.process.kill();
    }

    /// Compares the server's totals with those that the workload expects for its first `deliveries`.
    pub(crate) fn check_stats(&self, workload: &Workload, deliveries: u64) -> anyhow::Result<()> {
        let stats = self.stats()?;
        let stored = workload.identities(deliveries);
        let expected = Stats {
            received: deliveries,
            unique_processed: stored,
            duplicate_dropped: deliveries - stored,
            conflicts: 0,
            rejected: 0,
        };
        ensure!(stats == expected, "/stats says {stats:?}, but {expected:?} is right");
        Ok(())
    }

    /// Compares the number of deliveries that the server says it has decided.
    pub(crate) fn check_received(&self, deliveries: u64) -> anyhow::Result<()> {
        let stats = self.stats()?;
        ensure!(stats.received == deliveries, "/stats says {stats:?}, but {deliveries} were acknowledged");
        Ok(())
    }

    fn stats(&self) -> anyhow::Result<Stats> {
        let mut stream = TcpStream::connect(self.address)?;
        let header = self.key.map(Key::header).unwrap_or_default();
        stream.write_all(format!("GET /stats HTTP/1.1\r\nhost: localhost\r\n{header}\r\n").as_bytes())?;
        let mut reply = Reply::default();
        reply.read_from(&mut stream)?;
        serde_json::from_slice(reply.body()).context("/stats")
    }
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Stats {
    received: u64,
    unique_processed: u64,
    duplicate_dropped: u64,
    conflicts: u64,
    rejected: u64,
}

/// One GET on a new connection.
pub(crate) fn get(address: SocketAddr, path: &str) -> anyhow::Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    let mut reply = Reply::default();
    get_on(&mut stream, path, &mut reply)?;
    Ok(reply)
}

/// One GET on a connection that is kept.
pub(crate) fn get_on(stream: &mut TcpStream, path: &str, reply: &mut Reply) -> anyhow::Result<()> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
    reply.read_from(stream)
}

/// The bytes of a POST request with a body of JSON.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head + body).into_bytes()
}
