//! Three nodes over one PostgreSQL, behind one HAProxy.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aggregator_postgres::test_server::TestServer;
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::PATIENCE;
use crate::parts::{Balancer, Node};
use crate::round::Round;

/// Dropped in this order.
pub(crate) struct Site {
    balancer: Balancer,
    pub(crate) nodes: [Node; 3],
    postgres: TestServer,
    directory: TempDir,
    pub(crate) runtime: Runtime,
    client: Client,
}

/// What a node says of the store, and of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Stats {
    pub(crate) received: u64,
    pub(crate) unique_processed: u64,
    pub(crate) duplicate_dropped: u64,
    pub(crate) conflicts: u64,
    pub(crate) topics_total: u64,
    pub(crate) node: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Share {
    pub(crate) received: u64,
    pub(crate) stored: u64,
}

/// As which a node is known to the database.
fn role(number: u8) -> String {
    format!("node_{number}")
}

impl Site {
    /// With a number for each node that no other site has. The environment is the balancer's. `None` where PostgreSQL
    /// or HAProxy is not installed.
    pub(crate) fn start(numbers: [u8; 3], environment: &[(&str, &str)]) -> Option<Self> {
        let haproxy = Balancer::program()?;
        let postgres = TestServer::start_or_external()?;
        let directory = TempDir::new().unwrap();
        let mut nodes = numbers.map(|number| {
            let role = role(number);
            postgres.sql(&format!("DROP ROLE IF EXISTS {role}"));
            postgres.sql(&format!("CREATE ROLE {role} LOGIN SUPERUSER"));
            Node::new(number, &postgres.url_of(&role), directory.path())
        });
        nodes.iter_mut().for_each(Node::start);
        let balancer = Balancer::start(&haproxy, &nodes, directory.path(), environment);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client =
            crate::http_client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let site = Self { balancer, nodes, postgres, directory, runtime, client };
        site.await_that("the balancer has a node", || site.stats(&site.url()).is_some());
        Some(site)
    }

    pub(crate) fn url(&self) -> String {
        self.balancer.url()
    }

    /// Publishes an event through the balancer.
    pub(crate) fn post(&self, path: &str, id: u64) -> Response {
        let event = json!({"topic": "t", "event_id": id.to_string(), "timestamp": "2026-01-01T00:00:00Z", "source": "s",
            "payload": {}});
        let request = self.client.post(format!("{}{path}", self.url())).json(&event);
        self.runtime.block_on(async { request.send().await.unwrap() })
    }

    /// What the server there says, or `None` if it cannot now.
    pub(crate) fn stats(&self, url: &str) -> Option<Stats> {
        self.runtime.block_on(async {
            let answer = self.client.get(format!("{url}/stats")).send().await.ok()?;
            answer.error_for_status().ok()?.json().await.ok()
        })
    }

    /// The node with this number has lost the database, and others have not.
    pub(crate) fn cut_off(&self, number: u8) {
        let role = role(number);
        self.postgres.sql(&format!("ALTER ROLE {role} NOLOGIN"));
        let end =
            format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'");
        assert_ne!(self.postgres.sql(&end), "0");
    }

    /// What each node has taken of what was published; nothing, of one that cannot say.
    pub(crate) fn shares(&self) -> [u64; 3] {
        self.nodes.each_ref().map(|node| {
            let stats = self.stats(&format!("http://{}", node.address()));
            stats.map_or(0, |stats| stats.node.received)
        })
    }

    /// What each node says, which all are there.
    pub(crate) fn stats_of_all(&self) -> [Stats; 3] {
        self.nodes.each_ref().map(|node| {
            let url = format!("http://{}", node.address());
            self.await_that("a node gives its statistics", || self.stats(&url).is_some());
            self.stats(&url).unwrap()
        })
    }

    /// Everything of the round goes down, and comes back.
    pub(crate) fn suffer(&mut self, round: &Round) {
        for &node in &round.nodes {
            self.nodes[node].kill();
        }
        if round.database {
            // What `pg_ctl restart -m immediate` does.
            self.postgres.restart();
        }
        for &node in &round.nodes {
            self.nodes[node].start();
        }
    }

    /// Ends all nodes in order, and has the store held against itself.
    pub(crate) fn end(&mut self) -> Output {
        for node in &mut self.nodes {
            let status = node.terminate();
            assert!(status.success(), "it ends in order when it is asked to: {status}");
        }
        let mut check = Command::new(env!("CARGO_BIN_EXE_aggregator-server"));
        check.args(["check", "--store", &self.postgres.url()]).output().unwrap()
    }

    pub(crate) fn await_that(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < until, "waited in vain: {what}; the nodes say {}", self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn last_words(&self) -> String {
        let balancer = std::fs::read_to_string(self.directory.path().join("balancer.log"));
        let nodes = self.nodes.each_ref().map(Node::last_words).join("\n");
        format!("{nodes}\n{}", balancer.unwrap_or_default())
    }
}
