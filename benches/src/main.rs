//! Measures the aggregator from outside. `scripts/bench` builds and runs it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to whoever started it")]

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
mod watcher;
mod wire;
mod workload;

use anyhow::{Context as _, anyhow, ensure};
use clap::Parser as _;

use crate::measures::machine::Machine;
use crate::measures::{
    growth, ingest, latency, mixed, overload, read, records, retention, scale, tails, topics,
};
use crate::options::{Measure, Options};
use crate::report::Report;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    process::end_all_on_signals().context("signals cannot be handled")?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("{}", options.out.display()))?;
    std::fs::create_dir_all(&options.work).with_context(|| format!("{}", options.work.display()))?;

    let mut report = Report::new(&options, Machine::look(&options)?);
    measure(&options, &mut report);
    let markdown = report.write(&options.out)?;
    println!("{markdown}");
    let failures = report.failures.len();
    ensure!(failures == 0, "the report is not complete: {failures} measurements failed");
    Ok(())
}

/// Fills in the report. A measurement that fails keeps the figures it already has, and the others go on.
fn measure(options: &Options, report: &mut Report) {
    let mut failures = Vec::new();
    let mut note = |name: &'static str, measured: anyhow::Result<()>| {
        failures.extend(measured.context(name).err());
    };
    if options.measures(Measure::Ingest) {
        note("ingest", ingest::measure(options, &mut report.ingest));
    }
    if options.measures(Measure::Growth) {
        note("growth", growth::measure(options, &mut report.growth));
    }
    if options.measures(Measure::Read) {
        note("read", read::measure(options, &mut report.read));
        note("lookups", read::unknown::measure(options, &mut report.lookups));
    }
    if options.measures(Measure::Tails) {
        note("tails", tails::measure(options, &mut report.tails));
    }
    if options.measures(Measure::Overload) {
        note("overload", overload::measure(options, &mut report.overload));
    }
    if options.measures(Measure::Latency) {
        note("latency", latency::measure(options, &mut report.latency));
    }
    if options.measures(Measure::Scale) {
        note("scale", scale::measure(options, &mut report.scale));
    }
    if options.measures(Measure::Records) {
        note("records", records::measure(options, &mut report.records));
        note("records", records::beside_ingest::measure(options, &mut report.ingest_beside_records));
    }
    if options.measures(Measure::Retention) {
        note("retention", retention::measure(options, &mut report.retention));
    }
    if options.measures(Measure::Mixed) {
        note("mixed", mixed::measure(options, &mut report.mixed));
    }
    if options.measures(Measure::Topics) {
        note("topics", topics::measure(options, &mut report.many_topics));
        note("topics", topics::cost::measure(options, &mut report.topic_cost));
    }
    if options.measures(Measure::Rivals) {
        failures.extend(
            measure_rivals(options, &mut report.rivals).into_iter().map(|error| error.context("rivals")),
        );
    }
    let unknown = options.lines_not_found();
    if !unknown.is_empty() {
        failures
            .push(anyhow!("--lines {}: no line that was measured has that in its name", unknown.join(" ")));
    }
    for failure in &failures {
        report.fail(options, failure);
    }
}

/// Returns what failed.
#[cfg(feature = "rivals")]
fn measure_rivals(options: &Options, lines: &mut Vec<report::RivalLine>) -> Vec<anyhow::Error> {
    rivals::measure(options, lines)
}

#[cfg(not(feature = "rivals"))]
fn measure_rivals(_options: &Options, _lines: &mut Vec<report::RivalLine>) -> Vec<anyhow::Error> {
    vec![anyhow!("this program was built without the feature `rivals`: scripts/bench --rivals builds it")]
}
