//! Where there is no PostgreSQL, that is said, and not passed over where it has to be there.

use std::process::{Command, Output};

use tempfile::TempDir;

/// One of the tests that need a server, run where none is installed.
fn without_postgres(required: &str) -> Output {
    let nowhere = TempDir::new().unwrap();
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "opening::tables_of_a_newer_version_are_refused", "--nocapture"]);
    test.env("PATH", "").env("AGGREGATOR_POSTGRES_VERSIONS", nowhere.path());
    test.env("AGGREGATOR_REQUIRE_POSTGRES", required).output().unwrap()
}

#[test]
fn tests_that_need_a_server_say_that_they_were_skipped() {
    let output = without_postgres("0");
    let (told, report) =
        (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success() && report.contains("1 passed"), "{report}{told}");
    assert!(told.contains("skipped: no PostgreSQL is installed"), "{told}");
}

#[test]
fn tests_that_need_a_server_fail_where_it_is_required() {
    let output = without_postgres("1");
    let (told, report) =
        (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(!output.status.success() && report.contains("1 failed"), "{report}{told}");
    assert!(told.contains("no PostgreSQL is installed, and AGGREGATOR_REQUIRE_POSTGRES is 1"), "{told}");
}
