//! A publisher that delivers at least once, and proves what became of every event.
//!
//! It plans exact counts of originals and repeats from a seed ([`plan`], [`workload`]), sends them in
//! batches over several connections through `aggregator-client`, which retries them ([`sender`], [`retry`],
//! [`client`]), injects faults on its own side ([`faults`]), keeps every receipt ([`ledger`]), and in the end reads
//! everything back and compares it with them ([`verify`]).
//!
//! # What is exact
//!
//! - The plan: deliveries, repeats, and altered repeats, for every seed.
//! - The store afterwards: every identity once, if all deliveries were acknowledged.
//! - The receipts, if the identities are new to the server and no reply was lost: as many `stored` as
//!   identities, and everything else `duplicate` or `conflict`. Which delivery of an identity is the
//!   stored one depends on which connection is first.
//! - The conflicts, with one connection and none of `--reorder`, `--late` and `--bursts`. Otherwise an altered
//!   repeat may arrive before its original. Then the altered one is kept, and the others conflict.
//! - The publisher's own numbers that were never sent ([`sequences`]), if all deliveries were acknowledged. Those that
//!   arrived out of order, with one connection: more than one overtake each other on their way.
//!
//! A lost (or dropped) reply makes its retry say `duplicate` about an event that no receipt calls
//! `stored`. So `stored` in the receipts may be less than the number of identities although nothing is
//! wrong; only reading back can tell.

pub mod batch;
pub mod client;
pub mod config;
pub mod faults;
pub mod findings;
pub mod ids;
pub mod ledger;
pub mod output;
pub mod plan;
pub mod progress;
pub mod receipt;
pub mod report;
pub mod retry;
pub mod security;
pub mod seed;
pub mod sender;
pub mod sequences;
pub mod server_info;
pub mod settings;
pub mod stop;
pub mod tally;
pub mod timeline;
pub mod verify;
pub mod workload;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aggregator_client::{Backoff, BackoffError, BuildError};
use report_page::file::ReportFile;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::client::{Client, ProbeError};
use crate::config::Config;
use crate::faults::Faults;
use crate::plan::{NoOriginal, Plan};
use crate::progress::Progress;
use crate::report::{Facts, Report};
use crate::security::SecurityError;
use crate::seed::{Streams, random_seed};
use crate::sender::{Sending, Sent};
use crate::server_info::ServerInfo;
use crate::stop::Stop;
use crate::verify::{Follower, Reader, Verification, VerifyBy, last_seqs};
use crate::workload::Workload;

/// A run that can begin.
#[derive(Debug)]
pub struct Simulation {
    config: Config,
    seed: u64,
    streams: Streams,
    plan: Plan,
    workload: Arc<Workload>,
    faults: Faults,
    backoff: Backoff,
    client: Client,
    /// For the stream, which no client library may parse.
    streaming: reqwest::Client,
}

/// Why a run cannot begin.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The retry options contradict each other.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
    /// These counts are impossible.
    #[error(transparent)]
    Plan(#[from] NoOriginal),
    /// A file of keys or certificates cannot be read.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// The page of the report cannot be written.
    #[error("--report {path}: {source}", path = path.display())]
    Report {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no server.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl Simulation {
    /// Checks the options against each other, and draws a seed if none is given.
    ///
    /// # Errors
    /// When options contradict each other.
    pub fn new(config: Config) -> Result<Self, SetupError> {
        let seed = config.seed.unwrap_or_else(random_seed);
        let streams = Streams::new(seed, config.payload_bytes);
        let faults = Faults::new(&config.faults);
        let plan = Plan::new(config.events, config.dup, faults.conflicts)?;
        let Config { topic_prefix, topics, ids, payload_bytes, .. } = &config;
        let mut workload = Workload::new(streams.clone(), topic_prefix, *topics, *ids, *payload_bytes);
        if config.sequences || faults.need_sequences() {
            workload = workload.numbered(plan.unique(), faults.drop);
        }
        let backoff = config.retry.backoff()?;
        let builder = client::builder(&config)?;
        let streaming = builder.http_client()?;
        let client = Client::new(config.url.clone(), builder)?;
        Ok(Self {
            seed,
            streams,
            plan,
            workload: Arc::new(workload),
            faults,
            backoff,
            client,
            streaming,
            config,
        })
    }

    /// The file of the report, if there is to be one. It is looked at before the run, which nobody wants to repeat for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn claim_report(&self) -> Result<Option<ReportFile>, SetupError> {
        let Some(path) = &self.config.report else { return Ok(None) };
        let unwritable = |source| SetupError::Report { path: path.clone(), source };
        ReportFile::claim(path).map(Some).map_err(unwritable)
    }

    /// Looks whether the server is there. A missing server ends the run only here; later it is retried.
    ///
    /// # Errors
    /// When the server is missing.
    pub async fn probe(&self) -> Result<(), SetupError> {
        Ok(self.client.probe().await?)
    }

    /// The seed, given or drawn.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sends everything, reads it back where asked, and reports.
    pub async fn run(&self, stop: &Stop) -> Report {
        let progress = Progress::new();
        let began = OffsetDateTime::now_utc();
        let about_server = self.about_server().await;
        let stats_before = self.client.stats().await;
        let (sent, verification) = match (self.config.verify_by, self.config.verify) {
            (VerifyBy::Stream, _) => self.send_and_follow(stop, &progress).await,
            (VerifyBy::Pages, true) => self.send_and_read(stop, &progress).await,
            (VerifyBy::Pages, false) => (self.sending(stop, &progress).run().await, None),
        };
        let stats_after = self.client.stats().await;
        progress.clear();
        Report::new(&Facts {
            config: &self.config,
            seed: self.seed,
            plan: self.plan,
            workload: &self.workload,
            faults: self.faults,
            sent: &sent,
            stats: stats_before.zip(stats_after),
            verification: verification.as_ref(),
            began,
            about_server,
            interrupted: stop.is_stopped(),
        })
    }

    /// It is only shown in the page.
    async fn about_server(&self) -> Option<ServerInfo> {
        self.config.report.as_ref()?;
        ServerInfo::ask(&self.streaming, &self.config.url).await
    }

    async fn send_and_read(&self, stop: &Stop, progress: &Progress) -> (Sent, Option<Verification>) {
        let sent = self.sending(stop, progress).run().await;
        if stop.is_stopped() {
            return (sent, None);
        }
        let verification = self.reader(stop, progress).verify(self.plan.unique(), &sent.tally.ledger).await;
        (sent, Some(verification))
    }

    async fn send_and_follow(&self, stop: &Stop, progress: &Progress) -> (Sent, Option<Verification>) {
        let (tell, told) = oneshot::channel();
        let sending = async {
            let sent = self.sending(stop, progress).run().await;
            // The follower may have given up.
            let _ = tell.send(last_seqs(&self.workload, &sent.tally.ledger));
            sent
        };
        let follower = self.follower(stop);
        let (sent, followed) = tokio::join!(sending, follower.follow(self.plan.unique(), told));
        let verification = (!stop.is_stopped()).then(|| followed.judge(&sent.tally.ledger));
        (sent, verification)
    }

    fn sending(&self, stop: &Stop, progress: &Progress) -> Sending {
        Sending {
            client: self.client.clone(),
            workload: self.workload.clone(),
            plan: self.plan,
            streams: self.streams.clone(),
            faults: self.faults,
            backoff: self.backoff,
            connections: self.config.concurrency,
            batch: self.config.batch,
            rate: self.config.rate,
            stop: stop.clone(),
            progress: progress.clone(),
        }
    }

    fn follower<'a>(&'a self, stop: &'a Stop) -> Follower<'a> {
        Follower {
            http: self.streaming.clone(),
            url: &self.config.url,
            topic_prefix: &self.config.topic_prefix,
            workload: &self.workload,
            streams: &self.streams,
            backoff: self.backoff,
            patience: Duration::from_millis(self.config.retry.retry_deadline_ms.into()),
            stop,
        }
    }

    fn reader<'a>(&'a self, stop: &'a Stop, progress: &'a Progress) -> Reader<'a> {
        Reader {
            client: &self.client,
            workload: &self.workload,
            streams: &self.streams,
            backoff: self.backoff,
            payload_bytes: self.config.payload_bytes,
            stop,
            progress,
        }
    }
}

/// Probes the server, runs to the end, and reports.
///
/// # Errors
/// When options contradict each other, or there is no server.
pub async fn run(config: Config, stop: &Stop) -> Result<Report, SetupError> {
    let simulation = Simulation::new(config)?;
    simulation.probe().await?;
    Ok(simulation.run(stop).await)
}
