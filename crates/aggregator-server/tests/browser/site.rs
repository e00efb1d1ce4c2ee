//! A server with two proxies before it. Every program ends with the test, however it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use serde_json::json;
use tempfile::TempDir;

#[path = "../shared/signal.rs"]
pub(crate) mod signal;

/// One of those that the loop of docs/consuming.md follows.
pub(crate) const TOPIC: &str = "orders.created";

/// What the test needs beside the server.
pub(crate) struct Programs {
    pub(crate) chromedriver: PathBuf,
    haproxy: PathBuf,
    nginx: PathBuf,
}

/// The programs; if one is missing, that is said.
pub(crate) fn programs() -> Option<Programs> {
    let find = |name: &str| {
        let directories = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        let found =
            directories.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
        if found.is_none() {
            test_skip::skip(&format!("no {name} is installed"), "AGGREGATOR_REQUIRE_BROWSER");
        }
        found
    };
    find("chromium")?;
    Some(Programs { chromedriver: find("chromedriver")?, haproxy: find("haproxy")?, nginx: find("nginx")? })
}

/// Killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command of a program that is killed when the thread that starts it ends.
pub(crate) fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts it, and waits for the line with this in it.
pub(crate) fn first_line_with(mut command: Command, text: &str) -> (Running, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains(text));
    let line = line.unwrap_or_else(|| panic!("{command:?} ended without a line with {text:?}"));
    // Whatever follows is read, so that the program is not stuck.
    std::thread::spawn(move || lines.for_each(drop));
    (Running(child), line)
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Proxy {
    HaProxy,
    Nginx,
}

pub(crate) struct Site {
    directory: TempDir,
    address: SocketAddr,
    haproxy: SocketAddr,
    nginx: SocketAddr,
    server: Option<Running>,
    client: Client,
    _proxies: [Running; 2],
}

impl Site {
    pub(crate) async fn start(programs: &Programs) -> Self {
        let directory = TempDir::new().unwrap();
        let [address, haproxy, nginx] = [1, 2, 3].map(free_address);
        let proxies = [
            start_haproxy(&programs.haproxy, directory.path(), haproxy, address),
            start_nginx(&programs.nginx, directory.path(), nginx, address),
        ];
        let client = crate::http_client::builder().build().unwrap();
        let mut site = Self { directory, address, haproxy, nginx, server: None, client, _proxies: proxies };
        site.start_again(&[]).await;
        for proxy in [Proxy::HaProxy, Proxy::Nginx] {
            site.await_answer(&format!("{}/readyz", site.url(proxy))).await;
        }
        site
    }

    pub(crate) fn url(&self, proxy: Proxy) -> String {
        match proxy {
            Proxy::HaProxy => format!("http://{}", self.haproxy),
            Proxy::Nginx => format!("http://{}", self.nginx),
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.directory.path().join("events.db")
    }

    pub(crate) async fn start_again(&mut self, options: &[&str]) {
        let mut command = tied(Path::new(env!("CARGO_BIN_EXE_aggregator-server")));
        command.args(["--listen", &self.address.to_string(), "--heartbeat", "1s"]);
        command.args(["--store", &format!("sqlite:{}", self.store().display())]).args(options);
        self.server = Some(first_line_with(command, "listening on").0);
        self.await_answer(&format!("http://{}/readyz", self.address)).await;
    }

    async fn await_answer(&self, url: &str) {
        for _ in 0..600 {
            if self.client.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{url} does not answer");
    }

    pub(crate) async fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        signal::send("-TERM", &server.0);
        let status = tokio::task::spawn_blocking(move || server.0.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) async fn restart_in_order(&mut self) {
        self.stop().await;
        self.start_again(&[]).await;
    }

    /// `kill -9`.
    #[expect(clippy::unused_async, reason = "as the other ways to end it")]
    pub(crate) async fn kill(&mut self) {
        drop(self.server.take().unwrap());
    }

    pub(crate) async fn publish(&self, ids: std::ops::Range<u32>) {
        let events: Vec<_> = ids.map(|id| json!({"topic": TOPIC, "event_id": id.to_string()})).collect();
        let publish = self.client.post(format!("http://{}/publish", self.address)).json(&events);
        assert_eq!(publish.send().await.unwrap().status(), 202);
    }

    /// Takes the one place of a server that has one.
    pub(crate) async fn occupy_a_tail(&self) -> reqwest::Response {
        for _ in 0..600 {
            // The browsers try as well.
            let stream =
                self.client.get(format!("http://{}/events/stream", self.address)).send().await.unwrap();
            if stream.status() == 200 {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no place is free");
    }
}

/// An address of this test alone, from which no outgoing connection comes: its port stays free.
pub(crate) fn free_address(number: u8) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 110 + number, high, low), 0)).unwrap().local_addr().unwrap()
}

fn start_haproxy(program: &Path, directory: &Path, listen: SocketAddr, server: SocketAddr) -> Running {
    let config = directory.join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n\
         listen aggregator\n  bind {listen}\n  server node {server}\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = tied(program);
    command.args(["-db", "-f"]).arg(config);
    Running(command.stdout(Stdio::null()).spawn().unwrap())
}

/// With its defaults, which buffer what a server answers.
fn start_nginx(program: &Path, directory: &Path, listen: SocketAddr, server: SocketAddr) -> Running {
    let config = directory.join("nginx.conf");
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};", directory.display()))
        .join("\n");
    let text = format!(
        "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n\
         events {{}}\nhttp {{\naccess_log off;\n{places}\n\
         server {{\nlisten {listen};\nlocation / {{ proxy_pass http://{server}; proxy_http_version 1.1; }}\n}}\n}}\n",
        directory = directory.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = tied(program);
    command.arg("-p").arg(directory).arg("-c").arg(&config);
    Running(command.stdout(Stdio::null()).spawn().unwrap())
}
