//! The aggregator: parse, open, bind, run, drain.

use std::io::Write as _;
use std::process::ExitCode;

use aggregator_core::store::VerifyReport;
use aggregator_server::config::Command;
use aggregator_server::transfer::{export, import};
use aggregator_server::{Config, RunError, healthcheck, log, run};
use anyhow::{Context as _, bail};
use clap::Parser as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Something went wrong on the way.
const FAILED: u8 = 1;
/// The options cannot be right.
const USAGE: u8 = 2;
/// The store, or what holds it, failed while it was in use.
const STORE_FAILED: u8 = 3;

fn main() -> ExitCode {
    let config = Config::parse();
    let serves = config.command.is_none();
    let checked = if serves { config.check() } else { Ok(()) };
    if let Err(error) = checked.and_then(|()| log::init(config.log_format, &config.log)) {
        eprintln!("aggregator-server: {error}");
        return ExitCode::from(USAGE);
    }
    let done = match config.command.clone() {
        None => serve_until_signalled(config),
        Some(Command::Check { rebuild_index }) => check(&config, rebuild_index),
        Some(Command::Export(options)) => export(&config, &options),
        Some(Command::Import(options)) => import(&config, &options),
        Some(Command::Healthcheck) => healthcheck::ask(config.listen).context("not ready"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aggregator-server: {}", with_causes(&error));
            let store_failed = matches!(error.downcast_ref(), Some(RunError::Failed { .. }));
            ExitCode::from(if store_failed { STORE_FAILED } else { FAILED })
        }
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
fn check(config: &Config, rebuild_index: bool) -> anyhow::Result<()> {
    let store = || format!("--store {}", config.store);
    if rebuild_index {
        config.rebuild_index().with_context(store)?;
    }
    let report = config.verify_store().with_context(store)?;
    let mut out = std::io::stdout().lock();
    for fault in &report.faults {
        writeln!(out, "{fault}")?;
    }
    if report.faults.is_empty() {
        let VerifyReport { events, stubs, .. } = report;
        writeln!(out, "{} is sound: {events} events, {stubs} stubs", config.store)?;
        return Ok(());
    }
    bail!("{} is not sound: {} faults", config.store, report.faults.len())
}

fn export(config: &Config, options: &export::Options) -> anyhow::Result<()> {
    let store = config.open_existing_store().with_context(|| format!("--store {}", config.store))?;
    Ok(export::export(&*store, options)?)
}

fn import(config: &Config, options: &import::Options) -> anyhow::Result<()> {
    let store = config.open_store().with_context(|| format!("--store {}", config.store))?;
    Ok(import::import(&*store, options)?)
}

/// Serves on a runtime that is not waited for at the end: a store that does not answer would hold it for
/// ever, and everything that was acknowledged is on the disk.
fn serve_until_signalled(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals cannot be handled")?;
    let store = config.open_store().with_context(|| format!("--store {}", config.store))?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("--listen {}", config.listen))?;
    let durability = store.info().durability.as_str();
    let address = listener.local_addr().context("the listener has no address")?;
    // The one line on standard output: scripts read the address from it.
    let line = format!("listening on http://{address}, store {}, durability {durability}", config.store);
    // Nobody may be reading; that is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{line}");

    let shutdown = async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            eprintln!("aggregator-server: stopped at once by a second signal");
            std::process::exit(i32::from(FAILED));
        });
    };
    Ok(run(listener, store, config, shutdown).await?)
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
