//! The real program, again and again on one file and one port.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use aggregator_core::{DedupStore, fail_point};
use aggregator_server::{Config, open_store};
use tempfile::TempDir;

use crate::{PATIENCE, signal};

/// Where the servers of one proof run, one after the other.
pub(crate) struct Site {
    directory: TempDir,
    address: String,
    environment: &'static [(&'static str, &'static str)],
    /// How many files the store has.
    shards: u16,
}

/// A server. Killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    /// What it prints, and its end.
    lines: Receiver<String>,
}

impl Site {
    pub(crate) fn new(environment: &'static [(&'static str, &'static str)]) -> Self {
        // Free now. It may be taken for a moment later on, see `start`.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { directory: TempDir::new().unwrap(), address, environment, shards: 1 }
    }

    /// With a store of several files.
    pub(crate) fn of_shards(shards: u16) -> Self {
        Self { shards, ..Self::new(&[]) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The value of `--store`.
    pub(crate) fn location(&self) -> String {
        let directory = self.directory.path();
        match self.shards {
            1 => format!("sqlite:{}", directory.join("events.db").display()),
            shards => format!("sqlite:{}?shards={shards}", directory.join("store").display()),
        }
    }

    /// The store itself, which no server has open.
    pub(crate) fn open(&self) -> Arc<dyn DedupStore> {
        let store = self.location().parse().unwrap();
        open_store::open(&Config { store, ..Config::default() }).unwrap()
    }

    /// Leaves the files where they are, for somebody to look at.
    pub(crate) fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    /// Starts a server, and waits until it listens.
    pub(crate) fn start(&self, fail_point: Option<&str>) -> Server {
        let began = Instant::now();
        loop {
            let mut server = self.launch(fail_point);
            match server.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("listening on") => return server,
                Ok(line) => panic!("the server says {line}"),
                Err(RecvTimeoutError::Timeout) => panic!("the server does not listen: {}", self.last_words()),
                Err(RecvTimeoutError::Disconnected) => {}
            }
            // The port comes from the range of outgoing connections, so a publisher's own attempt to reach
            // the dead server can hold it for a moment.
            let (status, words) = (server.ended(), self.last_words());
            assert!(words.contains("in use"), "the server does not start, {status}: {words}");
            assert!(began.elapsed() < PATIENCE, "the port does not become free");
        }
    }

    /// Starts a server, and waits for nothing.
    pub(crate) fn launch(&self, fail_point: Option<&str>) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator-server"));
        command.args(["--listen", &self.address, "--log", "error"]);
        command.arg("--store").arg(self.location());
        command.envs(self.environment.iter().copied());
        command.envs(fail_point.map(|point| (fail_point::VARIABLE, point)));
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        // Ends with the process, which drops the channel: its end can be waited for with a bound.
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
        Server { child, lines }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().last().unwrap_or("(nothing)").to_owned()
    }
}

impl Server {
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.ended()
    }

    pub(crate) fn terminate(&self) {
        signal::send("-TERM", &self.child);
    }

    /// Waits until the process has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        match self.lines.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => self.child.wait().unwrap(),
            Err(RecvTimeoutError::Timeout) => panic!("the server does not end"),
            Ok(line) if line.starts_with("listening on") => self.ended(),
            Ok(line) => panic!("the server says {line}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nearly always ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
