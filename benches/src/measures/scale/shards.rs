//! One server over one store, and over shards: SQLite files, and databases of PostgreSQL servers that run on this machine
//! all together.

use aggregator_postgres::test_server::TestServer;
use anyhow::Context as _;
use serde::Serialize;

use super::database::SETTINGS;
use super::{LEAST_TOPICS, connections, first};
use crate::load::{Load, as_fast_as_possible};
use crate::measures::{Scratch, Spread, order, settle};
use crate::options::Options;
use crate::process::cpu_seconds;
use crate::server::Server;
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// All runs over one number of shards.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ShardLine {
    pub(crate) name: String,
    pub(crate) deliveries: u64,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The rate over that of one store of the same kind, in the same round.
    pub(crate) of_one: Option<Spread>,
    /// Medians: of a request, and of the server's processor time per delivery in microseconds.
    pub(crate) p99_ms: f64,
    pub(crate) server_us: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

struct Run {
    name: String,
    kind: Kind,
    shards: u16,
    deliveries: u64,
}

struct Figures {
    rate: f64,
    p99_ms: f64,
    server_us: f64,
}

type Round = Vec<Option<Figures>>;

/// Requests have batches of 500.
const BATCH: u32 = 500;

/// Figures that were measured before a failure are in `lines`.
pub(super) fn measure(options: &Options, lines: &mut Vec<ShardLine>) -> anyhow::Result<()> {
    let runs = runs(options);
    let mut rounds = Vec::new();
    let outcome = measure_rounds(options, &runs, &mut rounds);
    lines.extend(runs.iter().enumerate().filter_map(|(place, run)| line(place, run, &runs, &rounds)));
    outcome
}

fn runs(options: &Options) -> Vec<Run> {
    let all = options.run_events();
    let of = |kind, what: &str, deliveries| {
        [1, 2, 3].map(|shards| Run { name: format!("{what}: {shards}"), kind, shards, deliveries })
    };
    let sqlite = of(Kind::Sqlite, "shards, SQLite files", all);
    let postgres = of(Kind::Postgres, "shards, PostgreSQL servers", all / 10);
    sqlite.into_iter().chain(postgres).filter(|run| options.has_line(&run.name)).collect()
}

fn measure_rounds(options: &Options, runs: &[Run], rounds: &mut Vec<Round>) -> anyhow::Result<()> {
    for number in 1..=options.rounds() {
        rounds.push(runs.iter().map(|_| None).collect());
        for place in order(runs.len(), number) {
            let run = &runs[place];
            settle()?;
            let got = one(options, run).with_context(|| format!("round {number}: {}", run.name))?;
            let Some(got) = got else { continue };
            eprintln!("scale, round {number}: {}: {:.0} deliveries/s", run.name, got.rate);
            if let Some(round) = rounds.last_mut() {
                round[place] = Some(got);
            }
        }
    }
    Ok(())
}

/// `None` if PostgreSQL is not installed.
fn one(options: &Options, run: &Run) -> anyhow::Result<Option<Figures>> {
    let directory = Scratch::new(options, "shards")?;
    let mut databases = Vec::new();
    let store = match run.kind {
        Kind::Sqlite if run.shards == 1 => format!("sqlite:{}", directory.path().join("events.db").display()),
        Kind::Sqlite => format!("sqlite:{}?shards={}", directory.path().join("store").display(), run.shards),
        Kind::Postgres => {
            for _ in 0..run.shards {
                let Some(server) = TestServer::start(&SETTINGS) else { return Ok(None) };
                databases.push(server);
            }
            databases.iter().map(TestServer::url).collect::<Vec<_>>().join(" ")
        }
    };
    let server = Server::start_with(&options.server, &["--store", &store], directory.path())?;
    over_http(options, &server, run.deliveries).map(Some)
}

#[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
fn over_http(options: &Options, server: &Server, deliveries: u64) -> anyhow::Result<Figures> {
    let load = || Load {
        address: server.address,
        workload: Workload::new(options.seed, RECENT, options.topics.max(LEAST_TOPICS)),
        batch: BATCH,
        connections: connections(options, BATCH),
        results: Results::Counts,
        key: None,
    };
    let first = first(deliveries, BATCH);
    as_fast_as_possible(load(), 0..first, None)?;
    let before = cpu_seconds(server.pid())?;
    let (done, _) = as_fast_as_possible(load(), first..first + deliveries, None)?;
    let after = cpu_seconds(server.pid())?;
    let workload = load().workload;
    done.check(&workload, first)?;
    server.check_stats(&workload, first + done.deliveries)?;
    Ok(Figures {
        rate: done.rate(),
        p99_ms: done.latency.value_at_quantile(0.99) as f64 / 1000.0,
        server_us: (after - before) * 1e6 / done.deliveries as f64,
    })
}

/// `None` if no run of it was finished.
fn line(place: usize, run: &Run, runs: &[Run], rounds: &[Round]) -> Option<ShardLine> {
    let figures = || rounds.iter().filter_map(|round| round[place].as_ref());
    let median = |figure: fn(&Figures) -> f64| Some(Spread::of_any(figures().map(figure))?.median);
    let one = runs.iter().position(|other| (other.kind, other.shards) == (run.kind, 1));
    let of_one = one.filter(|one| *one != place).and_then(|one| {
        Spread::of_any(
            rounds.iter().filter_map(|round| Some(round[place].as_ref()?.rate / round[one].as_ref()?.rate)),
        )
    });
    Some(ShardLine {
        name: run.name.clone(),
        deliveries: run.deliveries,
        rate: Spread::of_any(figures().map(|figures| figures.rate))?,
        of_one,
        p99_ms: median(|figures| figures.p99_ms)?,
        server_us: median(|figures| figures.server_us)?,
    })
}
