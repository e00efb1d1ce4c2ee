//! Reports on standard error how far an export or an import has got, at most once a second.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use crate::output;

const EVERY: Duration = Duration::from_secs(1);

/// How much there will be in all.
#[derive(Clone, Copy)]
pub(super) enum ExpectedTotal {
    Unknown,
    Bytes(u64),
    /// Or more, because identities alone are not counted in a store.
    Rows(u64),
}

/// The progress of one export or import. A terminal gets one line that changes, anything else gets a new line each time.
pub(super) struct Progress {
    doing: &'static str,
    whole: ExpectedTotal,
    /// The rows that were there before it began.
    before: u64,
    terminal: bool,
    began: Instant,
    told: Instant,
    /// Whether the cursor stands behind a line that changes.
    line_is_open: bool,
}

impl Progress {
    pub(super) fn new(doing: &'static str, whole: ExpectedTotal, before: u64) -> Self {
        let now = Instant::now();
        #[expect(clippy::disallowed_methods, reason = "nothing is written")]
        let terminal = std::io::stderr().is_terminal();
        Self { doing, whole, before, terminal, began: now, told: now, line_is_open: false }
    }

    /// Notes how much is done in all, and reports it if the last report is old enough.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn at(&mut self, rows: u64, bytes: u64) {
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        let speed = rows.saturating_sub(self.before) as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let text = describe(self.doing, rows, bytes, self.whole, speed);
        if self.terminal {
            self.line_is_open = true;
            output::stderr().part(&format!("\r{text}\x1b[K"));
        } else {
            output::stderr().line(&text);
        }
    }

    /// Reports the end.
    pub(super) fn done(mut self, text: &str) {
        self.end_line();
        output::stderr().line(&format!("{text} in {:.1} s", self.began.elapsed().as_secs_f64()));
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.line_is_open) {
            output::stderr().line("");
        }
    }
}

impl Drop for Progress {
    /// Ends the line, so that an error gets a line of its own.
    fn drop(&mut self) {
        self.end_line();
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn describe(doing: &str, rows: u64, bytes: u64, whole: ExpectedTotal, speed: f64) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let percent = |done: u64, whole: u64| 100.0 * done as f64 / whole as f64;
    let mut text = format!("{doing}: {rows} rows");
    match whole {
        ExpectedTotal::Rows(whole) if (1..=whole).contains(&rows) => {
            text.push_str(&format!(" of {whole}, {:.0} %", percent(rows, whole)));
        }
        _ => {}
    }
    text.push_str(&format!(", {speed:.0} rows/s, {:.1} MiB", mib(bytes)));
    match whole {
        ExpectedTotal::Bytes(whole) if whole > 0 => {
            text.push_str(&format!(" of {:.1} MiB, {:.0} %", mib(whole), percent(bytes, whole)));
        }
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rows_speed_bytes_and_how_much_of_the_whole() {
        let line = |rows, whole| describe("export", rows, 1 << 20, whole, 5.0);
        assert_eq!(line(10, ExpectedTotal::Unknown), "export: 10 rows, 5 rows/s, 1.0 MiB");
        assert_eq!(
            line(10, ExpectedTotal::Bytes(4 << 20)),
            "export: 10 rows, 5 rows/s, 1.0 MiB of 4.0 MiB, 25 %"
        );
        assert_eq!(line(10, ExpectedTotal::Rows(40)), "export: 10 rows of 40, 25 %, 5 rows/s, 1.0 MiB");
        // Identities alone came in between.
        assert_eq!(line(10, ExpectedTotal::Rows(9)), "export: 10 rows, 5 rows/s, 1.0 MiB");
        assert_eq!(line(0, ExpectedTotal::Rows(0)), "export: 0 rows, 5 rows/s, 1.0 MiB");
    }
}
