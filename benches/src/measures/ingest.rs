//! Deliveries per second over HTTP, in turns with plain SQLite.
//!
//! Every round makes each run once, on a fresh store, so that whatever else the machine does meets all of
//! them; ratios are those of one round.

use serde::Serialize;

use super::{Scratch, Spread, connections};
use crate::append;
use crate::load::{Load, as_fast_as_possible};
use crate::options::Options;
use crate::process::{Memory, cpu_seconds};
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Repeats, Workload};

/// All runs of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Deliveries of a run.
    pub(crate) deliveries: u64,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The rate over that of plain SQLite by 500 rows, and by 5,000, in the same round.
    pub(crate) of_append_500: Option<f64>,
    pub(crate) of_append_5000: Option<f64>,
    pub(crate) served: Option<Served>,
}

/// What is known of runs over HTTP, as medians.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Served {
    /// Of a request.
    pub(crate) p99_ms: f64,
    /// Processor time for a delivery, in microseconds.
    pub(crate) server_us: f64,
    pub(crate) generator_us: f64,
    pub(crate) peak_bytes: f64,
}

enum Kind {
    Append { rows: usize },
    Http { batch: u32, connections: u32, repeats: Repeats, results: Results, store: Store },
}

struct Run {
    name: String,
    kind: Kind,
    deliveries: u64,
}

struct Figures {
    rate: f64,
    served: Option<Served>,
}

pub(crate) fn measure(options: &Options) -> anyhow::Result<Vec<Line>> {
    let runs = runs(options);
    let mut rounds: Vec<Vec<Figures>> = Vec::new();
    for round in 1..=options.rounds() {
        let mut figures = Vec::new();
        for run in &runs {
            let got = one(options, run)?;
            eprintln!("ingest, round {round}: {}: {:.0} deliveries/s", run.name, got.rate);
            figures.push(got);
        }
        rounds.push(figures);
    }
    Ok(runs.iter().enumerate().map(|(place, run)| line(run, place, &rounds)).collect())
}

/// The first two are the ceiling.
fn runs(options: &Options) -> Vec<Run> {
    let all = options.run_events();
    let run = |name: &str, deliveries: u64, kind| Run { name: name.to_owned(), deliveries, kind };
    let http = |batch, repeats, results, store| Kind::Http {
        batch,
        connections: connections(options, batch),
        repeats,
        results,
        store,
    };
    let (counts, per_event) = (Results::Counts, Results::PerEvent);
    vec![
        run("plain SQLite append, 500 rows a transaction", all, Kind::Append { rows: 500 }),
        run("plain SQLite append, 5,000 rows a transaction", all, Kind::Append { rows: 5_000 }),
        run("batches of 500", all, http(500, RECENT, counts, Store::Sqlite)),
        run("batches of 500, a result per event", all, http(500, RECENT, per_event, Store::Sqlite)),
        run(
            "batches of 500, repeats from all history",
            all,
            http(500, Repeats::History, counts, Store::Sqlite),
        ),
        run(
            &format!("batches of 50, {} connections", connections(options, 50)),
            all / 2,
            http(50, RECENT, counts, Store::Sqlite),
        ),
        run("single events, 64 connections", all / 10, http(1, RECENT, per_event, Store::Sqlite)),
        run(
            "single events, 64 connections, memory store",
            all / 10,
            http(1, RECENT, per_event, Store::Memory),
        ),
    ]
}

fn one(options: &Options, run: &Run) -> anyhow::Result<Figures> {
    let directory = Scratch::new(options, "ingest")?;
    match run.kind {
        Kind::Append { rows } => {
            let workload = Workload::new(options.seed, RECENT, options.topics);
            let path = directory.path().join("append.db");
            Ok(Figures { rate: append::deliveries(&path, &workload, run.deliveries, rows)?, served: None })
        }
        Kind::Http { batch, connections, repeats, results, store } => {
            let workload = Workload::new(options.seed, repeats, options.topics);
            let server = Server::start(&options.server, store, directory.path())?;
            let load = Load { address: server.address, workload, batch, connections, results };
            over_http(&server, load, run.deliveries)
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
fn over_http(server: &Server, load: Load, deliveries: u64) -> anyhow::Result<Figures> {
    let own = std::process::id();
    let before = (cpu_seconds(server.pid())?, cpu_seconds(own)?);
    let (done, _) = as_fast_as_possible(load, 0..deliveries, None)?;
    let after = (cpu_seconds(server.pid())?, cpu_seconds(own)?);
    done.check(&load.workload, 0)?;
    server.check_stats(&load.workload, done.deliveries)?;
    let per_delivery = |seconds: f64| seconds * 1e6 / done.deliveries as f64;
    let served = Served {
        p99_ms: done.latency.value_at_quantile(0.99) as f64 / 1000.0,
        server_us: per_delivery(after.0 - before.0),
        generator_us: per_delivery(after.1 - before.1),
        peak_bytes: Memory::of(server.pid())?.peak as f64,
    };
    Ok(Figures { rate: done.rate(), served: Some(served) })
}

fn line(run: &Run, place: usize, rounds: &[Vec<Figures>]) -> Line {
    let of_append = |append: usize| {
        let ratios = rounds.iter().map(|round| round[place].rate / round[append].rate);
        Some(Spread::of(ratios).median)
    };
    let median = |figure: fn(&Served) -> f64| {
        Spread::of(rounds.iter().filter_map(|round| round[place].served.as_ref().map(figure))).median
    };
    let served = rounds[0][place].served.map(|_| Served {
        p99_ms: median(|served| served.p99_ms),
        server_us: median(|served| served.server_us),
        generator_us: median(|served| served.generator_us),
        peak_bytes: median(|served| served.peak_bytes),
    });
    Line {
        name: run.name.clone(),
        deliveries: run.deliveries,
        rate: Spread::of(rounds.iter().map(|round| round[place].rate)),
        of_append_500: served.and_then(|_| of_append(0)),
        of_append_5000: served.and_then(|_| of_append(1)),
        served,
    }
}
