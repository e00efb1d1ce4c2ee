//! What a test does that lacks a program or a right: it says `skipped: …`, and is counted. Libtest has no such outcome
//! and counts the test as passed.

use std::fs::File;
use std::io::Write as _;

/// Names a file that gets a line for every test that is skipped. `scripts/check` sets it and counts the lines.
pub const LOG: &str = "AGGREGATOR_SKIPPED";

/// Says on standard error that this test is skipped and why, for example `no PostgreSQL is installed`. The test then
/// has to return.
///
/// # Panics
/// If the environment variable `required` is 1, or if the file that [`LOG`] names cannot be written.
pub fn skip(why: &str, required: &str) {
    let is_required = std::env::var(required).is_ok_and(|value| value == "1");
    assert!(!is_required, "{why}, and {required} is 1");
    #[expect(
        clippy::disallowed_methods,
        reason = "libtest captures `eprintln!` and shows it only if the test fails"
    )]
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "skipped: {why}");
    if let Some(log) = std::env::var_os(LOG) {
        let opened = File::options().create(true).append(true).open(&log);
        // One write: tests of several processes append at the same time.
        let written = opened.and_then(|mut log| log.write_all(format!("{why}\n").as_bytes()));
        written.unwrap_or_else(|error| panic!("{LOG}={}: {error}", log.display()));
    }
}
