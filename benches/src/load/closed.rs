//! A load as fast as the server takes it: every connection sends its next request once the last one is answered.
//!
//! One thread drives all connections. The replies of a group commit come together, and an event loop handles them in
//! one wake-up. That takes less of the machine from the server than a thread for each connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use super::{Done, Load, add, check_reply, histogram};
use crate::process::{Memory, cpu_seconds, disk_bytes};
use crate::wire::{Counts, Reply, Request};

/// The process to watch while deliveries are made.
pub(crate) struct Watched {
    /// How many samples to take.
    pub(crate) samples: u64,
    pub(crate) pid: u32,
    /// Where the server keeps its store.
    pub(crate) directory: PathBuf,
}

/// The state of the server after a number of deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) deliveries: u64,
    pub(crate) seconds: f64,
    /// Processor time of the server.
    pub(crate) cpu_seconds: f64,
    pub(crate) memory: Memory,
    pub(crate) disk_bytes: u64,
}

/// How long a refused request is sent again.
const REFUSED: Duration = Duration::from_secs(60);

/// The state that all connections share.
struct Shared {
    load: Load,
    next: u64,
    end: u64,
    acknowledged: u64,
    counts: Counts,
    latency: Histogram<u64>,
    refused: u64,
    started: Instant,
    progress: Progress,
}

/// Samples that are taken while deliveries are made.
#[derive(Default)]
pub(crate) struct Progress {
    watched: Option<Watched>,
    every: u64,
    pub(crate) samples: Vec<Sample>,
}

/// Makes the deliveries, in whole requests only.
pub(crate) fn run(
    load: Load,
    deliveries: Range<u64>,
    watched: Option<Watched>,
) -> anyhow::Result<(Done, Progress)> {
    run_over(&[load.address], load, deliveries, watched)
}

/// As [`run`], with the connections spread over several servers.
pub(crate) fn run_over(
    addresses: &[SocketAddr],
    load: Load,
    deliveries: Range<u64>,
    watched: Option<Watched>,
) -> anyhow::Result<(Done, Progress)> {
    let total = deliveries.end - deliveries.start;
    let every = watched.as_ref().map_or(0, |watched| (total / watched.samples).max(1));
    let shared = Rc::new(RefCell::new(Shared {
        load,
        next: deliveries.start,
        end: deliveries.end,
        acknowledged: 0,
        counts: Counts::default(),
        latency: histogram(),
        refused: 0,
        started: Instant::now(),
        progress: Progress { watched, every, samples: Vec::new() },
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, connections(&shared, addresses))?;
    let seconds = shared.borrow().started.elapsed().as_secs_f64();
    drop(runtime);
    let shared = Rc::into_inner(shared).expect("the connections are over").into_inner();
    let Shared { acknowledged: deliveries, counts, latency, refused, progress, .. } = shared;
    Ok((Done { deliveries, counts, seconds, latency, refused }, progress))
}

async fn connections(shared: &Rc<RefCell<Shared>>, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let load = shared.borrow().load;
    let mut streams = Vec::new();
    for &address in addresses.iter().cycle().take(load.connections as usize) {
        let stream = TcpStream::connect(address).await.context("connecting to the server")?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    shared.borrow_mut().started = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn_local(connection(stream, Rc::clone(shared)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection's task ended")??;
    }
    Ok(())
}

async fn connection(mut stream: TcpStream, shared: Rc<RefCell<Shared>>) -> anyhow::Result<()> {
    let load = shared.borrow().load;
    let mut request = Request::new(load.batch, load.results, load.key);
    let mut reply = Reply::default();
    loop {
        let first = {
            let mut shared = shared.borrow_mut();
            let first = shared.next;
            if first + u64::from(load.batch) > shared.end {
                return Ok(());
            }
            shared.next = first + u64::from(load.batch);
            first
        };
        let bytes = request.render(&load.workload, first);
        let sent = Instant::now();
        loop {
            exchange(&mut stream, bytes, &mut reply).await.context("a publish request")?;
            // A request that is refused for too long is an error.
            if reply.status() != 503 || sent.elapsed() > REFUSED {
                break;
            }
            shared.borrow_mut().refused += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let counts = reply.counts()?;
        check_reply(counts, &load)?;
        shared.borrow_mut().acknowledge(counts, sent.elapsed())?;
    }
}

pub(super) async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    reply: &mut Reply,
) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    reply.clear();
    loop {
        let read = stream.read(reply.space()).await?;
        if reply.advance(read)? {
            return Ok(());
        }
    }
}

impl Shared {
    fn acknowledge(&mut self, counts: Counts, latency: Duration) -> anyhow::Result<()> {
        add(&mut self.counts, counts);
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.acknowledged += counts.received;
        let (deliveries, progress) = (self.acknowledged, &mut self.progress);
        let Some(watched) = &progress.watched else { return Ok(()) };
        if deliveries < progress.every * (progress.samples.len() as u64 + 1) {
            return Ok(());
        }
        progress.samples.push(Sample {
            deliveries,
            seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds(watched.pid)?,
            memory: Memory::of(watched.pid)?,
            disk_bytes: disk_bytes(&watched.directory)?,
        });
        Ok(())
    }
}
