//! The command line.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Parser, ValueEnum};

/// Measures the aggregator end to end and writes a report. `scripts/bench` builds and calls it.
#[derive(Debug, Clone, Parser)]
#[command(name = "aggregator-bench", max_term_width = 110)]
pub(crate) struct Options {
    /// The aggregator-server to measure
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: PathBuf,

    /// The directory for stores that are measured
    #[arg(long, value_name = "DIR")]
    pub(crate) work: PathBuf,

    /// The directory for the report
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// What to measure [default: everything but many topics and the rivals]
    #[arg(long, value_enum, num_args = 1.., value_name = "NAME")]
    only: Vec<Measure>,

    /// In the groups `ingest`, `latency`, `overload`, `scale` and `rivals`, only lines with one of these texts in their names
    #[arg(long, num_args = 1.., value_name = "TEXT")]
    lines: Vec<String>,

    /// The texts of `lines` that were found in the name of a line.
    #[arg(skip)]
    found: Arc<Mutex<BTreeSet<String>>>,

    /// Measure the rivals as well
    #[arg(long)]
    rivals: bool,

    /// Use small sizes, to see that everything works: the figures mean little
    #[arg(long)]
    pub(crate) quick: bool,

    /// Deliveries of the growth curve [default: 10000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(100_000..=10_000_000_000))]
    events: Option<u64>,

    /// Fill the page cache with another file before the growth curve is measured
    #[arg(long)]
    pub(crate) full_cache: bool,

    /// Deliveries of a run in batches of 500; other runs have a share of them [default: 2000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(50_000..=1_000_000_000))]
    run_events: Option<u64>,

    /// How often each run is repeated; the table has medians [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,

    /// Seconds of each steady load [default: 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,

    /// Deliveries to each rival, unless --rival-seconds ends them sooner [default: 2000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000))]
    rivals_events: Option<u64>,

    /// Each rival is stopped after this long [default: 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    rival_seconds: Option<u32>,

    /// Connections that send batches of 500. Batches of 50 and batches over PostgreSQL get four times as many, and
    /// single events 64
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) connections: u32,

    /// How many topics the events are spread over
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) topics: u16,

    /// The seed of the ids
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A group of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Deliveries per second over HTTP, beside plain SQLite
    Ingest,
    /// How throughput, memory and disk change as the store grows; restarts after kill -9
    Growth,
    /// Reading all events in pages; lookups of unknown ids
    Read,
    /// Streams of events: their delay, how much they slow ingest down, and the cost of an idle stream
    Tails,
    /// Many connections, ten times the load that the server can take, and slow clients
    Overload,
    /// Latency under a steady load
    Latency,
    /// The store over PostgreSQL: partitions, nodes, and a raw insert of the same rows
    Scale,
    /// Writes of records per second, and how much they slow ingest down
    Records,
    /// Publishing while a rule of retention purges a store of --run-events
    Retention,
    /// Pages, lookups, lists of topics and streams beside ingest at half of its full rate
    Mixed,
    /// Publishing to 4 topics and up to 100,000
    Topics,
    /// The same deliveries to other systems
    Rivals,
}

impl Options {
    pub(crate) fn measures(&self, measure: Measure) -> bool {
        match measure {
            Measure::Rivals if self.rivals => true,
            // They take half an hour.
            Measure::Rivals | Measure::Topics => self.only.contains(&measure),
            _ => self.only.is_empty() || self.only.contains(&measure),
        }
    }

    /// Whether a line of the groups that have lines was asked for. The texts that match it are noted as found.
    pub(crate) fn has_line(&self, name: &str) -> bool {
        let is_asked: Vec<_> = self.lines.iter().filter(|text| name.contains(text.as_str())).collect();
        let has = self.lines.is_empty() || !is_asked.is_empty();
        self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(is_asked.into_iter().cloned());
        has
    }

    /// The texts that no line had in its name: misspelt ones, or names of another group.
    pub(crate) fn lines_not_found(&self) -> Vec<&str> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        self.lines.iter().filter(|text| !found.contains(*text)).map(String::as_str).collect()
    }

    pub(crate) fn events(&self) -> u64 {
        self.events.unwrap_or(if self.quick { 200_000 } else { 10_000_000 })
    }

    pub(crate) fn run_events(&self) -> u64 {
        self.run_events.unwrap_or(if self.quick { 50_000 } else { 2_000_000 })
    }

    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub(crate) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 60 })
    }

    #[cfg_attr(not(feature = "rivals"), expect(dead_code, reason = "the rivals are a feature"))]
    pub(crate) fn rivals_events(&self) -> u64 {
        self.rivals_events.unwrap_or(if self.quick { 20_000 } else { 2_000_000 })
    }

    #[cfg_attr(not(feature = "rivals"), expect(dead_code, reason = "the rivals are a feature"))]
    pub(crate) fn rival_seconds(&self) -> u32 {
        self.rival_seconds.unwrap_or(if self.quick { 5 } else { 60 })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_rivals_are_asked_for() {
        Options::command().debug_assert();
        let given = |arguments: &[&str]| {
            let fixed = ["aggregator-bench", "--server", "s", "--work", "w", "--out", "o"];
            Options::parse_from([&fixed[..], arguments].concat())
        };
        assert!(given(&[]).measures(Measure::Growth) && !given(&[]).measures(Measure::Rivals));
        assert!(
            given(&["--rivals"]).measures(Measure::Growth) && given(&["--rivals"]).measures(Measure::Rivals)
        );
        let only = given(&["--only", "read", "latency", "--rivals"]);
        assert!(only.measures(Measure::Read) && !only.measures(Measure::Growth));
    }

    #[test]
    fn a_text_that_no_line_has_in_its_name_is_reported() {
        let options = Options::parse_from(
            "aggregator-bench --server s --work w --out o --lines single Pyhton".split(' '),
        );
        assert!(options.has_line("single events") && !options.has_line("Python"));
        assert_eq!(options.lines_not_found(), ["Pyhton"]);
    }
}
