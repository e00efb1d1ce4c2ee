//! Deliveries per second over HTTP, in turns with plain SQLite.
//!
//! Every round makes each run once, on a fresh store, so that other work of the machine affects all runs alike. Ratios
//! compare runs of the same round. Every other round goes backwards.

use anyhow::Context as _;
use serde::Serialize;

use super::{Scratch, Spread, connections, order, settle};
use crate::append::{self, Statement};
use crate::load::{Load, as_fast_as_possible};
use crate::options::Options;
use crate::process::{Memory, cpu_seconds};
use crate::server::{Server, Store};
use crate::watcher::Watcher;
use crate::wire::Results;
use crate::workload::{RECENT, Repeats, Workload};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ingest {
    pub(crate) lines: Vec<Line>,
    /// Single events: the rate of the durable store over that of the memory store, in the same round.
    pub(crate) durable_of_memory: Option<Spread>,
    /// Single events: the rate with a key over that without, in the same round.
    pub(crate) with_key_of_without: Option<Spread>,
    /// Batches of 500: the rate while somebody looks at metrics and page over that while nobody does, in the same round.
    pub(crate) watched_of_not: Option<Spread>,
    /// Batches of 500: the rate with insight, as by default, over that without, in the same round.
    pub(crate) with_insight_of_without: Option<Spread>,
}

/// All runs of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Deliveries of a run.
    pub(crate) deliveries: u64,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The rate over that of plain SQLite in the same round, with one row a statement and 500 a transaction.
    pub(crate) of_row_append_500: Option<Spread>,
    /// The same with 20 rows a statement and 5,000 a transaction.
    pub(crate) of_many_append_5000: Option<Spread>,
    /// `None` for plain SQLite.
    pub(crate) served: Option<Served>,
}

/// Further figures of runs over HTTP, as medians.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Served {
    /// Latency of a request.
    pub(crate) p99_ms: f64,
    /// Processor time per delivery, in microseconds.
    pub(crate) server_us: f64,
    pub(crate) generator_us: f64,
    pub(crate) peak_bytes: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Append { rows: usize, statement: Statement },
    Http { batch: u32, connections: u32, repeats: Repeats, results: Results, store: Store, way: Way },
}

/// What is other than usual.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Usual,
    WithKey,
    Watched,
    WithoutInsight,
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

/// The usual way to write with SQLite, and the fastest one.
const ROW_APPEND_500: Kind = Kind::Append { rows: 500, statement: Statement::Row };
const MANY_APPEND_5000: Kind = Kind::Append { rows: 5_000, statement: Statement::Many };

/// The figures of a round, in the order of the runs. `None` for runs that failed or were not made.
type Round = Vec<Option<Figures>>;

/// Figures that were measured before a failure are in `ingest`.
pub(crate) fn measure(options: &Options, ingest: &mut Option<Ingest>) -> anyhow::Result<()> {
    let runs = runs(options);
    let mut rounds = Vec::new();
    let measured = measure_rounds(options, &runs, &mut rounds);
    let lines: Vec<_> = runs.iter().filter_map(|run| line(run, &runs, &rounds)).collect();
    if !lines.is_empty() {
        let place = |size, store, way| {
            runs.iter().position(|run| {
                matches!(run.kind, Kind::Http { batch, store: its_store, way: its_way, .. }
                    if (batch, its_store, its_way) == (size, store, way))
            })
        };
        let single = |store, way| place(1, store, way);
        let batches = |way| place(500, Store::Sqlite, way);
        let of = |run: Option<usize>, other: Option<usize>| ratio(&rounds, run?, other?);
        let open = single(Store::Sqlite, Way::Usual);
        *ingest = Some(Ingest {
            lines,
            durable_of_memory: of(open, single(Store::Memory, Way::Usual)),
            with_key_of_without: of(single(Store::Sqlite, Way::WithKey), open),
            watched_of_not: of(batches(Way::Watched), batches(Way::Usual)),
            with_insight_of_without: of(batches(Way::Usual), batches(Way::WithoutInsight)),
        });
    }
    measured
}

fn measure_rounds(options: &Options, runs: &[Run], rounds: &mut Vec<Round>) -> anyhow::Result<()> {
    for number in 1..=options.rounds() {
        rounds.push(runs.iter().map(|_| None).collect());
        for place in order(runs.len(), number) {
            let run = &runs[place];
            if !options.has_line(&run.name) {
                continue;
            }
            settle()?;
            let got = one(options, run).with_context(|| format!("round {number}: {}", run.name))?;
            eprintln!("ingest, round {number}: {}: {:.0} deliveries/s", run.name, got.rate);
            if let Some(round) = rounds.last_mut() {
                round[place] = Some(got);
            }
        }
    }
    Ok(())
}

/// The rate of one run over that of another, in the rounds that have both.
fn ratio(rounds: &[Round], run: usize, other: usize) -> Option<Spread> {
    Spread::of_any(
        rounds.iter().filter_map(|round| Some(round[run].as_ref()?.rate / round[other].as_ref()?.rate)),
    )
}

fn runs(options: &Options) -> Vec<Run> {
    let all = options.run_events();
    let run = |name: &str, deliveries: u64, kind| Run { name: name.to_owned(), deliveries, kind };
    let http = |batch, repeats, results, store| Kind::Http {
        batch,
        connections: connections(options, batch),
        repeats,
        results,
        store,
        way: Way::Usual,
    };
    let other = |batch, results, way| Kind::Http {
        batch,
        connections: connections(options, batch),
        repeats: RECENT,
        results,
        store: Store::Sqlite,
        way,
    };
    let (counts, per_event) = (Results::Counts, Results::PerEvent);
    vec![
        run("plain SQLite append, a row a statement, 500 a transaction", all, ROW_APPEND_500),
        run(
            "plain SQLite append, a row a statement, 5,000 a transaction",
            all,
            Kind::Append { rows: 5_000, statement: Statement::Row },
        ),
        run(
            "plain SQLite append, 20 rows a statement, 500 a transaction",
            all,
            Kind::Append { rows: 500, statement: Statement::Many },
        ),
        run("plain SQLite append, 20 rows a statement, 5,000 a transaction", all, MANY_APPEND_5000),
        run("batches of 500", all, http(500, RECENT, counts, Store::Sqlite)),
        run("batches of 500, watched", all, other(500, counts, Way::Watched)),
        run("batches of 500, without insight", all, other(500, counts, Way::WithoutInsight)),
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
        run("single events, 64 connections, with a key", all / 10, other(1, per_event, Way::WithKey)),
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
        Kind::Append { rows, statement } => {
            let workload = Workload::new(options.seed, RECENT, options.topics);
            let path = directory.path().join("append.db");
            let rate = append::deliveries(&path, &workload, run.deliveries, rows, statement)?;
            Ok(Figures { rate, served: None })
        }
        Kind::Http { batch, connections, repeats, results, store, way } => {
            let workload = Workload::new(options.seed, repeats, options.topics);
            let (program, files) = (&options.server, directory.path());
            let server = match way {
                Way::WithKey => Server::start_with_key(program, files)?,
                Way::WithoutInsight => {
                    let store = format!("sqlite:{}", files.join("events.db").display());
                    Server::start_with(program, &["--store", &store, "--insight-streams", "0"], files)?
                }
                Way::Usual | Way::Watched => Server::start(program, store, files)?,
            };
            let watcher = (way == Way::Watched).then(|| Watcher::start(server.address));
            let load =
                Load { address: server.address, workload, batch, connections, results, key: server.key };
            let figures = over_http(&server, load, run.deliveries)?;
            watcher.map_or(Ok(()), Watcher::finish)?;
            Ok(figures)
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

/// `None` if no run of this kind was finished.
fn line(run: &Run, runs: &[Run], rounds: &[Round]) -> Option<Line> {
    let place_of = |kind: Kind| runs.iter().position(|run| run.kind == kind);
    let place = place_of(run.kind)?;
    let figures = || rounds.iter().filter_map(|round| round[place].as_ref());
    let rate = Spread::of_any(figures().map(|figures| figures.rate))?;
    let median = |figure: fn(&Served) -> f64| {
        let all = figures().filter_map(|figures| figures.served.as_ref().map(figure));
        Some(Spread::of_any(all)?.median)
    };
    let served = || {
        Some(Served {
            p99_ms: median(|served| served.p99_ms)?,
            server_us: median(|served| served.server_us)?,
            generator_us: median(|served| served.generator_us)?,
            peak_bytes: median(|served| served.peak_bytes)?,
        })
    };
    let served = served();
    let of_append = |append: Kind| served.and_then(|_| ratio(rounds, place, place_of(append)?));
    Some(Line {
        name: run.name.clone(),
        deliveries: run.deliveries,
        rate,
        of_row_append_500: of_append(ROW_APPEND_500),
        of_many_append_5000: of_append(MANY_APPEND_5000),
        served,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_runs_of_one_round_and_skip_runs_that_are_missing() {
        let figures = |rate| Some(Figures { rate, served: None });
        let mut rounds = vec![vec![figures(10.0), figures(100.0)], vec![figures(20.0), figures(50.0)]];
        let both = ratio(&rounds, 0, 1).unwrap();
        assert_eq!((both.min, both.median, both.max), (0.1, 0.25, 0.4));
        rounds.push(vec![None, figures(1.0)]);
        assert_eq!(ratio(&rounds, 0, 1).unwrap().median, 0.25);
        assert!(ratio(&rounds[2..], 0, 1).is_none());
    }
}
