//! Reads beside appends: pages, lookups, lists of topics and streams while events come at half of the machine's full rate.

pub(crate) mod reads;

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use hdrhistogram::Histogram;
use serde::Serialize;

use self::reads::{KINDS, Pace, Reads};
use super::tails::readers::Readers;
use super::{Scratch, Spread, connections, order, settle};
use crate::load::{Done, Load, as_fast_as_possible, steady};
use crate::options::Options;
use crate::process::cpu_seconds;
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// Events of a publish request.
pub(crate) const BATCH: u32 = 50;
/// How many topics the events are spread over.
pub(crate) const TOPICS: u16 = 1_000;
/// Streams, each of one topic, and so these get a fifth of the events.
pub(crate) const STREAMS: u16 = 200;

/// The turns of a round, on one store. Each is compared with the first.
const TURNS: [(&str, Option<Pace>); 3] = [
    ("alone", None),
    ("beside reads at a pace", Some(Pace::Scheduled)),
    ("beside reads without a pause", Some(Pace::WithoutPause)),
];

/// Figures of all rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Mixed {
    /// Events in the store before the first turn.
    pub(crate) events: u64,
    /// How long each turn took.
    pub(crate) seconds: u64,
    /// Deliveries per second as fast as the server takes them, before the turns.
    pub(crate) full_rate: Spread,
    pub(crate) turns: Vec<Turn>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    pub(crate) name: &'static str,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The share of the deliveries that were due per second.
    pub(crate) kept: Spread,
    /// The server's processor time per second.
    pub(crate) cpu: Spread,
    /// The 99th percentile of a publish request over that of the first turn of the same round.
    pub(crate) p99_to_alone: Spread,
    pub(crate) requests: Vec<Requests>,
}

/// How long requests of a kind took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Requests {
    pub(crate) name: &'static str,
    pub(crate) per_second: Spread,
    pub(crate) p50_ms: Spread,
    pub(crate) p99_ms: Spread,
}

/// One turn of one round.
struct Took {
    rate: f64,
    kept: f64,
    seconds: f64,
    /// The server's processor time.
    cpu_seconds: f64,
    /// How long requests took, in µs. Publish requests come first.
    kinds: Vec<(&'static str, Histogram<u64>)>,
}

pub(crate) fn measure(options: &Options, measured: &mut Option<Mixed>) -> anyhow::Result<()> {
    let (mut full_rates, mut rounds) = (Vec::new(), Vec::new());
    for number in 1..=options.rounds() {
        settle()?;
        let (full_rate, round) = round(options, number).with_context(|| format!("round {number}"))?;
        full_rates.push(full_rate);
        rounds.push(round);
    }
    *measured = Some(Mixed {
        events: workload(options).identities(options.run_events()),
        seconds: turn_time(options).as_secs(),
        full_rate: Spread::of(full_rates),
        turns: TURNS.iter().enumerate().map(|(place, (name, _))| Turn::of(name, place, &rounds)).collect(),
    });
    Ok(())
}

fn workload(options: &Options) -> Workload {
    Workload::new(options.seed, RECENT, TOPICS)
}

fn turn_time(options: &Options) -> Duration {
    Duration::from_secs(options.seconds().min(20).into())
}

/// Fills a store as fast as the server takes events, and makes each turn once. Returns that rate, and the turns in the
/// order of [`TURNS`].
fn round(options: &Options, number: u32) -> anyhow::Result<(f64, Vec<Took>)> {
    let workload = workload(options);
    let directory = Scratch::new(options, "mixed")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let load = Load {
        address: server.address,
        workload,
        batch: BATCH,
        connections: connections(options, BATCH),
        results: Results::Counts,
        key: None,
    };
    let (filled, _) = as_fast_as_possible(load, 0..options.run_events(), None)?;
    filled.check(&workload, 0)?;
    let (full_rate, mut made) = (filled.rate(), filled.deliveries);
    let mut turns: Vec<Option<Took>> = TURNS.iter().map(|_| None).collect();
    for place in order(TURNS.len(), number) {
        let (name, pace) = TURNS[place];
        let (took, more) =
            turn(load, &server, made, full_rate / 2.0, turn_time(options), pace).context(name)?;
        made += more;
        server.check_stats(&workload, made)?;
        turns[place] = Some(took);
    }
    Ok((full_rate, turns.into_iter().flatten().collect()))
}

/// Publishes at `due` deliveries a second from delivery `first` on, beside reads at this pace. Returns how many were made.
fn turn(
    load: Load,
    server: &Server,
    first: u64,
    due: f64,
    duration: Duration,
    pace: Option<Pace>,
) -> anyhow::Result<(Took, u64)> {
    let publish = || {
        let before = cpu_seconds(server.pid())?;
        let done = steady(load, first, due, duration)?;
        let cpu_seconds = cpu_seconds(server.pid())? - before;
        done.check(&load.workload, first)?;
        anyhow::Ok((done, cpu_seconds))
    };
    let ((done, cpu_seconds), read) = match pace {
        None => (publish()?, Vec::new()),
        Some(pace) => beside_reads(load, first, pace, publish)?,
    };
    let mut kinds = vec![("publish", done.latency.clone())];
    kinds.extend(read);
    let (rate, seconds) = (done.rate(), done.seconds);
    let took = Took { rate, kept: rate / due, seconds, cpu_seconds, kinds };
    took.tell();
    Ok((took, done.deliveries))
}

type Kinds = Vec<(&'static str, Histogram<u64>)>;

/// Reads while `publish` runs. Fails if what was read is not what is stored.
fn beside_reads(
    load: Load,
    first: u64,
    pace: Pace,
    publish: impl FnOnce() -> anyhow::Result<(Done, f64)>,
) -> anyhow::Result<((Done, f64), Kinds)> {
    let Load { address, workload, .. } = load;
    let stored = workload.identities(first);
    let end = OnceLock::new();
    let reads = Reads { address, workload, topics: TOPICS, stored, pace, end: &end };
    let streams = Readers::start(address, STREAMS, STREAMS)?;
    let (published, mut kinds) = thread::scope(|scope| {
        let readers = KINDS.map(|(name, read)| (name, scope.spawn(move || read(reads))));
        let published = publish();
        // The readers end also if publishing has failed.
        let _ =
            end.set(published.as_ref().map_or(0, |(done, _)| workload.identities(first + done.deliveries)));
        let mut kinds = Vec::new();
        for (name, reader) in readers {
            let read = reader.join().map_err(|_| anyhow!("a reader panicked"))?;
            if published.is_ok() {
                kinds.push((name, read.with_context(|| name)?));
            }
        }
        anyhow::Ok((published?, kinds))
    })?;
    let new = stored..workload.identities(first + published.0.deliveries);
    let of_streams = new.filter(|&identity| workload.topic(identity) < u64::from(STREAMS)).count();
    kinds.push(("an event, from `processed_at` to a stream", streams.finish(of_streams as u64)?));
    Ok((published, kinds))
}

impl Took {
    fn quantile_ms(&self, kind: usize, quantile: f64) -> f64 {
        milliseconds(self.kinds[kind].1.value_at_quantile(quantile))
    }

    fn tell(&self) {
        let Self { rate, kept, cpu_seconds, .. } = self;
        eprintln!(
            "mixed: {rate:.0} deliveries/s, {kept:.3} of what was due, {cpu_seconds} s of the server's processor"
        );
        for (kind, (name, took)) in self.kinds.iter().enumerate() {
            let [p50, p99] = [0.5, 0.99].map(|quantile| self.quantile_ms(kind, quantile));
            eprintln!("mixed: {name}: {} in all, p50 {p50} ms, p99 {p99} ms", took.len());
        }
    }
}

impl Turn {
    fn of(name: &'static str, place: usize, rounds: &[Vec<Took>]) -> Self {
        let of = |figure: &dyn Fn(&Took) -> f64| Spread::of(rounds.iter().map(|round| figure(&round[place])));
        let requests = rounds[0][place].kinds.iter().enumerate().map(|(kind, &(name, _))| Requests {
            name,
            per_second: of(&|took| per_second(took.kinds[kind].1.len(), took.seconds)),
            p50_ms: of(&|took| took.quantile_ms(kind, 0.5)),
            p99_ms: of(&|took| took.quantile_ms(kind, 0.99)),
        });
        let to_alone = |round: &Vec<Took>| round[place].quantile_ms(0, 0.99) / round[0].quantile_ms(0, 0.99);
        Self {
            name,
            rate: of(&|took| took.rate),
            kept: of(&|took| took.kept),
            cpu: of(&|took| took.cpu_seconds / took.seconds),
            p99_to_alone: Spread::of(rounds.iter().map(to_alone)),
            requests: requests.collect(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

#[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_compared_with_that_alone_of_its_own_round() {
        let took = |us: u64, kept: f64| {
            let mut latency = crate::load::histogram();
            latency.record(us).unwrap();
            Took { rate: 100.0, kept, seconds: 2.0, cpu_seconds: 1.0, kinds: vec![("publish", latency)] }
        };
        let rounds = [vec![took(500, 1.0), took(1_500, 0.9)], vec![took(1_000, 1.0), took(1_000, 0.7)]];
        let turn = Turn::of("beside", 1, &rounds);
        assert_eq!((turn.p99_to_alone.min, turn.p99_to_alone.max), (1.0, 3.0));
        assert_eq!((turn.kept.min, turn.kept.max, turn.cpu.median), (0.7, 0.9, 0.5));
        let [publish] = &turn.requests[..] else { panic!("one kind") };
        assert_eq!((publish.per_second.median, publish.p99_ms.max), (0.5, 1.5));
    }
}
