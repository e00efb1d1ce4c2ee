//! A line on standard error that says how far a command is, at most once a second.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use crate::output;

const EVERY: Duration = Duration::from_secs(1);

/// A terminal gets one line that changes, anything else gets a new line each time.
pub(super) struct ProgressLine {
    terminal: bool,
    began: Instant,
    told: Instant,
    /// Whether the cursor stands behind a line that changes.
    is_open: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        #[expect(clippy::disallowed_methods, reason = "nothing is written")]
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, began: now, told: now, is_open: false }
    }

    /// Seconds since it was made.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Shows the text, if the last one is old enough.
    pub(super) fn tell(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        let text = text(self);
        if self.terminal {
            self.is_open = true;
            output::stderr().part(&format!("\r{text}\x1b[K"));
        } else {
            output::stderr().line(&text);
        }
    }

    /// Reports the end.
    pub(super) fn done(mut self, text: &str) {
        self.end();
        output::stderr().line(&format!("{text} in {:.1} s", self.seconds()));
    }

    /// Ends the line, so that something else can be written. The next one is a new line.
    pub(super) fn interrupt(&mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            output::stderr().line("");
        }
    }
}

impl Drop for ProgressLine {
    /// Ends the line, so that an error gets a line of its own.
    fn drop(&mut self) {
        self.end();
    }
}
