//! The signals that ask a program to end.

use std::fs;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, Ctrl-C (SIGINT), and the end of the terminal (SIGHUP).
///
/// A SIGHUP that was ignored when the program started stays ignored: that is how `nohup` works.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Handles them from now on. Call it once: a handler in place looks like a signal that was not ignored.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn new() -> io::Result<Self> {
        let hangup =
            if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether the process ignores this signal. Asking the system itself takes `unsafe`; Linux also tells in a file, and
/// elsewhere no signal counts as ignored.
fn is_ignored(kind: SignalKind) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| has_ignored(&status, kind.as_raw_value()))
}

/// Whether a `/proc/PID/status` has `signal` in its mask of ignored ones (proc_pid_status(5), `SigIgn`).
fn has_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status =
            "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001002\nSigCgt:\t0000000000000001\n";
        // The lowest bit is signal 1.
        let ignored: Vec<_> = (1..=64).filter(|&signal| has_ignored(status, signal)).collect();
        assert_eq!(ignored, [2, 13]);
        assert!(!has_ignored("Name:\tx\n", 1));
    }
}
