//! More work than the server can do, and clients that do not do theirs.

mod slow_clients;

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use self::slow_clients::SlowClients;
use super::{Scratch, Spread, order, settle};
use crate::load::{Load, as_fast_as_possible, flood, steady};
use crate::options::Options;
use crate::process::Memory;
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// Connections that a server can just keep busy with.
pub(crate) const FEW: u32 = 8;
/// Nearly as many connections as a server takes.
pub(crate) const MANY: u32 = 900;
/// Clients of each of the three kinds that are slow.
pub(crate) const SLOW_EACH: u16 = 667;
const BATCH: u32 = 500;

/// Batches of 500 as fast as the server takes them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ManyConnections {
    /// Deliveries per second over a few connections.
    pub(crate) few: Spread,
    pub(crate) many: Spread,
    /// The ratio of two turns of the same round.
    pub(crate) ratio: Spread,
    /// Requests over many connections that were answered 503 and sent again, over all requests.
    pub(crate) refused_share: f64,
}

/// Ten times the load that the server can take.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tenfold {
    pub(crate) seconds: f64,
    /// Deliveries per second over a few connections, on the same server before.
    pub(crate) peak: f64,
    /// Deliveries per second that were due.
    pub(crate) due: f64,
    /// Deliveries per second that were acknowledged.
    pub(crate) goodput: f64,
    pub(crate) refused: u64,
    pub(crate) accepted: u64,
    pub(crate) broken: u64,
    pub(crate) accepted_p99_ms: f64,
    pub(crate) accepted_max_ms: f64,
    /// Of a request that was refused.
    pub(crate) refusal_p50_ms: f64,
    /// Resident memory after the first tenth, and the most of it until the end.
    pub(crate) memory_bytes: u64,
    pub(crate) memory_peak_bytes: u64,
}

/// The latency of well-behaved publishers beside clients that are slow.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BesideSlow {
    pub(crate) slow: u32,
    /// The p99 of a publish request without them and beside them, and the ratio in the same round.
    pub(crate) alone_p99_ms: Spread,
    pub(crate) beside_p99_ms: Spread,
    pub(crate) ratio: Spread,
    /// How often the server ended one of them, in a round.
    pub(crate) ended: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Overload {
    pub(crate) connections: Option<ManyConnections>,
    pub(crate) tenfold: Option<Tenfold>,
    pub(crate) slow: Option<BesideSlow>,
}

impl Overload {
    pub(crate) fn is_measured(&self) -> bool {
        self.connections.is_some() || self.tenfold.is_some() || self.slow.is_some()
    }
}

pub(crate) fn measure(options: &Options, measured: &mut Overload) -> anyhow::Result<()> {
    if options.has_line("many connections") {
        measured.connections = Some(many_connections(options).context("many connections")?);
    }
    if options.has_line("ten times the load") {
        measured.tenfold = Some(tenfold(options).context("ten times the load")?);
    }
    if options.has_line("slow clients") {
        measured.slow = Some(beside_slow(options).context("slow clients")?);
    }
    Ok(())
}

fn load(server: &Server, workload: Workload, batch: u32, connections: u32) -> Load {
    Load { address: server.address, workload, batch, connections, results: Results::Counts, key: None }
}

fn many_connections(options: &Options) -> anyhow::Result<ManyConnections> {
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let connections = [FEW, MANY];
    let (mut rates, mut refused, mut requests) = ([Vec::new(), Vec::new()], 0, 0);
    for round in 0..options.rounds() {
        for place in order(2, round) {
            settle()?;
            let directory = Scratch::new(options, "overload")?;
            let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
            let load = load(&server, workload, BATCH, connections[place]);
            let (done, _) = as_fast_as_possible(load, 0..options.run_events() * 2, None)?;
            done.check(&workload, 0)?;
            rates[place].push(done.rate());
            if place == 1 {
                refused += done.refused;
                requests += done.refused + done.deliveries / u64::from(BATCH);
            }
        }
    }
    let [few, many] = rates;
    let ratio = Spread::of(many.iter().zip(&few).map(|(many, few)| many / few));
    let refused_share = wide(refused) / wide(requests);
    eprintln!("overload: {MANY} connections: {:.2} of {FEW}, {refused_share:.3} refused", ratio.median);
    Ok(ManyConnections { few: Spread::of(few), many: Spread::of(many), ratio, refused_share })
}

fn tenfold(options: &Options) -> anyhow::Result<Tenfold> {
    settle()?;
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let directory = Scratch::new(options, "overload")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let peak = as_fast_as_possible(load(&server, workload, BATCH, FEW), 0..options.run_events(), None)?.0;
    let duration = Duration::from_secs(options.seconds().into());
    let rate = peak.rate() * 10.0;
    let load = load(&server, workload, BATCH, MANY);
    // The first tenth fills what there is to fill.
    let warm = flood(load, peak.deliveries, rate, duration / 10)?;
    let memory = Memory::of(server.pid())?.resident;
    let from = peak.deliveries + warm.due * u64::from(BATCH);
    let done = flood(load, from, rate, duration)?;
    let acknowledged = warm.counts.received + done.counts.received;
    server.check_received(peak.deliveries + acknowledged)?;
    #[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
    let ms = |us: u64| us as f64 / 1000.0;
    let tenfold = Tenfold {
        seconds: done.seconds,
        peak: peak.rate(),
        due: rate,
        goodput: wide(done.counts.received) / done.seconds,
        refused: done.refused,
        accepted: done.accepted,
        broken: done.broken,
        accepted_p99_ms: ms(done.latency.value_at_quantile(0.99)),
        accepted_max_ms: ms(done.latency.max()),
        refusal_p50_ms: ms(done.refusal.value_at_quantile(0.5)),
        memory_bytes: memory,
        memory_peak_bytes: Memory::of(server.pid())?.peak,
    };
    eprintln!("overload: {tenfold:?}");
    Ok(tenfold)
}

fn beside_slow(options: &Options) -> anyhow::Result<BesideSlow> {
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let (mut p99, mut ended) = ([Vec::new(), Vec::new()], 0);
    for round in 0..options.rounds() {
        settle()?;
        let directory = Scratch::new(options, "overload")?;
        let store = format!("sqlite:{}", directory.path().join("events.db").display());
        let arguments = ["--store", &store, "--max-connections", "3000"];
        let server = Server::start_with(&options.server, &arguments, directory.path())?;
        let load = load(&server, workload, 50, 64);
        let (peak, _) = as_fast_as_possible(load, 0..options.run_events() / 2, None)?;
        let (rate, seconds) = (peak.rate() / 2.0, Duration::from_secs(options.seconds().min(40).into()));
        let mut deliveries = peak.deliveries;
        for place in order(2, round) {
            let slow = (place == 1).then(|| SlowClients::start(server.address, SLOW_EACH)).transpose()?;
            // That so many come at once is not what is measured here.
            thread::sleep(if options.quick { Duration::from_secs(1) } else { Duration::from_secs(10) });
            let done = steady(load, deliveries, rate, seconds)?;
            deliveries += done.deliveries;
            ended = slow.map_or(Ok(ended), SlowClients::finish)?;
            #[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
            let ms = done.latency.value_at_quantile(0.99) as f64 / 1000.0;
            eprintln!("overload: p99 {ms} ms at {:.0}/s, place {place}", done.rate());
            p99[place].push(ms);
        }
        server.check_stats(&workload, deliveries)?;
    }
    let [alone, beside] = p99;
    let ratio = Spread::of(beside.iter().zip(&alone).map(|(beside, alone)| beside / alone));
    let slow = u32::from(SLOW_EACH) * 3;
    eprintln!("overload: p99 beside {slow} slow clients: {ratio:?}, {ended} of them ended");
    Ok(BesideSlow { slow, alone_p99_ms: Spread::of(alone), beside_p99_ms: Spread::of(beside), ratio, ended })
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
fn wide(n: u64) -> f64 {
    n as f64
}
