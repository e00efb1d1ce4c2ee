//! The power fails at every write and sync of a workload, and no acknowledged event is lost.
//!
//! `POWER_CUTS=10000 cargo test --release -p aggregator-core --test power_loss -- --nocapture` is the long
//! form; `POWER_SEED` starts it at another workload.
//!
//! A test binary of its own, since an SQLite VFS belongs to the whole process.
#![expect(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::print_stdout, reason = "the long form tells how many cuts it tried")]

mod append;
mod faults;
mod follower;
mod full_disk;
mod halves;
mod lab;
mod ledger;
mod lost_log;
mod records;
mod shards;
mod start;
mod summary;
mod workload;

use std::time::Instant;

use self::lab::Lab;
use self::summary::Summary;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("it is a number"))
}

/// How many cuts to try: a sample, unless somebody asks for more.
fn cuts() -> u64 {
    number("POWER_CUTS", 120)
}

fn run(what: &str, lab: &Lab, first_seed: u64, cuts: u64) -> Summary {
    let start = Instant::now();
    let summary = lab.run(first_seed, cuts);
    println!("{what}: {summary}; {:.1} s", start.elapsed().as_secs_f64());
    for violation in summary.violations.iter().take(5) {
        println!("  {violation}");
    }
    summary
}

#[test]
fn an_acknowledged_event_survives_a_power_loss_at_any_operation() {
    let lab = Lab::new("power-loss");
    let summary = run("power loss", &lab, number("POWER_SEED", 1), cuts());
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
}

#[test]
fn an_acknowledged_event_survives_a_power_loss_while_the_log_is_copied_beside_appends() {
    let lab = Lab::new("power-loss-out-of-step").out_of_step();
    let summary = run("power loss out of step", &lab, number("POWER_SEED", 1), cuts());
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
}

#[test]
fn a_reader_at_the_end_goes_on_after_a_power_loss_where_it_stood() {
    let lab = Lab::new("power-loss-tail").out_of_step().with_tail();
    let summary = run("power loss with a tail", &lab, number("POWER_SEED", 1), cuts().div_ceil(10));
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
    assert!(summary.handed > 0);
}

#[test]
fn an_acknowledged_event_survives_a_power_loss_in_a_store_of_two_files() {
    let lab = Lab::new("power-loss-shards").of_shards(2);
    let summary = run("power loss, two shards", &lab, number("POWER_SEED", 1), cuts().div_ceil(2));
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
}

#[test]
fn a_reader_of_a_store_of_two_files_goes_on_after_a_power_loss_where_it_stood() {
    let lab = Lab::new("power-loss-shards-tail").of_shards(2).out_of_step().with_tail();
    let summary =
        run("power loss, two shards with a tail", &lab, number("POWER_SEED", 1), cuts().div_ceil(10));
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
    assert!(summary.handed > 0);
}

/// A test that cannot fail proves nothing: two ways to break durability, and it has to notice both.
#[test]
fn the_experiment_notices_commits_that_are_not_synced() {
    let lab = Lab::new("power-loss-normal").with_synchronous_normal();
    let summary = run("synchronous=NORMAL", &lab, 1, 60);
    assert!(!summary.violations.is_empty());
}

#[test]
fn the_experiment_notices_commits_of_two_files_that_are_not_synced() {
    let lab = Lab::new("power-loss-shards-normal").of_shards(2).with_synchronous_normal();
    let summary = run("synchronous=NORMAL, two shards", &lab, 1, 60);
    assert!(!summary.violations.is_empty());
}

#[test]
fn the_experiment_notices_what_a_reader_was_handed_too_early() {
    let lab = Lab::new("power-loss-tail-lying-disk").out_of_step().with_tail();
    lab.disk.ignore_syncs(true);
    // As many as beside it: at most cuts the store itself breaks a promise first, and the reader is not asked.
    let summary = run("ignored syncs with a tail", &lab, 1, 60);
    assert!(summary.violations.iter().any(|violation| violation.contains("a tail")), "{summary}");
}

#[test]
fn the_experiment_notices_a_disk_that_does_not_sync() {
    let lab = Lab::new("power-loss-lying-disk");
    lab.disk.ignore_syncs(true);
    let summary = run("ignored syncs", &lab, 1, 60);
    assert!(!summary.violations.is_empty());
}
