//! Measures the aggregator from outside, as `scripts/bench` asks.

mod append;
mod load;
mod measures;
mod options;
mod plots;
mod process;
mod report;
#[cfg(feature = "rivals")]
mod rivals;
mod server;
mod wire;
mod workload;

use anyhow::{Context as _, ensure};
use clap::Parser as _;

use crate::measures::machine::Machine;
use crate::measures::{growth, ingest, latency, read};
use crate::options::{Measure, Options};
use crate::report::Report;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    process::end_all_on_signals().context("signals cannot be handled")?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("{}", options.out.display()))?;
    std::fs::create_dir_all(&options.work).with_context(|| format!("{}", options.work.display()))?;

    let mut report = Report::new(&options, Machine::look(&options)?);
    let failures = measure(&options, &mut report);
    plots::write(&report, &options.out).context("the plots")?;
    let markdown = report.write(&options.out)?;
    println!("{markdown}");
    for failure in &failures {
        eprintln!("aggregator-bench: {failure:#}");
    }
    ensure!(failures.is_empty(), "the report is not whole: {} measures failed", failures.len());
    Ok(())
}

/// Fills in the report. What fails does not take the others' figures with it.
fn measure(options: &Options, report: &mut Report) -> Vec<anyhow::Error> {
    let mut failures = Vec::new();
    if options.measures(Measure::Ingest) {
        let measured = ingest::measure(options).context("ingest");
        measured.map_or_else(|error| failures.push(error), |lines| report.ingest = lines);
    }
    if options.measures(Measure::Growth) {
        let measured = growth::measure(options).context("growth");
        measured.map_or_else(|error| failures.push(error), |growth| report.growth = Some(growth));
    }
    if options.measures(Measure::Read) {
        let measured = read::measure(options).context("read");
        measured.map_or_else(|error| failures.push(error), |readings| report.read = readings);
    }
    if options.measures(Measure::Latency) {
        let measured = latency::measure(options).context("latency");
        measured.map_or_else(|error| failures.push(error), |steady| report.latency = steady);
    }
    if options.measures(Measure::Rivals) {
        let measured = measure_rivals(options, &mut failures);
        measured.map_or_else(|error| failures.push(error), |lines| report.rivals = lines);
    }
    failures
}

/// Those that fail are in `failures`, and not in the lines.
#[cfg(feature = "rivals")]
fn measure_rivals(
    options: &Options,
    failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Vec<report::RivalLine>> {
    rivals::measure(options, failures).context("rivals")
}

#[cfg(not(feature = "rivals"))]
fn measure_rivals(
    _options: &Options,
    _failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Vec<report::RivalLine>> {
    anyhow::bail!("this program was built without the feature `rivals`: scripts/bench --rivals builds it")
}
