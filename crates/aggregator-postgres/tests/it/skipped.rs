//! Without PostgreSQL, tests say that they are skipped. Where it is required, they fail.

use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs tests that need a server as if none were installed. Returns their output and the log of skipped tests.
fn without_postgres(required: &str, tests: &[&str]) -> (Output, String) {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("skipped");
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.arg("--exact").args(tests);
    test.env("PATH", "").env("AGGREGATOR_POSTGRES_VERSIONS", directory.path());
    test.env("AGGREGATOR_REQUIRE_POSTGRES", required).env("AGGREGATOR_SKIPPED", &log);
    let output = test.output().unwrap();
    (output, std::fs::read_to_string(log).unwrap_or_default())
}

const ONE: &str = "opening::tables_of_a_newer_version_are_refused";

#[test]
fn tests_that_need_a_server_say_that_they_were_skipped() {
    let (output, _) = without_postgres("0", &[ONE]);
    let (told, report) =
        (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success() && report.contains("1 passed"), "{report}{told}");
    assert!(told.contains("skipped: no PostgreSQL is installed"), "{told}");
}

#[test]
fn tests_that_need_a_server_fail_where_it_is_required() {
    let (output, logged) = without_postgres("1", &[ONE]);
    let (told, report) =
        (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(!output.status.success() && report.contains("1 failed"), "{report}{told}");
    let why = "no PostgreSQL is installed, and AGGREGATOR_REQUIRE_POSTGRES is 1";
    assert!(report.contains(why), "{report}{told}");
    assert_eq!(logged, "", "it failed and was not skipped");
}

#[test]
fn every_test_that_was_skipped_is_counted() {
    let of_its_own = "opening::a_server_that_loses_commits_is_refused";
    let tests = [ONE, "opening::nodes_that_start_together_make_one_store", of_its_own];
    let (output, logged) = without_postgres("0", &tests);
    assert!(output.status.success());
    assert_eq!(logged, "no PostgreSQL is installed\n".repeat(3));
}
