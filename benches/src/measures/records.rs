//! Writes of records to the SQLite store: how many a second, and how much they slow ingest down. There is no server,
//! because no route serves records.

pub(crate) mod beside_ingest;
mod writers;

use std::path::Path;
use std::thread;
use std::time::Duration;

use aggregator_core::SqliteStore;
use anyhow::Context as _;
use serde::Serialize;

pub(crate) use self::writers::{RECORDS_EACH, VALUE_BYTES};
use self::writers::{Writers, Written};
use super::{Scratch, Spread, order, settle};
use crate::load::histogram;
use crate::options::Options;

const THREADS: [usize; 3] = [1, 8, 64];

/// The figures of threads that write as fast as they can.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Writing {
    pub(crate) threads: usize,
    /// In all rounds.
    pub(crate) writes: u64,
    /// Writes per second.
    pub(crate) rate: Spread,
    /// In all rounds. A thread makes its next write once the last one is done.
    pub(crate) p99_ms: f64,
}

pub(crate) fn measure(options: &Options, measured: &mut Vec<Writing>) -> anyhow::Result<()> {
    let mut runs = THREADS.map(|_| Vec::new());
    let done = measure_rounds(options, &mut runs);
    let runs = THREADS.into_iter().zip(&runs).filter(|(_, runs)| !runs.is_empty());
    measured.extend(runs.map(|(threads, runs)| Writing::of(threads, runs)));
    done
}

fn measure_rounds(options: &Options, runs: &mut [Vec<Written>; THREADS.len()]) -> anyhow::Result<()> {
    let duration = Duration::from_millis(if options.quick { 500 } else { 1_500 });
    for round in 1..=options.rounds() {
        for place in order(THREADS.len(), round) {
            let threads = THREADS[place];
            settle()?;
            let written = one(options, threads, duration)
                .with_context(|| format!("round {round}: writing records with {threads} threads"))?;
            eprintln!("records, round {round}: {threads} threads: {:.0} writes/s", written.rate());
            runs[place].push(written);
        }
    }
    Ok(())
}

/// Makes one run on a fresh store.
fn one(options: &Options, threads: usize, duration: Duration) -> anyhow::Result<Written> {
    let directory = Scratch::new(options, "records")?;
    let store = open(directory.path())?;
    let mut writers = Writers::create(&store, threads)?;
    let ((), written) = writers.write_while(None, || thread::sleep(duration))?;
    writers.check()?;
    Ok(written)
}

fn open(directory: &Path) -> anyhow::Result<SqliteStore> {
    SqliteStore::open(directory.join("events.db")).context("a store cannot be made")
}

impl Writing {
    fn of(threads: usize, runs: &[Written]) -> Self {
        let mut took = histogram();
        for written in runs {
            took.add(&written.took).expect("all histograms have the same bounds");
        }
        Self {
            threads,
            writes: took.len(),
            rate: Spread::of(runs.iter().map(Written::rate)),
            p99_ms: writers::ms(took.value_at_quantile(0.99)),
        }
    }
}
