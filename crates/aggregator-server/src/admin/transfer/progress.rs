//! Reports on standard error how far an export or an import has got.

use crate::admin::progress::ProgressLine;

/// How much there will be in all.
#[derive(Clone, Copy)]
pub(super) enum ExpectedTotal {
    Unknown,
    Bytes(u64),
    /// Or more, because identities alone are not counted in a store.
    Rows(u64),
}

/// The progress of one export or import.
pub(super) struct Progress {
    doing: &'static str,
    whole: ExpectedTotal,
    /// The rows that were there before it began.
    before: u64,
    line: ProgressLine,
}

impl Progress {
    pub(super) fn new(doing: &'static str, whole: ExpectedTotal, before: u64) -> Self {
        Self { doing, whole, before, line: ProgressLine::new() }
    }

    /// Notes how much is done in all, and reports it if the last report is old enough.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn at(&mut self, rows: u64, bytes: u64) {
        let Self { doing, whole, before, .. } = *self;
        self.line.tell(|line| {
            let speed = rows.saturating_sub(before) as f64 / line.seconds().max(0.001);
            describe(doing, rows, bytes, whole, speed)
        });
    }

    /// Reports the end.
    pub(super) fn done(self, text: &str) {
        self.line.done(text);
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
