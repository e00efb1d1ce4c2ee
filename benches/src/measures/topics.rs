//! Publishing to few topics and to many: a topic per customer, device or tenant.
//!
//! Every run has a store of its own. A quarter of the deliveries comes first and is not measured: it makes the topics.

pub(crate) mod cost;

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

use super::{Scratch, Spread, connections, order, settle};
use crate::load::{Load, as_fast_as_possible};
use crate::options::Options;
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// How many topics the events are spread over. The others are compared with the first.
const TOPICS: [u32; 5] = [4, 100, 1_000, 10_000, 100_000];
const QUICK_TOPICS: [u32; 2] = [4, 1_000];

/// Events of a request.
const BATCHES: [u32; 3] = [500, 50, 1];

/// All runs with batches of one size over so many topics.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ManyTopics {
    pub(crate) batch: u32,
    pub(crate) topics: u32,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The rate over that with the fewest topics, in the same round.
    pub(crate) of_few: Spread,
    /// What the server wrote, log and file, per delivery.
    pub(crate) bytes: Spread,
    pub(crate) p99_ms: Spread,
}

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    bytes: f64,
    p99_ms: f64,
}

/// Figures that were measured before a failure are in `measured`.
pub(crate) fn measure(options: &Options, measured: &mut Vec<ManyTopics>) -> anyhow::Result<()> {
    let counts: &[u32] = if options.quick { &QUICK_TOPICS } else { &TOPICS };
    for batch in BATCHES {
        let mut rounds: Vec<Vec<Option<Figures>>> = Vec::new();
        for number in 1..=options.rounds() {
            let mut round = vec![None; counts.len()];
            for place in order(counts.len(), number) {
                settle()?;
                let figures = one(options, batch, counts[place])
                    .with_context(|| format!("batches of {batch} over {} topics", counts[place]))?;
                eprintln!(
                    "topics: batches of {batch} over {}: {:.0} deliveries/s",
                    counts[place], figures.rate
                );
                round[place] = Some(figures);
            }
            rounds.push(round);
        }
        measured
            .extend(counts.iter().enumerate().map(|(place, &topics)| line(batch, topics, place, &rounds)));
    }
    Ok(())
}

fn line(batch: u32, topics: u32, place: usize, rounds: &[Vec<Option<Figures>>]) -> ManyTopics {
    let of = |figure: fn(&Figures) -> f64| {
        Spread::of(rounds.iter().filter_map(|round| round[place].as_ref().map(figure)))
    };
    let of_few = rounds.iter().filter_map(|round| Some(round[place]?.rate / round[0]?.rate));
    ManyTopics {
        batch,
        topics,
        rate: of(|figures| figures.rate),
        of_few: Spread::of(of_few),
        bytes: of(|figures| figures.bytes),
        p99_ms: of(|figures| figures.p99_ms),
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
fn one(options: &Options, batch: u32, topics: u32) -> anyhow::Result<Figures> {
    let workload = Workload::new(options.seed, RECENT, topics);
    let directory = Scratch::new(options, "topics")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let load = |batch| Load {
        address: server.address,
        workload,
        batch,
        connections: connections(options, batch),
        results: Results::Counts,
        key: None,
    };
    // Single events take ten times as long.
    let all = options.run_events() / if batch == 1 { 10 } else { 1 };
    let (made, _) = as_fast_as_possible(load(500), 0..options.run_events() / 4, None)?;
    made.check(&workload, 0)?;
    let written = written_bytes(server.pid())?;
    let (done, _) = as_fast_as_possible(load(batch), made.deliveries..made.deliveries + all, None)?;
    done.check(&workload, made.deliveries)?;
    server.check_stats(&workload, made.deliveries + done.deliveries)?;
    Ok(Figures {
        rate: done.rate(),
        bytes: (written_bytes(server.pid())? - written) as f64 / done.deliveries as f64,
        p99_ms: done.latency.value_at_quantile(0.99) as f64 / 1000.0,
    })
}

/// What a process has had written to disks so far.
fn written_bytes(pid: u32) -> anyhow::Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).context("what the server has written")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    bytes.context("write_bytes of a process")?.trim().parse().context("a number of bytes")
}
