//! The programs a cluster is made of: each a process that ends with this one, however this one ends.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::{PATIENCE, publisher_sim, signal};

/// The command of a program that is killed when the thread that starts it ends.
fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

fn log(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

/// Killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A place for a node, which keeps its address from one process to the next.
pub(crate) struct Node {
    address: SocketAddr,
    store: String,
    log: PathBuf,
    running: Option<Running>,
}

impl Node {
    /// The address is of this test alone, and no outgoing connection comes from it: its port stays free.
    pub(crate) fn new(number: u8, store: &str, directory: &Path) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let listener = TcpListener::bind((Ipv4Addr::new(127, 100 + number, high, low), 0)).unwrap();
        let log = directory.join(format!("node-{number}.log"));
        Self { address: listener.local_addr().unwrap(), store: store.to_owned(), log, running: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(&mut self) {
        let mut command = tied(Path::new(env!("CARGO_BIN_EXE_aggregator-server")));
        command.args(["--listen", &self.address.to_string(), "--store", &self.store, "--log", "warn"]);
        let mut child = command.stdout(Stdio::piped()).stderr(log(&self.log)).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        self.running = Some(Running(child));
        let (said, line) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
        let line = line.recv_timeout(PATIENCE).unwrap_or_default();
        assert!(line.starts_with("listening on"), "a node does not start: {line} {}", self.last_words());
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let Running(child) = &mut self.running.as_mut().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "a node ended by itself: {}", self.last_words());
        drop(self.running.take());
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let mut running = self.running.take().unwrap();
        signal::send("-TERM", &running.0);
        running.0.wait().unwrap()
    }

    /// The newest lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

/// HAProxy, with the configuration that is shipped, but for the environment's part in it.
pub(crate) struct Balancer {
    address: SocketAddr,
    _running: Running,
}

impl Balancer {
    /// Where HAProxy is; if it is not, that is said, and fails if `AGGREGATOR_REQUIRE_HAPROXY` is 1.
    pub(crate) fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Where Debian has it, which is on the path of root alone.
        let places = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin"].map(Into::into));
        let found = places.map(|place| place.join("haproxy")).find(|program| program.exists());
        if found.is_none() {
            test_skip::skip("no HAProxy is installed", "AGGREGATOR_REQUIRE_HAPROXY");
        }
        found
    }

    pub(crate) fn start(
        program: &Path,
        nodes: &[Node; 3],
        directory: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/haproxy.cfg");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut command = tied(program);
        command.args(["-db", "-f", CONFIGURATION]);
        for name in ["PUBLISH_BALANCE", "PUBLISH_MAXCONN"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        for (number, node) in (1..).zip(nodes) {
            command.env(format!("NODE_{number}"), node.address().to_string());
        }
        // It is given its listener and not a port, which could be taken by then.
        command.env("BALANCER_BIND", "fd@0").stdin(OwnedFd::from(listener)).env("CHECK_INTERVAL", "100ms");
        let log = log(&directory.join("balancer.log"));
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { address, _running: Running(child) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A run of `publisher-sim`.
pub(crate) struct Publisher {
    running: Running,
    /// When it is killed if it has not come to its end.
    until: Instant,
}

impl Publisher {
    pub(crate) fn start(url: &str, options: &str) -> Self {
        let mut command = tied(publisher_sim::program());
        command.args(["--url", url, "--json", "--verify"]).args(options.split_whitespace());
        let running = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        Self { running, until: Instant::now() + PATIENCE }
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.running.0.try_wait().unwrap().is_some()
    }

    /// Waits for its end, and kills it if it does not come. What it says fits into the pipes.
    pub(crate) fn finish(mut self) -> Output {
        while !self.is_over() && Instant::now() < self.until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let Running(child) = &mut self.running;
        // Without effect on one that has ended.
        let _ = child.kill();
        let status = child.wait().unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status, stdout, stderr }
    }
}
