//! HAProxy in front of the nodes, with the configuration that is shipped.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::process::Process;
use crate::server::get;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/haproxy.cfg");

pub(super) struct Balancer {
    pub(super) address: SocketAddr,
    _process: Process,
}

impl Balancer {
    pub(super) fn is_installed() -> bool {
        Self::program().is_some()
    }

    /// The path of HAProxy.
    fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian installs it to /usr/sbin, which only root has on its path.
        let places = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin"].map(Into::into));
        places.map(|place| place.join("haproxy")).find(|program| program.exists())
    }

    /// Starts HAProxy in front of up to three nodes.
    pub(super) fn start(nodes: &[SocketAddr]) -> anyhow::Result<Self> {
        let program = Self::program().context("HAProxy is not installed")?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut command = Command::new(program);
        command.args(["-db", "-f", CONFIGURATION]).stdout(Stdio::null()).stderr(Stdio::null());
        // Settings in the caller's environment would be measured instead of the shipped defaults.
        for name in ["PUBLISH_BALANCE", "PUBLISH_MAXCONN", "CHECK_INTERVAL"] {
            command.env_remove(name);
        }
        // HAProxy gets a listener, because the port could be taken before it starts.
        command.env("BALANCER_BIND", "fd@0").stdin(OwnedFd::from(listener));
        for place in 0..3 {
            // Nobody listens at the port of a missing node.
            let node = nodes.get(place).map_or("127.0.0.1:1".to_owned(), SocketAddr::to_string);
            command.env(format!("NODE_{}", place + 1), node);
        }
        let mut process = Process::start("haproxy", &mut command)?;
        process.await_ready(|| get(address, "/readyz").is_ok_and(|reply| reply.status() == 200))?;
        Ok(Self { address, _process: process })
    }
}
