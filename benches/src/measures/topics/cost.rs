//! What a topic costs: memory, and time at a start.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::load::{Load, as_fast_as_possible};
use crate::measures::{Scratch, Spread, connections, settle};
use crate::options::Options;
use crate::process::Memory;
use crate::server::Server;
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

const BATCH: u32 = 500;

/// As many deliveries as make nearly all of the topics, and some more of each.
const DELIVERIES_A_TOPIC: u64 = 4;

/// Starts of the same store.
const STARTS: usize = 3;

/// Two stores with as many events: one of a few topics, and one of very many.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TopicCost {
    pub(crate) deliveries: u64,
    pub(crate) few: Costs,
    pub(crate) many: Costs,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Costs {
    pub(crate) topics: u64,
    /// Of the process, once all is stored.
    pub(crate) resident_bytes: u64,
    /// From the start of a process to its first readiness, after `kill -9`.
    pub(crate) start_seconds: Spread,
}

impl TopicCost {
    /// Memory that each topic takes beyond what the same events take in few topics.
    #[expect(clippy::cast_precision_loss, reason = "figures need no 53 bits")]
    pub(crate) fn bytes_a_topic(&self) -> f64 {
        let more = self.many.resident_bytes.saturating_sub(self.few.resident_bytes);
        more as f64 / (self.many.topics - self.few.topics) as f64
    }
}

pub(crate) fn measure(options: &Options, measured: &mut Option<TopicCost>) -> anyhow::Result<()> {
    let most: u64 = if options.quick { 10_000 } else { 1_000_000 };
    let deliveries = most * DELIVERIES_A_TOPIC;
    let few = one(options, 4, deliveries)?;
    let many = one(options, most, deliveries)?;
    let cost = TopicCost { deliveries, few, many };
    eprintln!(
        "topics: {} take {:.0} bytes of memory each; ready after {:.2} s, and {:.2} s with {} topics",
        cost.many.topics,
        cost.bytes_a_topic(),
        cost.many.start_seconds.median,
        cost.few.start_seconds.median,
        cost.few.topics
    );
    *measured = Some(cost);
    Ok(())
}

fn one(options: &Options, topics: u64, deliveries: u64) -> anyhow::Result<Costs> {
    settle()?;
    let workload = Workload::new(options.seed, RECENT, topics);
    let directory = Scratch::new(options, "topics")?;
    let store = format!("sqlite:{}", directory.path().join("events.db").display());
    let arguments = ["--max-topics", "1000000", "--store", &store];
    let mut server = Server::start_with(&options.server, &arguments, directory.path())?;
    let load = Load {
        address: server.address,
        workload,
        batch: BATCH,
        connections: connections(options, BATCH),
        results: Results::Counts,
        key: None,
    };
    let (done, _) = as_fast_as_possible(load, 0..deliveries, None)?;
    done.check(&workload, 0)?;
    let resident_bytes = Memory::of(server.pid())?.resident;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..STARTS {
        server.kill();
        let started = Instant::now();
        server = Server::start_with(&options.server, &arguments, directory.path())?;
        times.push(started.elapsed());
        server.check_stats(&workload, deliveries)?;
    }
    let identities = 0..workload.identities(deliveries);
    let made: HashSet<_> = identities.map(|identity| workload.topic(identity)).collect();
    let start_seconds = Spread::of(times.iter().map(Duration::as_secs_f64));
    Ok(Costs { topics: made.len() as u64, resident_bytes, start_seconds })
}
