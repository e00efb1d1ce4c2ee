//! The program: parse, probe, run, report, exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use program_support::environment;
use program_support::signals::StopSignals;
use publisher_sim::Simulation;
use publisher_sim::config::{Config, VARIABLE_PREFIX};
use publisher_sim::report::{Report, Verdict};
use publisher_sim::stop::{StopSwitch, stop_switch};

/// Wrong usage, or no server; clap uses the same.
const EXIT_UNUSABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let environment::Parsed { options: config, warnings } = environment::parse::<Config>(VARIABLE_PREFIX);
    for warning in warnings {
        // Nobody may be reading; that is no reason not to run.
        let _ = writeln!(io::stderr(), "publisher-sim: {warning}");
    }
    let (json, seed_is_new) = (config.json, config.seed.is_none());
    let (switch, stop) = stop_switch();
    tokio::spawn(stop_when_signalled(switch));

    let simulation = match Simulation::new(config) {
        Ok(simulation) => simulation,
        Err(error) => return unusable(&error),
    };
    if let Err(error) = simulation.probe().await {
        return unusable(&error);
    }
    if seed_is_new {
        // Before anything is sent: a run that is killed can be repeated too.
        eprintln!("seed {}", simulation.seed());
    }
    let report = simulation.run(&stop).await;
    match print(&report, json) {
        Ok(()) => ExitCode::from(report.verdict.exit_code()),
        Err(error) => {
            eprintln!("publisher-sim: the report cannot be written: {error}");
            ExitCode::from(Verdict::Broken.exit_code())
        }
    }
}

fn unusable(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("publisher-sim: {error}");
    ExitCode::from(EXIT_UNUSABLE)
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)
    } else {
        write!(out, "{report}")
    }
}

/// The first signal ends the run with a report, the second ends it now.
async fn stop_when_signalled(switch: StopSwitch) {
    // Without handlers the first one ends the program as it would any other.
    if let Ok(mut signals) = StopSignals::new() {
        signals.next().await;
        switch.stop();
        signals.next().await;
        std::process::exit(Verdict::Interrupted.exit_code().into());
    }
}
