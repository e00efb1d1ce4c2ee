//! The program: parse the options, bind, open the store, run, drain.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aggregator_core::StoreError;
use aggregator_server::admin::transfer::{TransferError, export, import};
use aggregator_server::admin::{amend, backup, check, healthcheck, key, restore, upgrade};
use aggregator_server::admin_socket::AdminListener;
use aggregator_server::config::AdminSocket;
use aggregator_server::jwks::Jwks;
use aggregator_server::options::{Command, Options, VARIABLE_PREFIX};
use aggregator_server::service_manager::{self, ServiceManager};
use aggregator_server::tls::Tls;
use aggregator_server::{
    Config, Listeners, RunError, admin_socket, bind, clock, log, open_store, opening, output, run,
};
use anyhow::Context as _;
use program_support::environment::{self, Parsed};
use program_support::signals::StopSignals;
use tokio::signal::unix::{SignalKind, signal};

/// Something failed.
const FAILED: u8 = 1;
/// The options are wrong.
const USAGE: u8 = 2;
/// The store, or what holds it, failed while it was in use.
const STORE_FAILED: u8 = 3;

/// A newer program wrote the store.
const STORE_TOO_NEW: u8 = 4;
/// The store has an older format than this program opens.
const STORE_TOO_OLD: u8 = 5;

/// How many connections may wait to be accepted. The kernel has a limit of its own.
const BACKLOG: u32 = 1024;

/// Beyond the drain: closing what is left.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The reader of the output is gone, so the output is not whole. A shell reports the same code for SIGPIPE.
const PIPE_CLOSED: u8 = 141;

/// The number on Linux, except on MIPS. Tokio has no name for the signal.
const SIGXFSZ: i32 = 25;

fn main() -> ExitCode {
    let code = match environment::parse::<Options>(VARIABLE_PREFIX, &[]) {
        Ok(Parsed { options, warnings }) => execute(options, &warnings),
        Err(usage) => show(&usage),
    };
    output::finish();
    ExitCode::from(code)
}

/// Prints the help, the version, or what is wrong with the options. Returns the exit code.
fn show(usage: &clap::Error) -> u8 {
    match usage.print() {
        Err(error) if !usage.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            fail(&anyhow::Error::new(error).context("standard output"))
        }
        _ if usage.use_stderr() => USAGE,
        _ => 0,
    }
}

/// Does what the options ask for. Returns the exit code.
fn execute(options: Options, warnings: &[String]) -> u8 {
    let (command, config) = options.into_parts();
    let checked = if command.is_none() { config.check() } else { Ok(()) };
    if let Err(error) = checked.and_then(|()| log::init(&config)) {
        output::stderr().line(&format!("aggregator-server: {error}"));
        return USAGE;
    }
    let done = match command {
        None => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            serve_until_signalled(config)
        }
        Some(Command::Backup(options)) => backup::run(&config, &options).map_err(Into::into),
        Some(Command::Restore(options)) => restore::restore(&config, &options).map_err(Into::into),
        Some(Command::Adopt) => restore::adopt(&config).map_err(Into::into),
        Some(Command::Compact) => restore::compact(&config).map_err(Into::into),
        Some(Command::Upgrade(options)) => upgrade::upgrade(&config, &options).map_err(Into::into),
        Some(Command::Check(options)) => check::check(&config, &options).map_err(Into::into),
        Some(Command::Export(options)) => export(&config, &options),
        Some(Command::Import(options)) => import(&config, &options),
        Some(Command::Erase(options)) => amend::erase(&config, &options).map_err(Into::into),
        Some(Command::Release(options)) => amend::release(&config, &options).map_err(Into::into),
        Some(Command::Key(options)) => key::run(&config, &options).map_err(Into::into),
        Some(Command::Healthcheck) => healthcheck::ask(&config).map_err(Into::into),
    };
    match done {
        Ok(()) => 0,
        Err(error) => fail(&error),
    }
}

/// Reports the error. Returns its exit code.
fn fail(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(TransferError::PipeClosed)) {
        return PIPE_CLOSED;
    }
    output::stderr().line(&format!("aggregator-server: {}", with_causes(error)));
    match error.downcast_ref() {
        Some(RunError::Failed { .. }) => STORE_FAILED,
        _ if error.is::<WrongUsage>() => USAGE,
        _ => of_format(error).unwrap_or(FAILED),
    }
}

/// The code for a store whose format this program does not open, wherever among the causes that is said.
fn of_format(error: &anyhow::Error) -> Option<u8> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(StoreError::Format { found, known, .. }) if found > known => Some(STORE_TOO_NEW),
        Some(StoreError::Format { .. }) => Some(STORE_TOO_OLD),
        _ => None,
    })
}

/// The error with its causes. Some errors repeat their cause in their own words; such a cause is left out.
fn with_causes(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

fn export(config: &Config, options: &export::ExportOptions) -> anyhow::Result<()> {
    let store = open_store::open_existing(config).with_context(|| format!("--store {}", config.store))?;
    Ok(export::export(&*store, options)?)
}

fn import(config: &Config, options: &import::ImportOptions) -> anyhow::Result<()> {
    // Before the store: a missing input must not leave a new store behind.
    let input = import::Input::open(&options.input)?;
    let store = open_store::open(config).with_context(|| format!("--store {}", config.store))?;
    Ok(import::import(&*store, input, options)?)
}

/// Serves until a signal ends it. Does not wait for the runtime at the end: a store that does not answer would hold it for
/// ever, and everything that was acknowledged is on the disk.
fn serve_until_signalled(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_background();
    served
}

/// Whoever started this program and wants to know how far it is. One that cannot be told is no reason not to serve.
fn service_manager() -> ServiceManager {
    ServiceManager::at(std::env::var_os(service_manager::VARIABLE).as_deref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "{} cannot be used", service_manager::VARIABLE);
        ServiceManager::default()
    })
}

/// The options contradict what they name.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

async fn serve(config: Config) -> anyhow::Result<()> {
    clock::check(SystemTime::now()).map_err(anyhow::Error::msg)?;
    let mut signals = StopSignals::new().context("signals cannot be handled")?;
    // With a handler, a write beyond the limit on a file's size (`ulimit -f`) is an error and does not end the process.
    let _file_size = signal(SignalKind::from_raw(SIGXFSZ)).context("signals cannot be handled")?;
    let listen_on = || format!("--listen {}", config.listen);
    let addresses = config.listen.resolve().with_context(listen_on)?;
    config.check_reach(&addresses).map_err(WrongUsage)?;
    // Before the store: a start that fails here must not leave a new store behind. `run` reads these files for itself.
    let scheme = if Tls::load(&config)?.is_some() { "https" } else { "http" };
    drop(Jwks::load(&config)?);
    let socket = bind::bind(&addresses).with_context(listen_on)?;
    let manager = service_manager();
    let opening = manager.opening().context("no thread can be started")?;
    // From here on somebody answers.
    let listener = socket.listen(BACKLOG).with_context(listen_on)?;
    let store = tokio::select! {
        opened = opening::open(&listener, &config) => opened.with_context(|| format!("--store {}", config.store))?,
        () = signals.next() => {
            tracing::info!("asked to end before the store was open");
            return Ok(());
        }
    };
    drop(opening);
    config.check_store(&*store).map_err(WrongUsage)?;
    // After the store: whoever has it is the one whose socket may be replaced.
    let admin = admin_socket(&config).await?;
    let durability = store.info().durability.as_str();
    let address = listener.local_addr().context("the listener has no address")?;
    // The one line on standard output: scripts read the address from it.
    let line = format!(
        "listening on {scheme}://{address}, store {}, durability {durability}",
        config.store.resolved()
    );
    output::announce(&line);
    manager.ready();

    let last_spans = if config.otlp_endpoint.is_some() { config.otlp_timeout } else { Duration::ZERO };
    let stop_within = config.drain_timeout + last_spans + STOP_MARGIN;
    let shutdown = async move {
        signals.next().await;
        manager.stopping(stop_within);
        tokio::spawn(async move {
            signals.next().await;
            output::stderr().line("aggregator-server: stopped at once by a second signal");
            output::finish();
            std::process::exit(i32::from(FAILED));
        });
    };
    Ok(run(Listeners { http: listener, admin }, store, config, shutdown).await?)
}

/// The operator's socket. Where it is beside the store and cannot be made, the server serves without it.
async fn admin_socket(config: &Config) -> anyhow::Result<Option<AdminListener>> {
    let Some(path) = config.admin_socket.path(&config.store) else { return Ok(None) };
    match admin_socket::bind(&path).await {
        Ok(made) => Ok(Some(made)),
        Err(error) if config.admin_socket == AdminSocket::Beside => {
            tracing::warn!(path = %path.display(), %error, "there is no admin socket: name one with --admin-socket");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("--admin-socket {}", path.display())),
    }
}
