//! Where logs are written, and in which format.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use aggregator_core::Timestamp;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::Config;
use crate::config::LogFormat;
use crate::output;

/// Sends the logs that pass the filter, and what panics say, to standard error.
///
/// # Errors
/// Says what is wrong with the filter.
pub fn init(config: &Config) -> Result<(), String> {
    let filter = filter(&config.log)?;
    // The subscriber would write its own errors past the queue.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let subscriber = subscriber.with_writer(output::stderr);
    #[expect(clippy::disallowed_methods, reason = "nothing is written")]
    let terminal = std::io::stderr().is_terminal();
    let human = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    output::stderr().configure(config.log_queue_bytes.0, if human { lost_human } else { lost_json });
    let installed = if human {
        subscriber.with_ansi(terminal).with_target(false).try_init()
    } else {
        subscriber.json().flatten_event(true).with_target(false).try_init()
    };
    std::panic::set_hook(Box::new(log_panic));
    installed.map_err(|error| error.to_string())
}

/// The filter of `--log`. Two crates have to be asked for by name: `h2`, whose frames are many lines for each request, and
/// `tokio_postgres`, which logs the parameters of statements: payloads, hashes of keys, secrets.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let filter = EnvFilter::try_new(text).map_err(|error| format!("--log {text:?}: {error}"))?;
    let unless_named = |filter: EnvFilter, name: &str| {
        if text.contains(name) {
            return filter;
        }
        filter.add_directive(format!("{name}=warn").parse().expect("a directive"))
    };
    Ok(["h2", "tokio_postgres"].into_iter().fold(filter, unless_named))
}

const LOST: &str = "log lines were lost: standard error took them too slowly or not at all";

fn lost_human(lines: u64) -> String {
    format!("{} WARN {LOST} lines={lines}", Timestamp::now())
}

fn lost_json(lines: u64) -> String {
    let timestamp = Timestamp::now().to_string();
    serde_json::json!({"timestamp": timestamp, "level": "WARN", "message": LOST, "lines": lines}).to_string()
}

/// Replaces the hook of the standard library, which would wait for the reader of standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("without a message");
    let thread = std::thread::current();
    let (thread, at) =
        (thread.name().unwrap_or("without a name"), panic.location().map(tracing::field::display));
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    error!(thread, at, backtrace, "panicked: {message}");
}

/// The lines that `work` logs on this thread.
#[cfg(test)]
pub(crate) fn logged(work: impl FnOnce()) -> Vec<String> {
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn the_frames_of_http_2_have_to_be_asked_for() {
        assert!(filter("debug").unwrap().to_string().contains("h2=warn"));
        assert!(!filter("debug,h2=trace").unwrap().to_string().contains("h2=warn"));
        assert!(filter("a=b=c").unwrap_err().starts_with("--log \"a=b=c\": "));
    }
}
