//! The program: parse, probe, run, report, exit code.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use program_support::environment::{self, Parsed};
use program_support::signals::StopSignals;
use publisher_sim::Simulation;
use publisher_sim::config::{Config, VARIABLE_PREFIX};
use publisher_sim::output::{self, tell};
use publisher_sim::report::{Report, Verdict};
use publisher_sim::security::{KEY_VARIABLE, Key};
use publisher_sim::stop::{StopSwitch, stop_switch};

/// Wrong usage, or no server; clap uses the same.
const EXIT_UNUSABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match environment::parse::<Config>(VARIABLE_PREFIX, &[KEY_VARIABLE]) {
        Ok(Parsed { mut options, warnings }) => {
            options.security.key = std::env::var(KEY_VARIABLE).ok().and_then(Key::new);
            warnings.iter().for_each(|warning| tell(&format!("publisher-sim: {warning}")));
            run(options).await
        }
        Err(usage) => show(&usage),
    }
}

/// The help or the version, or what is wrong with the options.
fn show(usage: &clap::Error) -> ExitCode {
    match usage.print() {
        Err(error) if !usage.use_stderr() && error.kind() != ErrorKind::BrokenPipe => unwritten(&error),
        _ if usage.use_stderr() => ExitCode::from(EXIT_UNUSABLE),
        _ => ExitCode::SUCCESS,
    }
}

async fn run(config: Config) -> ExitCode {
    let (json, seed_is_new) = (config.json, config.seed.is_none());
    let (switch, stop) = stop_switch();
    tokio::spawn(stop_when_signalled(switch));

    let simulation = match Simulation::new(config) {
        Ok(simulation) => simulation,
        Err(error) => return unusable(&error),
    };
    let page = match simulation.claim_report() {
        Ok(page) => page,
        Err(error) => return unusable(&error),
    };
    if let Err(error) = simulation.probe().await {
        return unusable(&error);
    }
    if seed_is_new {
        // Shown before anything is sent, so that a run that is killed can be repeated as well.
        tell(&format!("seed {}", simulation.seed()));
    }
    let report = simulation.run(&stop).await;
    let page_written = page.map_or(Ok(()), |page| page.write(&report.to_html()));
    if let Err(error) = print(&report, json) {
        return unwritten(&error);
    }
    match page_written {
        Ok(()) => ExitCode::from(report.verdict.exit_code()),
        Err(error) => {
            tell(&format!("publisher-sim: --report: {error}"));
            ExitCode::from(Verdict::Broken.exit_code())
        }
    }
}

fn unwritten(error: &io::Error) -> ExitCode {
    tell(&format!("publisher-sim: standard output: {error}"));
    ExitCode::from(Verdict::Broken.exit_code())
}

fn unusable(error: &dyn std::error::Error) -> ExitCode {
    tell(&format!("publisher-sim: {error}"));
    ExitCode::from(EXIT_UNUSABLE)
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    output::print(&if json { serde_json::to_string(report)? + "\n" } else { report.to_string() })
}

/// The first signal ends the run with a report, the second ends it now.
async fn stop_when_signalled(switch: StopSwitch) {
    // Without handlers the first signal ends the program at once, without a report.
    if let Ok(mut signals) = StopSignals::new() {
        signals.next().await;
        switch.stop();
        signals.next().await;
        std::process::exit(Verdict::Interrupted.exit_code().into());
    }
}
