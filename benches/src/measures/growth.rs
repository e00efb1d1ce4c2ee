//! How the server's figures change as its store grows, and how long it takes to be ready after a crash.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::full_cache::{Filled, FullCache};
use super::{Scratch, Spread, order, settle};
use crate::append;
use crate::load::{Load, Progress, Sample, Watched, as_fast_as_possible};
use crate::options::Options;
use crate::process::{Memory, cpu_seconds, disk_bytes};
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

const BATCH: u32 = 500;
const POINTS: u64 = 100;
const TENTHS: usize = 10;
/// How many rounds the grown store runs in turn with an empty one.
const ROUNDS: u32 = 5;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Growth {
    pub(crate) deliveries: u64,
    pub(crate) identities: u64,
    /// The file that filled the page cache, if that was asked for.
    pub(crate) full_cache: Option<Filled>,
    pub(crate) tenths: Vec<Point>,
    pub(crate) points: Vec<Point>,
    /// The rate of the last tenth over that of the first.
    pub(crate) last_to_first: f64,
    /// The processor time per delivery of the first tenth over that of the last. Other programs that share caches and
    /// memory change it as well.
    pub(crate) cpu_first_to_last: f64,
    /// The median rate of the last five tenths over that of the first five. One bad tenth does not decide it.
    pub(crate) later_to_earlier_half: f64,
    /// How the rates compare when both stores run under the same conditions. `None` if it failed.
    pub(crate) in_turn: Option<InTurn>,
    pub(crate) refused: u64,
    /// Resident memory at the end.
    pub(crate) resident_bytes: u64,
    /// Growth of the resident memory after the first tenth, which fills the caches, per identity.
    pub(crate) resident_bytes_per_identity: f64,
    pub(crate) disk_bytes_per_identity: f64,
    /// The bytes of a row of the log in a file that holds nothing else.
    pub(crate) append_bytes_per_row: f64,
    /// `None` if it failed.
    pub(crate) restart: Option<Restart>,
}

/// A section of the curve, and the state at its end.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Point {
    /// Deliveries made by then.
    pub(crate) deliveries: u64,
    /// Deliveries per second since the point before.
    pub(crate) rate: f64,
    /// The server's processor time per delivery, since the point before.
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) disk_bytes: u64,
}

/// The store that has grown and an empty one take the same number of deliveries in turn, so that both run under the
/// same conditions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct InTurn {
    /// Deliveries to each store in a round.
    pub(crate) deliveries: u64,
    pub(crate) rounds: u32,
    /// Deliveries per second.
    pub(crate) empty: Spread,
    pub(crate) grown: Spread,
    /// The rate of the grown store over that of the empty one, in the same round.
    pub(crate) grown_to_empty: Spread,
}

/// The time from the start of the program to the first 200 of `/readyz`, after kill -9.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Restart {
    pub(crate) identities: u64,
    pub(crate) seconds: Spread,
    pub(crate) times: usize,
}

/// The curve is in `growth` even if the restart fails.
#[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
pub(crate) fn measure(options: &Options, growth: &mut Option<Growth>) -> anyhow::Result<()> {
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let directory = Scratch::new(options, "growth")?;
    let row_file = options.work.join("row.db");
    let append_bytes_per_row = append::bytes_per_row(&row_file, &workload, options.events() / 2)?;
    fs::remove_file(&row_file)?;

    let full_cache = options.full_cache.then(|| FullCache::fill(options)).transpose()?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let before = state(&server)?;
    let load = Load {
        address: server.address,
        workload,
        batch: BATCH,
        connections: options.connections,
        results: Results::Counts,
        key: None,
    };
    let watched = Watched { samples: POINTS, pid: server.pid(), directory: directory.path().to_owned() };
    // Every point has the same number of whole requests.
    let step = u64::from(BATCH) * POINTS;
    let (done, Progress { samples, .. }) =
        as_fast_as_possible(load, 0..options.events() / step * step, Some(watched))?;
    done.check(&workload, 0)?;
    server.check_stats(&workload, done.deliveries)?;
    eprintln!("growth: {} deliveries at {:.0}/s", done.deliveries, done.rate());

    let identities = workload.identities(done.deliveries);
    let last = samples.last().copied().unwrap_or(before);
    let tenth = samples.len() / TENTHS;
    let tenths = points(before, samples.iter().skip(tenth - 1).step_by(tenth).copied());
    let grown = last.memory.resident.saturating_sub(tenths[0].resident_bytes);
    let since = identities - workload.identities(tenths[0].deliveries);
    let measured = growth.insert(Growth {
        deliveries: done.deliveries,
        identities,
        full_cache: full_cache.as_ref().map(|full| full.filled),
        last_to_first: tenths[tenths.len() - 1].rate / tenths[0].rate,
        cpu_first_to_last: tenths[0].cpu_seconds / tenths[tenths.len() - 1].cpu_seconds,
        later_to_earlier_half: later_to_earlier_half(&tenths),
        in_turn: None,
        tenths,
        points: points(before, samples.into_iter()),
        refused: done.refused,
        resident_bytes: last.memory.resident,
        resident_bytes_per_identity: grown as f64 / since as f64,
        disk_bytes_per_identity: last.disk_bytes as f64 / identities as f64,
        append_bytes_per_row,
        restart: None,
    });
    let mut made = done.deliveries;
    let in_turn = in_turn(options, &server, load, &mut made).context("in turn with an empty store")?;
    measured.in_turn = Some(in_turn);
    measured.restart = Some(restart(options, server, load, made).context("the restart")?);
    Ok(())
}

/// Compares `server` with empty stores in turn. Its deliveries continue after the first `made`.
fn in_turn(options: &Options, server: &Server, load: Load, made: &mut u64) -> anyhow::Result<InTurn> {
    /// An empty store is faster with fewer deliveries. This is a tenth of 20 million.
    const MOST: u64 = 2_000_000;
    let deliveries = (*made / TENTHS as u64).min(MOST) / u64::from(BATCH) * u64::from(BATCH);
    let rate = |server: &Server, from| {
        settle()?;
        let load = Load { address: server.address, ..load };
        let (done, _) = as_fast_as_possible(load, from..from + deliveries, None)?;
        done.check(&load.workload, from)?;
        anyhow::Ok(done.rate())
    };
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let directory = Scratch::new(options, "empty")?;
        let empty = Server::start(&options.server, Store::Sqlite, directory.path())?;
        let mut of = [0.0; 2];
        for place in order(2, round) {
            of[place] = if place == 0 { rate(&empty, 0)? } else { rate(server, *made)? };
        }
        *made += deliveries;
        rates.push(of);
    }
    server.check_stats(&load.workload, *made)?;
    let spread = |figure: fn(&[f64; 2]) -> f64| Spread::of(rates.iter().map(figure));
    let grown_to_empty = spread(|[empty, grown]| grown / empty);
    eprintln!("growth: {:.2} of an empty store, in turn", grown_to_empty.median);
    Ok(InTurn {
        deliveries,
        rounds: ROUNDS,
        empty: spread(|[empty, _]| *empty),
        grown: spread(|[_, grown]| *grown),
        grown_to_empty,
    })
}

fn state(server: &Server) -> anyhow::Result<Sample> {
    let disk_bytes = disk_bytes(&server.directory)?;
    let (cpu_seconds, memory) = (cpu_seconds(server.pid())?, Memory::of(server.pid())?);
    Ok(Sample { deliveries: 0, seconds: 0.0, cpu_seconds, memory, disk_bytes })
}

fn later_to_earlier_half(tenths: &[Point]) -> f64 {
    let (earlier, later) = tenths.split_at(tenths.len() / 2);
    let rate = |half: &[Point]| Spread::of(half.iter().map(|tenth| tenth.rate)).median;
    rate(later) / rate(earlier)
}

#[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
fn points(mut before: Sample, samples: impl Iterator<Item = Sample>) -> Vec<Point> {
    let point = |sample: Sample| {
        let made = sample.deliveries - before.deliveries;
        let rate = made as f64 / (sample.seconds - before.seconds);
        let cpu_seconds = (sample.cpu_seconds - before.cpu_seconds) / made as f64;
        before = sample;
        let (resident_bytes, peak_bytes) = (sample.memory.resident, sample.memory.peak);
        Point {
            deliveries: sample.deliveries,
            rate,
            cpu_seconds,
            resident_bytes,
            peak_bytes,
            disk_bytes: sample.disk_bytes,
        }
    };
    samples.map(point).collect()
}

/// Kills the server after some further deliveries, so that its log is not empty, and starts it again.
fn restart(options: &Options, mut server: Server, mut load: Load, mut made: u64) -> anyhow::Result<Restart> {
    const TIMES: usize = 5;
    const DELIVERIES: u64 = 10_000;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..TIMES {
        load.address = server.address;
        let (done, _) = as_fast_as_possible(load, made..made + DELIVERIES, None)?;
        done.check(&load.workload, made)?;
        made += done.deliveries;
        let directory = server.directory.clone();
        server.kill();
        let started = Instant::now();
        server = Server::start(&options.server, Store::Sqlite, &directory)?;
        times.push(started.elapsed());
        // The time means something only if all acknowledged events are there and the next repeats are recognized.
        server.check_stats(&load.workload, made)?;
    }
    let seconds = Spread::of(times.iter().map(Duration::as_secs_f64));
    eprintln!("growth: ready {:.3} s after kill -9", seconds.median);
    Ok(Restart { identities: load.workload.identities(made), seconds, times: TIMES })
}
