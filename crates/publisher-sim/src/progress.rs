//! The progress bar: on stderr, and only where a person watches.

use std::fmt;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Draws the progress of one phase at a time.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for a terminal; on anything else it stays silent.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = "{msg:>9} {bar:40} {human_pos}/{human_len}  {events_per_second}/s  {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is a constant that parses");
        bar.set_style(style.with_key("events_per_second", write_rate));
        Self { bar }
    }

    /// Starts a phase of `total` steps.
    pub fn phase(&self, name: &'static str, total: u64) {
        self.bar.set_length(total);
        self.bar.set_message(name);
        self.bar.reset();
    }

    /// Moves on by this many steps.
    pub fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// Makes room for the report.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// The bar's own rate has four decimals.
fn write_rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    // A line without a rate is better than no line.
    let _ = write!(out, "{:.0}", state.per_sec());
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_parses() {
        Progress::new().clear();
    }
}
