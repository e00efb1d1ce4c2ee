//! The runs of the store over PostgreSQL.

use crate::measures::SINGLE_CONNECTIONS;
use crate::options::Options;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Raw { partitions: u16 },
    Direct { partitions: u16 },
    Http { partitions: u16, nodes: u32, batch: u32, connections: u32, balanced: bool },
}

/// What is measured, and what it is compared with.
pub(super) struct Run {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) deliveries: u64,
    /// The raw insert that it is compared with.
    pub(super) raw: Option<Kind>,
    /// The run with the fewest partitions or nodes that it is compared with.
    pub(super) least: Option<Kind>,
}

/// Connections to the database that append: as many as a server has workers by default.
pub(super) const APPENDERS: usize = 4;

/// Connections that send batches: enough that each partition has a group worth its commit.
pub(super) fn connections(options: &Options, batch: u32) -> u32 {
    if batch == 1 { SINGLE_CONNECTIONS } else { options.connections * 4 }
}

pub(super) fn runs(options: &Options) -> Vec<Run> {
    let all = options.run_events() / 10;
    let mut runs = Vec::new();
    for partitions in [1, 4, 16] {
        let kind = Kind::Raw { partitions };
        runs.push(run(format!("raw insert, partitions: {partitions}, {}", in_flight(partitions)), all, kind));
    }
    for partitions in [1, 4, 16] {
        let name = format!("store, partitions: {partitions}, {}", in_flight(partitions));
        runs.push(Run {
            raw: Some(Kind::Raw { partitions }),
            least: (partitions > 1).then_some(Kind::Direct { partitions: 1 }),
            ..run(name, all, Kind::Direct { partitions })
        });
    }
    let mut http = |partitions, nodes, batch, way: Way| {
        let kind = |partitions, nodes| {
            let shares = if way == Way::LoadEach { nodes } else { 1 };
            let connections = connections(options, batch) * shares;
            Kind::Http { partitions, nodes, batch, connections, balanced: way == Way::Balanced }
        };
        let this = kind(partitions, nodes);
        // Only batches that are spread have a line with one partition.
        let least = match (nodes, batch, way) {
            (1, 500, Way::Spread) => kind(1, 1),
            (1, ..) => kind(4, 1),
            _ => kind(partitions, 1),
        };
        let what = if batch == 1 { "single events".to_owned() } else { format!("batches of {batch}") };
        let name = format!("HTTP, {what}, partitions: {partitions}, nodes: {nodes}{}", way.name());
        runs.push(Run {
            raw: (batch > 1).then_some(Kind::Raw { partitions }),
            least: (this != least).then_some(least),
            ..run(name, if batch == 1 { all / 10 } else { all }, this)
        });
    };
    http(1, 1, 500, Way::Spread);
    for batch in [500, 1] {
        for (partitions, nodes) in [(4, 1), (4, 3), (16, 1), (16, 3)] {
            http(partitions, nodes, batch, Way::Spread);
        }
        for partitions in [4, 16] {
            http(partitions, 3, batch, Way::LoadEach);
        }
        for (partitions, nodes) in [(4, 1), (4, 3), (16, 1), (16, 3)] {
            http(partitions, nodes, batch, Way::Balanced);
        }
    }
    runs.retain(|run| options.has_line(&run.name));
    runs
}

/// How the load is distributed over the nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The same number of connections for any number of nodes, spread over the nodes.
    Spread,
    /// As many connections to each node as to a single one.
    LoadEach,
    /// The same number of connections for any number of nodes, through the balancer.
    Balanced,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Spread => "",
            Self::LoadEach => " with a load each",
            Self::Balanced => " behind HAProxy",
        }
    }
}

fn run(name: String, deliveries: u64, kind: Kind) -> Run {
    Run { name, kind, deliveries, raw: None, least: None }
}

fn in_flight(partitions: u16) -> String {
    format!("connections: {}", APPENDERS.min(partitions.into()))
}
