//! A steady load: requests are due by a schedule that does not wait for the server.
//!
//! Latency counts from the time when a request was due. If a connection still waits for its last reply at that time, it
//! sends late, and the wait is part of the latency. A generator that moved the schedule instead would leave out the
//! very requests that a stall has delayed (coordinated omission).
//!
//! Each connection has a thread: the timers of an event loop tick in milliseconds, which is longer than most replies
//! take.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use hdrhistogram::Histogram;

use super::{Done, Load, add, check_reply, histogram};
use crate::wire::{Counts, Reply, Request};

/// Sends the deliveries from `first` on, at `rate` deliveries a second for `duration`.
pub(crate) fn run(load: Load, first: u64, rate: f64, duration: Duration) -> anyhow::Result<Done> {
    let interval = Duration::from_secs_f64(f64::from(load.batch) / rate);
    let requests = u64::try_from(duration.as_nanos() / interval.as_nanos().max(1))?.max(1);
    let mut streams = Vec::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(load.address).context("connecting to the server")?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    // Gives the threads time to start.
    let start = Instant::now() + Duration::from_millis(20);
    let schedule = Schedule { load, first, start, interval, requests };
    let mut done = Done {
        deliveries: requests * u64::from(load.batch),
        counts: Counts::default(),
        seconds: 0.0,
        latency: histogram(),
        refused: 0,
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(streams)
            .map(|(place, stream)| scope.spawn(move || connection(stream, schedule, place)))
            .collect();
        for thread in threads {
            let (counts, latency) =
                thread.join().map_err(|_| anyhow!("a connection's thread panicked"))??;
            add(&mut done.counts, counts);
            done.latency.add(latency).expect("all histograms have the same bounds");
        }
        anyhow::Ok(())
    })?;
    done.seconds = start.elapsed().as_secs_f64();
    Ok(done)
}

#[derive(Clone, Copy)]
struct Schedule {
    load: Load,
    first: u64,
    start: Instant,
    interval: Duration,
    requests: u64,
}

/// Sends the requests `place`, `place` + connections, and so on.
fn connection(
    mut stream: TcpStream,
    schedule: Schedule,
    place: u64,
) -> anyhow::Result<(Counts, Histogram<u64>)> {
    let Schedule { load, first, start, interval, requests } = schedule;
    let mut request = Request::new(load.batch, load.results, load.key);
    let mut reply = Reply::default();
    let (mut sum, mut latency) = (Counts::default(), histogram());
    let step = usize::try_from(load.connections)?;
    for n in (place..requests).step_by(step) {
        let bytes = request.render(&load.workload, first + n * u64::from(load.batch));
        let due = start + Duration::from_nanos(u64::try_from(interval.as_nanos())? * n);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(bytes).context("a publish request")?;
        reply.read_from(&mut stream)?;
        let late = due.elapsed();
        let counts = reply.counts()?;
        check_reply(counts, &load)?;
        add(&mut sum, counts);
        latency.saturating_record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
    }
    Ok((sum, latency))
}
