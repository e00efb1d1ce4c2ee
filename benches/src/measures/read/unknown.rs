//! Lookups of ids that nobody published, each in a topic that does not exist, in a store with many topics. Also how
//! long other requests take beside them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::histogram;
use crate::measures::{Scratch, settle};
use crate::options::Options;
use crate::server::{Server, Store, post};
use crate::wire::Reply;

pub(crate) const TOPICS: u32 = 100_000;
pub(crate) const IDS: u32 = 10_000;
pub(crate) const CLIENTS: usize = 4;

/// How long requests of one kind took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) requests: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

pub(crate) fn measure(options: &Options, measured: &mut Vec<Asked>) -> anyhow::Result<()> {
    let directory = Scratch::new(options, "unknown")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    fill(server.address)?;
    settle()?;
    let lookup = lookup();
    let alone = ask(server.address, &lookup, Duration::ZERO, |asked| asked < 50)?;
    measured.push(Asked::of("a lookup, nothing beside it", &alone));

    let done = AtomicBool::new(false);
    let until_done = |_: u64| !done.load(Ordering::Relaxed);
    let get = |path| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes();
    let (stats, ready) = (get("/stats"), get("/readyz"));
    let asked = thread::scope(|scope| {
        let spawn = |request, pause| scope.spawn(move || ask(server.address, request, pause, until_done));
        let lookups: Vec<_> = (0..CLIENTS).map(|_| spawn(&lookup, Duration::ZERO)).collect();
        let pause = Duration::from_millis(10);
        let others = [spawn(&stats, pause), spawn(&ready, pause)];
        thread::sleep(Duration::from_secs(options.seconds().min(20).into()));
        done.store(true, Ordering::Relaxed);
        let mut all = histogram();
        for asked in lookups {
            all.add(asked.join().expect("the thread does not panic")?)?;
        }
        let [stats, ready] = others.map(|asked| asked.join().expect("the thread does not panic"));
        anyhow::Ok([all, stats?, ready?])
    })?;
    let names =
        ["a lookup beside three others", "`/stats` beside four of them", "`/readyz` beside four of them"];
    measured.extend(names.into_iter().zip(&asked).map(|(name, asked)| Asked::of(name, asked)));
    Ok(())
}

/// Creates the topics, with one event each.
fn fill(address: SocketAddr) -> anyhow::Result<()> {
    const BATCH: u32 = 1_000;
    let mut stream = TcpStream::connect(address)?;
    let mut reply = Reply::default();
    for first in (0..TOPICS).step_by(BATCH as usize) {
        let event = |n| format!(r#"{{"topic":"bench.many-{n}","event_id":"{n}","payload":{{"n":{n}}}}}"#);
        let events: Vec<_> = (first..first + BATCH).map(event).collect();
        let request = post("/publish?results=none", &format!("[{}]", events.join(",")));
        stream.write_all(&request)?;
        reply.read_from(&mut stream)?;
        let stored = reply.counts().context("making the topics")?.stored;
        ensure!(stored == u64::from(BATCH), "{stored} of {BATCH} events were stored");
    }
    Ok(())
}

/// The request that looks up all the ids.
fn lookup() -> Vec<u8> {
    let mut body = String::from(r#"{"ids":["#);
    for n in 0..IDS {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(body, r#"{comma}{{"topic":"bench.unknown-{n}","event_id":"{n}"}}"#);
    }
    body.push_str("]}");
    post("/lookup", &body)
}

/// Sends the request again and again, while `go_on` returns true for the number of replies so far. Returns how long
/// each request took, in µs.
fn ask(
    address: SocketAddr,
    request: &[u8],
    pause: Duration,
    go_on: impl Fn(u64) -> bool,
) -> anyhow::Result<Histogram<u64>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut reply = Reply::default();
    let mut took = histogram();
    while go_on(took.len()) {
        let started = Instant::now();
        stream.write_all(request)?;
        reply.read_from(&mut stream)?;
        took.saturating_record(u64::try_from(started.elapsed().as_micros())?);
        ensure!(reply.status() == 200, "status {}: {}", reply.status(), reply.text());
        thread::sleep(pause);
    }
    Ok(took)
}

impl Asked {
    #[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
    fn of(name: &str, took: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let asked = Self {
            name: name.to_owned(),
            requests: took.len(),
            p50_ms: ms(took.value_at_quantile(0.5)),
            p99_ms: ms(took.value_at_quantile(0.99)),
            max_ms: ms(took.max()),
        };
        let Self { requests, p50_ms, p99_ms, max_ms, .. } = &asked;
        eprintln!("read: {name}: p50 {p50_ms} ms, p99 {p99_ms} ms, longest {max_ms} ms of {requests}");
        asked
    }
}
