//! The aggregator: parse, open, bind, run, drain.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::SystemTime;

use aggregator_core::store::VerifyReport;
use aggregator_server::admin::healthcheck;
use aggregator_server::admin::transfer::{TransferError, export, import};
use aggregator_server::config::{Command, StoreLocation, VARIABLE_PREFIX, listen};
use aggregator_server::{Config, RunError, clock, log, output, run};
use anyhow::{Context as _, bail};
use program_support::environment::{self, Parsed};
use program_support::signals::StopSignals;
use tokio::signal::unix::{SignalKind, signal};

/// Something went wrong on the way.
const FAILED: u8 = 1;
/// The options cannot be right.
const USAGE: u8 = 2;
/// The store, or what holds it, failed while it was in use.
const STORE_FAILED: u8 = 3;

/// How many connections may wait to be accepted; the kernel has a limit of its own.
const BACKLOG: u32 = 1024;

/// Nobody reads any more what was to be written, so it is not whole: what a shell says of a program that SIGPIPE ended.
const PIPE_CLOSED: u8 = 141;

/// As Linux numbers it, but for MIPS; tokio has no name for it.
const SIGXFSZ: i32 = 25;

fn main() -> ExitCode {
    let code = match environment::parse::<Config>(VARIABLE_PREFIX) {
        Ok(Parsed { options, warnings }) => do_as_told(options, &warnings),
        Err(usage) => show(&usage),
    };
    output::finish();
    ExitCode::from(code)
}

/// The help or the version, or what is wrong with the options.
fn show(usage: &clap::Error) -> u8 {
    match usage.print() {
        Err(error) if !usage.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            fail(&anyhow::Error::new(error).context("standard output"))
        }
        _ if usage.use_stderr() => USAGE,
        _ => 0,
    }
}

fn do_as_told(config: Config, warnings: &[String]) -> u8 {
    let serves = config.command.is_none();
    let checked = if serves { config.check() } else { Ok(()) };
    if let Err(error) = checked.and_then(|()| log::init(&config)) {
        output::stderr().line(&format!("aggregator-server: {error}"));
        return USAGE;
    }
    let done = match config.command.clone() {
        None => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            serve_until_signalled(config)
        }
        Some(Command::Check { rebuild_index, accept_lost_log }) => {
            check(&config, rebuild_index, accept_lost_log)
        }
        Some(Command::Export(options)) => export(&config, &options),
        Some(Command::Import(options)) => import(&config, &options),
        Some(Command::Healthcheck) => healthcheck::ask(&config.listen).map_err(Into::into),
    };
    match done {
        Ok(()) => 0,
        Err(error) => fail(&error),
    }
}

/// Tells the error; the exit code that goes with it.
fn fail(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(TransferError::PipeClosed)) {
        return PIPE_CLOSED;
    }
    output::stderr().line(&format!("aggregator-server: {}", with_causes(error)));
    match error.downcast_ref() {
        Some(RunError::Failed { .. }) => STORE_FAILED,
        _ if error.is::<WrongUsage>() => USAGE,
        _ => FAILED,
    }
}

/// The error, and of its causes those that it does not tell itself: those of the store and of files are in its words.
fn with_causes(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

/// Prints what is wrong with the store, a line each; makes its index anew first, if asked to.
fn check(config: &Config, rebuild_index: bool, accept_lost_log: bool) -> anyhow::Result<()> {
    let store = || format!("--store {}", config.store);
    if accept_lost_log && !matches!(config.store, StoreLocation::Sqlite(_)) {
        bail!("--accept-lost-log is for sqlite: stores, and --store names {}", config.store);
    }
    if rebuild_index {
        config.rebuild_index().with_context(store)?;
    }
    let report = config.verify_store().with_context(store)?;
    let mut text: String = report.faults.iter().map(|fault| format!("{fault}\n")).collect();
    if report.faults.is_empty() {
        let VerifyReport { events, stubs, .. } = report;
        text = format!("{} is sound: {events} events, {stubs} stubs\n", config.store);
    }
    output::print(&text).context("standard output")?;
    if report.faults.is_empty() {
        return Ok(());
    }
    bail!("{} is not sound: {} faults", config.store, report.faults.len())
}

fn export(config: &Config, options: &export::Options) -> anyhow::Result<()> {
    let store = config.open_existing_store().with_context(|| format!("--store {}", config.store))?;
    Ok(export::export(&*store, options)?)
}

fn import(config: &Config, options: &import::Options) -> anyhow::Result<()> {
    // Before the store: an input that is not there must not leave one behind.
    let input = import::Input::open(&options.input)?;
    let store = config.open_store().with_context(|| format!("--store {}", config.store))?;
    Ok(import::import(&*store, input, options)?)
}

/// Serves on a runtime that is not waited for at the end: a store that does not answer would hold it for
/// ever, and everything that was acknowledged is on the disk.
fn serve_until_signalled(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_background();
    served
}

/// The options cannot be right together with what they name.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

async fn serve(config: Config) -> anyhow::Result<()> {
    clock::check(SystemTime::now()).map_err(anyhow::Error::msg)?;
    let mut signals = StopSignals::new().context("signals cannot be handled")?;
    // With a handler, a write beyond the limit on a file's size (`ulimit -f`) is an error and not the end.
    let _file_size = signal(SignalKind::from_raw(SIGXFSZ)).context("signals cannot be handled")?;
    let listen_on = || format!("--listen {}", config.listen);
    let addresses = config.listen.resolve().with_context(listen_on)?;
    config.check_reach(&addresses).map_err(WrongUsage)?;
    // Before the store: a start that finds its port taken must not leave one behind.
    let socket = listen::bind(&addresses).with_context(listen_on)?;
    let store = config.open_store().with_context(|| format!("--store {}", config.store))?;
    let listener = socket.listen(BACKLOG).with_context(listen_on)?;
    let durability = store.info().durability.as_str();
    let address = listener.local_addr().context("the listener has no address")?;
    // The one line on standard output: scripts read the address from it.
    let line =
        format!("listening on http://{address}, store {}, durability {durability}", config.store.resolved());
    output::announce(&line);

    let shutdown = async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            output::stderr().line("aggregator-server: stopped at once by a second signal");
            output::finish();
            std::process::exit(i32::from(FAILED));
        });
    };
    Ok(run(listener, store, config, shutdown).await?)
}
