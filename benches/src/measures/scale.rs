//! The store over PostgreSQL beside a raw insert of the same rows, how it scales with partitions and nodes, and one server
//! over several shards.
//!
//! As in [`super::ingest`], a round makes each run once, each on its own database, and ratios compare runs of the same
//! round.

mod balancer;
mod database;
mod groups;
mod raw;
mod runs;
mod shards;

use std::net::SocketAddr;

use aggregator_core::{AttemptId, DedupStore as _, EventRef, Partitions};
use aggregator_postgres::{PostgresOptions, PostgresStore};
use anyhow::{Context as _, ensure};
use serde::Serialize;

use self::balancer::Balancer;
use self::database::{Cluster, SETTINGS};
use self::runs::{APPENDERS, Kind, Run, connections, runs};
use super::{Scratch, Spread, order, settle};
use crate::load::{Load, as_fast_as_possible_over};
use crate::options::Options;
use crate::process::cpu_seconds;
use crate::server::Server;
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

pub(crate) use self::database::Cost;
pub(crate) use self::shards::ShardLine;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Scale {
    /// Why there are no figures.
    pub(crate) skipped: Option<String>,
    /// Why there are no lines behind a balancer.
    pub(crate) without: Option<String>,
    pub(crate) version: String,
    pub(crate) settings: Vec<String>,
    /// Events of a transaction in runs without HTTP.
    pub(crate) group: usize,
    pub(crate) topics: u16,
    pub(crate) connections: u32,
    pub(crate) lines: Vec<Line>,
    pub(crate) shards: Vec<ShardLine>,
}

/// All runs of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) deliveries: u64,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The rate over that of the raw insert with as many partitions, in the same round.
    pub(crate) of_raw: Option<Spread>,
    /// The rate over that of the line of the same kind with the fewest partitions or nodes.
    pub(crate) of_least: Option<Spread>,
    pub(crate) p99_ms: Option<f64>,
    /// Processor time of all nodes per delivery, in microseconds.
    pub(crate) nodes_us: Option<f64>,
    /// Medians.
    pub(crate) cost: Cost,
}

struct Figures {
    rate: f64,
    p99_ms: Option<f64>,
    nodes_us: Option<f64>,
    cost: Cost,
}

type Round = Vec<Option<Figures>>;

/// Enough that each of 16 partitions has some.
const LEAST_TOPICS: u16 = 64;

/// Figures that were measured before a failure are in `scale`.
pub(crate) fn measure(options: &Options, scale: &mut Option<Scale>) -> anyhow::Result<()> {
    let mut measured = Scale {
        skipped: None,
        without: None,
        version: String::new(),
        settings: SETTINGS.map(str::to_owned).to_vec(),
        group: groups::GROUP,
        topics: options.topics.max(LEAST_TOPICS),
        connections: connections(options, 500),
        lines: Vec::new(),
        shards: Vec::new(),
    };
    let sharded = shards::measure(options, &mut measured.shards);
    if sharded.is_err() {
        *scale = Some(measured);
        return sharded;
    }
    let mut runs = runs(options);
    if runs.is_empty() {
        *scale = Some(measured);
        return Ok(());
    }
    let Some(cluster) = Cluster::start()? else {
        measured.skipped = Some("PostgreSQL is not installed (apt-get install postgresql)".to_owned());
        *scale = Some(measured);
        return Ok(());
    };
    measured.version = cluster.version();
    let is_balanced = |run: &Run| matches!(run.kind, Kind::Http { balanced: true, .. });
    if runs.iter().any(is_balanced) && !Balancer::is_installed() {
        measured.without = Some("HAProxy is not installed (apt-get install haproxy)".to_owned());
        runs.retain(|run| !is_balanced(run));
    }
    let mut rounds = Vec::new();
    let outcome = measure_rounds(options, &cluster, &runs, &mut rounds);
    measured.lines = runs.iter().filter_map(|run| line(run, &runs, &rounds)).collect();
    *scale = Some(measured);
    outcome
}

fn measure_rounds(
    options: &Options,
    cluster: &Cluster,
    runs: &[Run],
    rounds: &mut Vec<Round>,
) -> anyhow::Result<()> {
    for number in 1..=options.rounds() {
        rounds.push(runs.iter().map(|_| None).collect());
        for place in order(runs.len(), number) {
            let run = &runs[place];
            let got = one(options, cluster, run).with_context(|| format!("round {number}: {}", run.name))?;
            eprintln!("scale, round {number}: {}: {:.0} deliveries/s", run.name, got.rate);
            if let Some(round) = rounds.last_mut() {
                round[place] = Some(got);
            }
        }
    }
    Ok(())
}

fn one(options: &Options, cluster: &Cluster, run: &Run) -> anyhow::Result<Figures> {
    let url = cluster.create();
    let workload = Workload::new(options.seed, RECENT, options.topics.max(LEAST_TOPICS));
    settle()?;
    match run.kind {
        Kind::Raw { partitions } => appended(cluster, &url, &workload, run.deliveries, partitions, true),
        Kind::Direct { partitions } => appended(cluster, &url, &workload, run.deliveries, partitions, false),
        Kind::Http { partitions, nodes, batch, connections, balanced } => {
            let nodes = start(options, &url, partitions, nodes)?;
            let results = if batch == 1 { Results::PerEvent } else { Results::Counts };
            let load = Load { address: nodes[0].address, workload, batch, connections, results, key: None };
            let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
            if balanced {
                let balancer = Balancer::start(&addresses)?;
                over_http(cluster, &nodes, &[balancer.address], load, run.deliveries)
            } else {
                over_http(cluster, &nodes, &addresses, load, run.deliveries)
            }
        }
    }
}

/// Appends the groups through the store, or past it by raw inserts.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
fn appended(
    cluster: &Cluster,
    url: &str,
    workload: &Workload,
    deliveries: u64,
    partitions: u16,
    past: bool,
) -> anyhow::Result<Figures> {
    let count = Partitions::new(partitions).context("there are partitions")?;
    let first = first(deliveries, 1);
    let total = first + deliveries;
    let [early, lanes] = [0..first, first..total];
    let early = groups::lanes(workload, early, count, APPENDERS)?;
    let lanes = groups::lanes(workload, lanes, count, APPENDERS)?;
    let store_options = PostgresOptions {
        partitions: Some(count),
        append_connections: APPENDERS,
        ..PostgresOptions::default()
    };
    // Opening the store creates the tables for both.
    let url_of_store = url.parse().map_err(|reason: String| anyhow::anyhow!(reason))?;
    let store = PostgresStore::open_with(&url_of_store, store_options)?;
    let append = |lanes: &groups::Lanes| {
        groups::run(lanes, &mut vec![(); lanes.len()], |(), group| {
            let views: Vec<EventRef<'_>> = group.events.iter().map(aggregator_core::Event::view).collect();
            let receipts = store.append(group.partition, AttemptId::new(), &views)?;
            ensure!(receipts.len() == views.len(), "a receipt is missing");
            Ok(())
        })
    };
    let mut connections = Vec::new();
    if past {
        connections.resize_with(lanes.len(), || raw::Connection::open(url, partitions));
    }
    let mut connections = connections.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut run =
        |lanes: &groups::Lanes| if past { raw::insert(&mut connections, lanes) } else { append(lanes) };
    run(&early)?;
    let before = cluster.spent()?;
    let seconds = run(&lanes)?;
    let after = cluster.spent()?;
    let identities = workload.identities(total);
    if !past {
        let stats = store.stats()?;
        let expected = (identities, total - identities, 0);
        let told = (stats.stored, stats.duplicates, stats.conflicts);
        ensure!(told == expected, "the store counts {told:?}, but {expected:?} is right");
    }
    check_count(cluster, identities)?;
    let cost = cluster.cost(before, after, deliveries, identities)?;
    Ok(Figures { rate: deliveries as f64 / seconds, p99_ms: None, nodes_us: None, cost })
}

fn start(options: &Options, url: &str, partitions: u16, nodes: u32) -> anyhow::Result<Vec<Started>> {
    let partitions = partitions.to_string();
    (0..nodes)
        .map(|node| {
            let directory = Scratch::new(options, &format!("node-{node}"))?;
            let arguments = ["--store", url, "--partitions", &partitions];
            let server = Server::start_with(&options.server, &arguments, directory.path())?;
            Ok(Started { server, _directory: directory })
        })
        .collect()
}

/// A node, and its directory, which is removed after it.
struct Started {
    server: Server,
    _directory: Scratch,
}

impl std::ops::Deref for Started {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
fn over_http(
    cluster: &Cluster,
    nodes: &[Started],
    addresses: &[SocketAddr],
    load: Load,
    deliveries: u64,
) -> anyhow::Result<Figures> {
    let cpu = || nodes.iter().map(|node| cpu_seconds(node.pid())).sum::<anyhow::Result<f64>>();
    let first = first(deliveries, load.batch);
    as_fast_as_possible_over(addresses, load, 0..first, None)?;
    let before = (cluster.spent()?, cpu()?);
    let (done, _) = as_fast_as_possible_over(addresses, load, first..first + deliveries, None)?;
    let after = (cluster.spent()?, cpu()?);
    done.check(&load.workload, first)?;
    let total = first + done.deliveries;
    // Every node must report the totals of the database.
    for node in nodes {
        node.check_stats(&load.workload, total)?;
    }
    let identities = load.workload.identities(total);
    check_count(cluster, identities)?;
    Ok(Figures {
        rate: done.rate(),
        p99_ms: Some(done.latency.value_at_quantile(0.99) as f64 / 1000.0),
        nodes_us: Some((after.1 - before.1) * 1e6 / done.deliveries as f64),
        cost: cluster.cost(before.0, after.0, done.deliveries, identities)?,
    })
}

/// How many deliveries are made before the clock runs, in whole requests. They make the connections to the database and
/// plan the statements.
fn first(deliveries: u64, batch: u32) -> u64 {
    (deliveries / 5).next_multiple_of(batch.into())
}

fn check_count(cluster: &Cluster, identities: u64) -> anyhow::Result<()> {
    let count = cluster.count()?;
    ensure!(count == identities, "there are {count} events, but {identities} identities were sent");
    Ok(())
}

/// `None` if no run of this kind was finished.
fn line(run: &Run, runs: &[Run], rounds: &[Round]) -> Option<Line> {
    let place_of = |kind: Kind| runs.iter().position(|run| run.kind == kind);
    let place = place_of(run.kind)?;
    let figures = || rounds.iter().filter_map(|round| round[place].as_ref());
    let ratio = |other: Option<Kind>| {
        let other = place_of(other?)?;
        Spread::of_any(
            rounds.iter().filter_map(|round| Some(round[place].as_ref()?.rate / round[other].as_ref()?.rate)),
        )
    };
    let median = |figure: fn(&Figures) -> Option<f64>| {
        Spread::of_any(figures().filter_map(figure)).map(|spread| spread.median)
    };
    Some(Line {
        name: run.name.clone(),
        deliveries: run.deliveries,
        rate: Spread::of_any(figures().map(|figures| figures.rate))?,
        of_raw: ratio(run.raw),
        of_least: ratio(run.least),
        p99_ms: median(|figures| figures.p99_ms),
        nodes_us: median(|figures| figures.nodes_us),
        cost: Cost {
            wal_bytes: median(|figures| Some(figures.cost.wal_bytes))?,
            database_us: median(|figures| Some(figures.cost.database_us))?,
            group: median(|figures| Some(figures.cost.group))?,
            table_bytes: median(|figures| Some(figures.cost.table_bytes))?,
            index_bytes: median(|figures| Some(figures.cost.index_bytes))?,
        },
    })
}
