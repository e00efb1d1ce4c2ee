//! Streams of events: their delay, how much they slow ingest down, and the cost of an idle stream.

pub(super) mod readers;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use self::readers::Readers;
use super::{Scratch, Spread, order, settle};
use crate::load::{Done, Load, as_fast_as_possible, steady};
use crate::options::Options;
use crate::process::Memory;
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// Streams beside the load, each of one topic.
pub(crate) const STREAMS: u16 = 1_000;
/// Deliveries per second of the steady load.
pub(crate) const RATE: u32 = 10_000;
/// Streams that get no events.
pub(crate) const IDLE: u16 = 9_900;

/// Figures of streams over a number of topics.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tailing {
    /// The number of topics over which the events and the streams are spread.
    pub(crate) topics: u16,
    /// Events that the streams delivered.
    pub(crate) delivered: u64,
    /// The time from `processed_at` to the reader, in milliseconds.
    pub(crate) delay_p50_ms: f64,
    pub(crate) delay_p99_ms: f64,
    /// Latency of a publish request beside the streams, in milliseconds.
    pub(crate) publish_p99_ms: f64,
}

/// Deliveries per second, as fast as the server takes them, alone and beside the streams.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BesideStreams {
    pub(crate) topics: u16,
    pub(crate) alone: Spread,
    pub(crate) beside: Spread,
    /// The ratio of two turns of the same round.
    pub(crate) ratio: Spread,
}

/// The server's cost of an idle stream.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct IdleCost {
    pub(crate) streams: u16,
    pub(crate) bytes_each: u64,
    pub(crate) descriptors_each: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Tails {
    pub(crate) tailing: Vec<Tailing>,
    pub(crate) ingest: Vec<BesideStreams>,
    pub(crate) idle: Option<IdleCost>,
}

pub(crate) fn measure(options: &Options, measured: &mut Tails) -> anyhow::Result<()> {
    for topics in [STREAMS, STREAMS / 10] {
        measured.tailing.push(tailing(options, topics).with_context(|| format!("{topics} topics"))?);
    }
    measured.ingest.push(beside_ingest(options, STREAMS).context("beside ingest")?);
    measured.idle = Some(idle(options).context("idle streams")?);
    Ok(())
}

fn load(server: &Server, workload: Workload, batch: u32, connections: u32) -> Load {
    Load { address: server.address, workload, batch, connections, results: Results::Counts, key: None }
}

fn tailing(options: &Options, topics: u16) -> anyhow::Result<Tailing> {
    let workload = Workload::new(options.seed, RECENT, topics);
    let directory = Scratch::new(options, "tails")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let readers = Readers::start(server.address, STREAMS, topics)?;
    let seconds = Duration::from_secs(options.seconds().min(20).into());
    let done = steady(load(&server, workload, 20, 8), 0, RATE.into(), seconds)?;
    done.check(&workload, 0)?;
    let delivered = events_of_streams(&workload, &done, topics);
    let delays = readers.finish(delivered)?;
    #[expect(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    let ms = |us: u64| us as f64 / 1000.0;
    let tailing = Tailing {
        topics,
        delivered,
        delay_p50_ms: ms(delays.value_at_quantile(0.5)),
        delay_p99_ms: ms(delays.value_at_quantile(0.99)),
        publish_p99_ms: ms(done.latency.value_at_quantile(0.99)),
    };
    eprintln!("tails: {tailing:?}");
    Ok(tailing)
}

/// How many events all streams together must deliver.
fn events_of_streams(workload: &Workload, done: &Done, topics: u16) -> u64 {
    // Every topic has the same number of streams.
    workload.identities(done.deliveries) * u64::from(STREAMS / topics)
}

fn beside_ingest(options: &Options, topics: u16) -> anyhow::Result<BesideStreams> {
    let workload = Workload::new(options.seed, RECENT, topics);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        for place in order(2, round) {
            settle()?;
            let directory = Scratch::new(options, "tails")?;
            let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
            let readers =
                (place == 1).then(|| Readers::start(server.address, STREAMS, topics)).transpose()?;
            let load = load(&server, workload, 500, options.connections);
            let (done, _) = as_fast_as_possible(load, 0..options.run_events(), None)?;
            done.check(&workload, 0)?;
            if let Some(readers) = readers {
                readers.finish(events_of_streams(&workload, &done, topics))?;
            }
            if place == 1 { beside.push(done.rate()) } else { alone.push(done.rate()) }
        }
    }
    let ratio = Spread::of(beside.iter().zip(&alone).map(|(beside, alone)| beside / alone));
    eprintln!("tails: ingest beside {STREAMS} streams: {:.2} of alone", ratio.median);
    Ok(BesideStreams { topics, alone: Spread::of(alone), beside: Spread::of(beside), ratio })
}

fn idle(options: &Options) -> anyhow::Result<IdleCost> {
    let directory = Scratch::new(options, "tails")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let readers = Readers::start(server.address, 100, 100)?;
    let (memory, descriptors) = (Memory::of(server.pid())?.resident, descriptors(server.pid())?);
    let more = Readers::start(server.address, IDLE, IDLE)?;
    thread::sleep(Duration::from_secs(1));
    let bytes = Memory::of(server.pid())?.resident.saturating_sub(memory);
    let opened = self::descriptors(server.pid())? - descriptors;
    ensure!(opened >= usize::from(IDLE), "{opened} connections are open");
    #[expect(clippy::cast_precision_loss, reason = "so few are exact")]
    let idle = IdleCost {
        streams: IDLE,
        bytes_each: bytes / u64::from(IDLE),
        descriptors_each: opened as f64 / f64::from(IDLE),
    };
    eprintln!("tails: {idle:?}");
    more.finish(0)?;
    readers.finish(0)?;
    Ok(idle)
}

/// How many files a process has open.
fn descriptors(pid: u32) -> anyhow::Result<usize> {
    let directory = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(Path::new(&directory)).with_context(|| directory.clone())?.count())
}
