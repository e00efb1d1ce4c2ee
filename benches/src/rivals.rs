//! Other ways to store each event once, given the same deliveries.
//!
//! To be fair to them: they get batches, pipelining and several connections, the settings their manuals advise
//! for the job, and no HTTP in between (but for the one that is an HTTP service). Every one has to store exactly
//! what the workload knows, or it has no line.

mod drive;
mod nats;
mod postgres;
mod programs;
mod python;
mod redis;
mod sqlite;

use anyhow::{Context as _, bail};

use self::drive::Driven;
use crate::load::{Load, Watched, as_fast_as_possible};
use crate::measures::{Scratch, Spread, connections};
use crate::options::Options;
use crate::process::{Memory, disk_bytes};
use crate::report::{RivalFigures, RivalLine, RivalOutcome};
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

/// What a rival's line is made of.
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

/// A rival, and how to measure it.
struct Rival {
    name: &'static str,
    how: &'static str,
    durability: &'static str,
    try_it: fn(&Options, &Workload) -> anyhow::Result<Tried>,
}

/// Every round tries each of them once; a line tells of the run in the middle. One that fails is left out
/// from then on.
pub(crate) fn measure(
    options: &Options,
    failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Vec<RivalLine>> {
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let mut trials: Vec<(Rival, Trials)> =
        rivals().into_iter().map(|rival| (rival, Trials::Runs(Vec::new()))).collect();
    for round in 1..=options.rounds() {
        for (rival, trials) in &mut trials {
            let Trials::Runs(runs) = trials else { continue };
            match rival.run(options, &workload) {
                Ok(Tried::Done(measured)) => {
                    eprintln!("rivals, round {round}: {}: {:.0}/s", rival.name, measured.driven.rate());
                    runs.push(measured);
                }
                Ok(Tried::NotInstalled(how_to_get_it)) => *trials = Trials::NotInstalled(how_to_get_it),
                Err(error) => {
                    failures.push(error);
                    *trials = Trials::Failed;
                }
            }
        }
    }
    let Some((_, Trials::Runs(ours))) = trials.first() else {
        bail!("without our own figures there is nothing to compare with");
    };
    let ours = Spread::of(ours.iter().map(|run| run.driven.rate())).median;
    let line = |(rival, trials): (Rival, Trials)| {
        let outcome = match trials {
            Trials::Failed => return None,
            Trials::NotInstalled(how_to_get_it) => RivalOutcome::NotInstalled(how_to_get_it.to_owned()),
            Trials::Runs(mut runs) => RivalOutcome::Measured(figures(&mut runs, &workload, ours)),
        };
        let (name, how, durability) = (rival.name.into(), rival.how.into(), rival.durability.into());
        Some(RivalLine { name, how, durability, outcome })
    };
    Ok(trials.into_iter().filter_map(line).collect())
}

/// What came of a rival so far.
enum Trials {
    Runs(Vec<Measured>),
    NotInstalled(&'static str),
    Failed,
}

impl Rival {
    fn run(&self, options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
        let tried = (self.try_it)(options, workload).with_context(|| self.name)?;
        if let Tried::Done(measured) = &tried {
            measured.driven.check(workload).with_context(|| self.name)?;
        }
        Ok(tried)
    }
}

fn rivals() -> Vec<Rival> {
    let rival = |name, how, durability, try_it| Rival { name, how, durability, try_it };
    vec![
        rival(
            "this aggregator, batches of 500",
            "over HTTP, the server's default options; all ratios are to this line",
            "committed and fsynced",
            |options, workload| ours(options, workload, 500),
        ),
        rival(
            "this aggregator, batches of 50",
            "the same in smaller batches, over four times as many connections",
            "committed and fsynced",
            |options, workload| ours(options, workload, 50),
        ),
        rival(sqlite::TEXT_KEY, sqlite::HOW, sqlite::DURABILITY, sqlite::text_key),
        rival(sqlite::UNIQUE_INDEX, sqlite::HOW, sqlite::DURABILITY, sqlite::unique_index),
        rival(postgres::NAME, postgres::HOW, postgres::DURABILITY, postgres::measure),
        rival(redis::NAME, redis::HOW, redis::DURABILITY, redis::measure),
        rival(nats::MSG_ID, nats::MSG_ID_HOW, nats::DURABILITY, nats::msg_id),
        rival(nats::SUBJECTS, nats::SUBJECTS_HOW, nats::DURABILITY, nats::subjects),
        rival(python::NAME, python::HOW, python::DURABILITY, python::measure),
    ]
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

fn figures(runs: &mut [Measured], workload: &Workload, ours: f64) -> RivalFigures {
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
        ours_to_this: ours / rate.median,
        resident_bytes: *resident_bytes,
        disk_bytes: *disk_bytes,
        curve: driven.curve(),
    }
}
