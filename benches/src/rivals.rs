//! Other ways to store each event once, measured with the same deliveries.
//!
//! To be fair, the rivals get batches, pipelining, several connections and the settings that their manuals advise. They
//! get no HTTP in between, except the one that is an HTTP service. A rival must store exactly what the workload
//! expects, or it has no line. A line without dedup must store every delivery, and says so.

mod drive;
mod nats;
mod postgres;
mod programs;
mod python;
mod redis;
mod sqlite;

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;

use self::drive::Driven;
use crate::load::{Load, Watched, as_fast_as_possible};
use crate::measures::{Scratch, Spread, connections, order, settle};
use crate::options::Options;
use crate::process::{Memory, disk_bytes};
use crate::report::{RivalFigures, RivalLine, RivalOutcome};
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// The result of trying a rival.
pub(crate) enum Tried {
    Done(Measured),
    /// The programs that are missing, and how to get them.
    NotInstalled(&'static str),
}

pub(crate) struct Measured {
    driven: Driven,
    resident_bytes: u64,
    disk_bytes: u64,
}

const OURS: &str = "this aggregator, batches of 500";
const OURS_50: &str = "this aggregator, batches of 50";

/// A rival, and how to measure it.
struct Rival {
    name: &'static str,
    how: &'static str,
    durability: &'static str,
    /// Our line that it is compared with: the one whose batch size is closest to its own.
    beside: &'static str,
    /// Whether it recognizes repeats.
    has_dedup: bool,
    try_it: fn(&Options, &Workload) -> anyhow::Result<Tried>,
}

/// Every round tries each rival once. A rival that fails keeps its earlier runs, and is left out from then on. Returns
/// what failed.
pub(crate) fn measure(options: &Options, lines: &mut Vec<RivalLine>) -> Vec<anyhow::Error> {
    let mut failures = Vec::new();
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let mut trials: Vec<(Rival, Trials)> =
        asked_for(options).into_iter().map(|rival| (rival, Trials::default())).collect();
    for round in 1..=options.rounds() {
        for place in order(trials.len(), round) {
            let (rival, Trials { runs, over }) = &mut trials[place];
            if over.is_some() {
                continue;
            }
            match settle().and_then(|()| rival.run(options, &workload)) {
                Ok(Tried::Done(measured)) => {
                    eprintln!("rivals, round {round}: {}: {:.0}/s", rival.name, measured.driven.rate());
                    runs.push(measured);
                }
                Ok(Tried::NotInstalled(how_to_get_it)) => *over = Some(Over::NotInstalled(how_to_get_it)),
                Err(error) => {
                    failures.push(error.context(format!("round {round}")));
                    *over = Some(Over::Failed);
                }
            }
        }
    }
    let rates = |name: &'static str| -> (&str, Vec<f64>) {
        let ours = trials.iter().find(|(rival, _)| rival.name == name);
        let runs = ours.into_iter().flat_map(|(_, trials)| &trials.runs);
        (name, runs.map(|run| run.driven.rate()).collect())
    };
    let ours = HashMap::from([OURS, OURS_50].map(rates));
    let line = |(rival, Trials { mut runs, over }): (Rival, Trials)| {
        let outcome = match over {
            Some(Over::NotInstalled(how_to_get_it)) => RivalOutcome::NotInstalled(how_to_get_it.to_owned()),
            _ if runs.is_empty() => return None,
            _ => RivalOutcome::Measured(figures(&mut runs, &workload, &ours[rival.beside])),
        };
        let (name, how, durability) = (rival.name.into(), rival.how.into(), rival.durability.into());
        Some(RivalLine { name, how, durability, outcome })
    };
    lines.extend(trials.into_iter().filter_map(line));
    failures
}

/// The results of a rival so far.
#[derive(Default)]
struct Trials {
    /// The runs of the first rounds, without a gap.
    runs: Vec<Measured>,
    /// Why it is left out from now on.
    over: Option<Over>,
}

enum Over {
    NotInstalled(&'static str),
    Failed,
}

impl Rival {
    fn run(&self, options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
        let tried = (self.try_it)(options, workload).with_context(|| self.name)?;
        if let Tried::Done(measured) = &tried {
            measured.driven.check(workload, self.has_dedup).with_context(|| self.name)?;
        }
        Ok(tried)
    }
}

fn rivals() -> Vec<Rival> {
    let rival = |name, how, durability, try_it| Rival {
        name,
        how,
        durability,
        beside: OURS,
        has_dedup: true,
        try_it,
    };
    let nats = nats::LINES.map(|line| Rival {
        name: line.name,
        how: line.how,
        durability: line.durability,
        beside: OURS,
        has_dedup: line.has_dedup,
        try_it: line.try_it,
    });
    let mut rivals = vec![
        rival(
            OURS,
            "over HTTP, the server's default options; the others are compared with this line",
            "committed and fsynced",
            |options, workload| ours(options, workload, 500),
        ),
        rival(
            OURS_50,
            "the same in smaller batches, over four times as many connections; the earlier design, which has batches of \
             50, is compared with this line",
            "committed and fsynced",
            |options, workload| ours(options, workload, 50),
        ),
        rival(sqlite::TEXT_KEY, sqlite::HOW, sqlite::DURABILITY, sqlite::text_key),
        rival(sqlite::UNIQUE_INDEX, sqlite::HOW, sqlite::DURABILITY, sqlite::unique_index),
        rival(postgres::UNNEST, postgres::UNNEST_HOW, postgres::DURABILITY, postgres::unnest),
        rival(postgres::COPY, postgres::COPY_HOW, postgres::DURABILITY, postgres::copy),
        rival(redis::NAME, redis::HOW, redis::DURABILITY, redis::measure),
    ];
    rivals.extend(nats);
    rivals.push(Rival {
        beside: OURS_50,
        ..rival(python::NAME, python::HOW, python::DURABILITY, python::measure)
    });
    rivals
}

/// The rivals whose lines were asked for, and the lines that they are compared with.
fn asked_for(options: &Options) -> Vec<Rival> {
    let mut all = rivals();
    let names: HashSet<_> =
        all.iter().filter(|rival| options.has_line(rival.name)).map(|rival| rival.name).collect();
    let beside: HashSet<_> =
        all.iter().filter(|rival| names.contains(rival.name)).map(|rival| rival.beside).collect();
    all.retain(|rival| names.contains(rival.name) || beside.contains(rival.name));
    all
}

fn ours(options: &Options, workload: &Workload, batch: u32) -> anyhow::Result<Tried> {
    let directory = Scratch::new(options, "ours")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let load = Load {
        address: server.address,
        workload: *workload,
        batch,
        connections: connections(options, batch),
        results: Results::Counts,
        key: None,
    };
    let watched =
        Watched { samples: drive::POINTS, pid: server.pid(), directory: directory.path().to_owned() };
    let (done, progress) = as_fast_as_possible(load, 0..options.rivals_events(), Some(watched))?;
    server.check_stats(workload, done.deliveries)?;
    let driven = Driven {
        deliveries: done.deliveries,
        stored: done.counts.stored,
        seconds: done.seconds,
        cut_short: false,
        points: progress.samples.iter().map(|sample| (sample.deliveries, sample.seconds)).collect(),
    };
    let resident_bytes = Memory::of(server.pid())?.resident;
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

/// `ours` has our rates in the same rounds.
fn figures(runs: &mut [Measured], workload: &Workload, ours: &[f64]) -> RivalFigures {
    let ours_to_this = Spread::of_any(ours.iter().zip(&*runs).map(|(ours, run)| ours / run.driven.rate()));
    runs.sort_by(|one, other| one.driven.rate().total_cmp(&other.driven.rate()));
    let rate = Spread::of(runs.iter().map(|run| run.driven.rate()));
    let Measured { driven, resident_bytes, disk_bytes } = &runs[runs.len() / 2];
    RivalFigures {
        deliveries: driven.deliveries,
        identities: workload.identities(driven.deliveries),
        cut_short: driven.cut_short,
        rate,
        first_tenth: driven.rate_between(0.0, 0.1),
        last_tenth: driven.rate_between(0.9, 1.0),
        ours_to_this,
        resident_bytes: *resident_bytes,
        disk_bytes: *disk_bytes,
        curve: driven.curve(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_name_of_its_own_and_is_compared_with_one_of_ours() {
        let rivals = rivals();
        let names: HashSet<_> = rivals.iter().map(|rival| rival.name).collect();
        assert_eq!(names.len(), rivals.len());
        assert!(rivals.iter().all(|rival| [OURS, OURS_50].contains(&rival.beside)));
    }

    #[test]
    fn a_line_without_dedup_says_that_it_stores_repeats() {
        for rival in rivals() {
            assert_eq!(
                rival.durability.contains("repeats are stored again"),
                !rival.has_dedup,
                "{}",
                rival.name
            );
        }
    }
}
