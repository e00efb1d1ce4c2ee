//! Publishing while a rule of retention purges a large store, and without.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::{Scratch, Spread, settle};
use crate::load::{Load, as_fast_as_possible, steady};
use crate::options::Options;
use crate::server::{Server, get};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// Deliveries per second of the steady load.
pub(crate) const RATE: u32 = 10_000;
/// Events of a request.
pub(crate) const BATCH: u32 = 50;
/// What each topic keeps.
const RULE: &str = "*=count:1000";

#[derive(Debug, Clone, Serialize)]
pub(crate) struct BesidePurges {
    /// Events in the store before anything is purged.
    pub(crate) events: u64,
    pub(crate) seconds: u64,
    /// Latency of a publish request without a rule, in milliseconds.
    pub(crate) alone_p50_ms: Spread,
    pub(crate) alone_p99_ms: Spread,
    pub(crate) beside_p50_ms: Spread,
    pub(crate) beside_p99_ms: Spread,
    /// The ratio of the 99th percentiles of one round.
    pub(crate) ratio: Spread,
    /// Events purged per second.
    pub(crate) purged_rate: Spread,
}

pub(crate) fn measure(options: &Options, measured: &mut Option<BesidePurges>) -> anyhow::Result<()> {
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let span = Duration::from_secs(options.seconds().into());
    let (mut alone, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds() {
        settle()?;
        let directory = Scratch::new(options, "retention")?;
        let store = format!("sqlite:{}", directory.path().join("events.db").display());
        let start = |more: &[&str]| {
            let args = [&["--store", &store][..], more].concat();
            Server::start_with(&options.server, &args, directory.path())
        };
        let load = |server: &Server, batch, connections| Load {
            address: server.address,
            workload,
            batch,
            connections,
            results: Results::Counts,
            key: None,
        };
        let server = start(&[])?;
        let (filled, _) =
            as_fast_as_possible(load(&server, 500, options.connections), 0..options.run_events(), None)?;
        filled.check(&workload, 0)?;
        let mut deliveries = filled.deliveries;
        let mut steadily = |server: &Server| {
            let done = steady(load(server, BATCH, 8), deliveries, RATE.into(), span)?;
            done.check(&workload, deliveries)?;
            deliveries += done.deliveries;
            anyhow::Ok([0.5, 0.99].map(|quantile| milliseconds(done.latency.value_at_quantile(quantile))))
        };
        alone.push(steadily(&server)?);
        server.kill();
        let server = start(&["--retain", RULE, "--retain-every", "1s"])?;
        // Purging has begun before the load comes, and goes on until after it.
        while purged(&server)? == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = purged(&server)?;
        beside.push(steadily(&server)?);
        let during = purged(&server)? - before;
        let left = workload.identities(deliveries) - purged(&server)?;
        ensure!(
            left > u64::from(options.topics) * 2_000,
            "all was purged before the load ended: use more --run-events or fewer --seconds"
        );
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
        rates.push(during as f64 / span.as_secs_f64());
        eprintln!("retention: alone {:?} ms, beside purges {:?} ms", alone.last(), beside.last());
    }
    let of = |figures: &[[f64; 2]], index: usize| Spread::of(figures.iter().map(move |figure| figure[index]));
    *measured = Some(BesidePurges {
        events: workload.identities(options.run_events()),
        seconds: span.as_secs(),
        alone_p50_ms: of(&alone, 0),
        alone_p99_ms: of(&alone, 1),
        beside_p50_ms: of(&beside, 0),
        beside_p99_ms: of(&beside, 1),
        ratio: Spread::of(beside.iter().zip(&alone).map(|(beside, alone)| beside[1] / alone[1])),
        purged_rate: Spread::of(rates),
    });
    Ok(())
}

/// How many events the server has purged.
fn purged(server: &Server) -> anyhow::Result<u64> {
    let reply = get(server.address, "/metrics")?;
    let text = std::str::from_utf8(reply.body())?;
    let line = text.lines().find_map(|line| line.strip_prefix("aggregator_retention_purged_events_total "));
    line.context("the metric of purged events")?.trim().parse().context("a number of events")
}

#[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}
