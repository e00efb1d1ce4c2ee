//! Where logs go and how they look.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Sends the logs that pass `filter` to standard error.
///
/// # Errors
/// Says what is wrong with the filter.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter:?}: {error}"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let installed = if human {
        subscriber.with_ansi(terminal).with_target(false).try_init()
    } else {
        subscriber.json().flatten_event(true).with_target(false).try_init()
    };
    installed.map_err(|error| error.to_string())
}
