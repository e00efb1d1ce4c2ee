//! More than the server can do: requests come by a schedule of their own, and what is refused is not sent again.
//!
//! A request that is due while every connection waits for a reply is not sent, as it would not be by publishers who are all
//! busy. It counts as held back.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use super::closed::exchange;
use super::{Load, add, check_reply, histogram};
use crate::wire::{Counts, Reply, Request};

/// What became of the requests.
pub(crate) struct Flooded {
    /// Requests that were due.
    pub(crate) due: u64,
    pub(crate) accepted: u64,
    /// Requests that were answered 503.
    pub(crate) refused: u64,
    /// Connections that the server closed.
    pub(crate) broken: u64,
    /// The sum of all accepted ones.
    pub(crate) counts: Counts,
    pub(crate) seconds: f64,
    /// Of accepted requests, from the first byte sent, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Of refused ones.
    pub(crate) refusal: Histogram<u64>,
}

struct Shared {
    load: Load,
    first: u64,
    start: Instant,
    interval: Duration,
    /// The number of the next request.
    next: u64,
    end: u64,
    done: Flooded,
}

/// Sends deliveries from `first` on, at `rate` deliveries a second for `duration`.
pub(crate) fn run(load: Load, first: u64, rate: f64, duration: Duration) -> anyhow::Result<Flooded> {
    let interval = Duration::from_secs_f64(f64::from(load.batch) / rate);
    let end = u64::try_from(duration.as_nanos() / interval.as_nanos().max(1))?;
    let done = Flooded {
        due: end,
        accepted: 0,
        refused: 0,
        broken: 0,
        counts: Counts::default(),
        seconds: duration.as_secs_f64(),
        latency: histogram(),
        refusal: histogram(),
    };
    let shared = Shared { load, first, start: Instant::now(), interval, next: 0, end, done };
    let shared = Rc::new(RefCell::new(shared));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        for _ in 0..load.connections {
            tasks.spawn_local(connection(Rc::clone(&shared)));
        }
        shared.borrow_mut().start = Instant::now();
        while let Some(ended) = tasks.join_next().await {
            ended.context("a connection's task ended")??;
        }
        anyhow::Ok(())
    })?;
    drop(runtime);
    Ok(Rc::into_inner(shared).expect("the connections are over").into_inner().done)
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("connecting to the server")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Shared {
    /// The next request that is due, and when it is. Those that were due while nobody was free are left out.
    fn take(&mut self) -> Option<(u64, Instant)> {
        let elapsed = self.start.elapsed().as_nanos() / self.interval.as_nanos().max(1);
        self.next = self.next.max(u64::try_from(elapsed).unwrap_or(u64::MAX));
        if self.next >= self.end {
            return None;
        }
        let n = self.next;
        self.next += 1;
        Some((n, self.start + Duration::from_secs_f64(self.interval.as_secs_f64() * wide(n))))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time needs no 53 bits")]
fn wide(n: u64) -> f64 {
    n as f64
}

async fn connection(shared: Rc<RefCell<Shared>>) -> anyhow::Result<()> {
    let (load, first) = (shared.borrow().load, shared.borrow().first);
    let mut stream = connect(load.address).await?;
    let mut request = Request::new(load.batch, load.results, load.key);
    let mut reply = Reply::default();
    loop {
        let Some((n, due)) = shared.borrow_mut().take() else { return Ok(()) };
        tokio::time::sleep_until(due.into()).await;
        let bytes = request.render(&load.workload, first + n * u64::from(load.batch));
        let sent = Instant::now();
        if exchange(&mut stream, bytes, &mut reply).await.is_err() {
            shared.borrow_mut().done.broken += 1;
            stream = connect(load.address).await?;
            continue;
        }
        let took = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        let done = &mut shared.borrow_mut().done;
        if reply.status() == 503 {
            done.refused += 1;
            done.refusal.saturating_record(took);
            continue;
        }
        let counts = reply.counts()?;
        check_reply(counts, &load)?;
        add(&mut done.counts, counts);
        done.accepted += 1;
        done.latency.saturating_record(took);
    }
}
