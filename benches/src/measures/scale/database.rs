//! A private PostgreSQL server with a new database for each run, and what a run costs there.

use std::fs;

use aggregator_postgres::test_server::TestServer;
use anyhow::Context as _;
use serde::Serialize;

use crate::process::cpu_seconds_with_children;

/// The settings that differ from those of `initdb`. None gives up durability: `fsync`, `synchronous_commit` and
/// `full_page_writes` stay on.
pub(super) const SETTINGS: [&str; 4] =
    ["shared_buffers=512MB", "max_wal_size=4GB", "autovacuum_naptime=1min", "max_connections=200"];

pub(super) struct Cluster {
    server: TestServer,
    postmaster: u32,
}

/// What the server has spent so far.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    wal_bytes: f64,
    /// Transactions that write.
    transactions: f64,
    cpu_seconds: f64,
}

/// What a run costs the database per delivery, and the size of its events per identity.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) wal_bytes: f64,
    pub(crate) database_us: f64,
    /// Deliveries per transaction, where notifications count as transactions too.
    pub(crate) group: f64,
    pub(crate) table_bytes: f64,
    pub(crate) index_bytes: f64,
}

impl Cluster {
    /// `None` if PostgreSQL is not installed.
    pub(super) fn start() -> anyhow::Result<Option<Self>> {
        let Some(server) = TestServer::start(&SETTINGS) else { return Ok(None) };
        let pid = fs::read_to_string(server.directory().join("data/postmaster.pid"))?;
        let postmaster = pid.lines().next().and_then(|pid| pid.parse().ok()).context("PostgreSQL's pid")?;
        Ok(Some(Self { server, postmaster }))
    }

    pub(super) fn version(&self) -> String {
        self.server.sql("SHOW server_version")
    }

    /// Replaces the last run's database by an empty one, makes a checkpoint, and returns the URL.
    pub(super) fn create(&self) -> String {
        self.server.sql("DROP DATABASE IF EXISTS run WITH (FORCE)");
        self.server.sql("CREATE DATABASE run");
        self.server.sql("CHECKPOINT");
        self.server.url().replace("/postgres", "/run")
    }

    pub(super) fn spent(&self) -> anyhow::Result<Spent> {
        let spent = self
            .server
            .sql("SELECT pg_current_wal_insert_lsn() - '0/0', pg_snapshot_xmax(pg_current_snapshot())");
        let (wal_bytes, transactions) = spent.split_once('|').context("two columns")?;
        let (wal_bytes, transactions) = (wal_bytes.parse()?, transactions.parse()?);
        Ok(Spent { wal_bytes, transactions, cpu_seconds: cpu_seconds_with_children(self.postmaster)? })
    }

    #[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
    pub(super) fn cost(
        &self,
        before: Spent,
        after: Spent,
        deliveries: u64,
        identities: u64,
    ) -> anyhow::Result<Cost> {
        let [table, indexes] = ["pg_table_size", "pg_indexes_size"].map(|size| {
            self.in_run(&format!("SELECT {size}('aggregator.events')")).and_then(|n| Ok(n.parse::<f64>()?))
        });
        let (deliveries, identities) = (deliveries as f64, identities as f64);
        Ok(Cost {
            wal_bytes: (after.wal_bytes - before.wal_bytes) / deliveries,
            group: deliveries / (after.transactions - before.transactions),
            database_us: (after.cpu_seconds - before.cpu_seconds) * 1e6 / deliveries,
            table_bytes: table? / identities,
            index_bytes: indexes? / identities,
        })
    }

    /// The number of events, counted by the database.
    pub(super) fn count(&self) -> anyhow::Result<u64> {
        Ok(self.in_run("SELECT count(*) FROM aggregator.events")?.parse()?)
    }

    /// The answer to a query in the run's database.
    fn in_run(&self, sql: &str) -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = self.server.url().replace("/postgres", "/run");
        let messages = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            client.simple_query(sql).await
        })?;
        let value = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(value.context("no row")?.to_owned())
    }
}
