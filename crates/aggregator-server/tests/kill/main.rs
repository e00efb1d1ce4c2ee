//! `kill -9` against the promises: the real program under the simulator's load, ended again and again at
//! random instants and at fail points, started again on the same file, and read back in the end.
//!
//! `KILL_ROUNDS` is how often (50), `KILL_SEED` decides what is sent and when it is killed (1).
//! `scripts/prove --kill` is the long form.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod follower;
mod journal;
#[path = "../shared/proof.rs"]
mod proof;
mod publishers;
mod read_back;
mod round;
mod server;
#[path = "../shared/signal.rs"]
mod signal;

use std::time::{Duration, Instant};

use aggregator_core::fail_point::{ACK_BEFORE_COMMIT, MUTATION_VARIABLE};

use crate::follower::Follower;
use crate::journal::Counts;
use crate::proof::from_environment;
use crate::publishers::Publishers;
use crate::read_back::ReadBack;
use crate::round::{Rounds, Tally};
use crate::server::Site;

/// Nothing here takes nearly as long; what does is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a server is killed while it makes its file, and how long that takes at most, about.
const NEW_FILES: u32 = 25;
const LONGEST_START: Duration = Duration::from_millis(25);

/// Rounds in which each kind of end occurs, most of them several times.
const MUTATED_ROUNDS: usize = 2 * Rounds::IN_A_DECK;

#[test]
fn whenever_it_is_killed_every_acknowledged_event_is_stored_once_where_its_receipt_says() {
    let (rounds, seed) = (from_environment("KILL_ROUNDS", 50), from_environment("KILL_SEED", 1));
    println!("{}", assert_kept(Site::new(&[]), rounds, seed));
}

/// A file of its own for each half of the topics, and a writer for each file.
#[test]
fn whenever_it_is_killed_every_acknowledged_event_is_stored_once_in_the_file_of_its_topic() {
    let (rounds, seed): (usize, _) = (from_environment("KILL_ROUNDS", 50), from_environment("KILL_SEED", 1));
    println!("{}", assert_kept(Site::of_shards(2), rounds.div_ceil(2), seed));
}

/// Says what was tried.
fn assert_kept(site: Site, rounds: usize, seed: u64) -> String {
    let began = Instant::now();
    let (tally, counts, read) = prove(&site, rounds, seed);
    let told = format!(
        "{}: {tally}, acknowledged: {} requests with {} events, retried: {}; read back: {} events; seed {seed}, {:.1} s",
        site.location(),
        counts.requests,
        counts.events,
        counts.retried,
        read.events,
        began.elapsed().as_secs_f64()
    );
    if !read.breaches.is_empty() {
        let directory = site.keep();
        panic!(
            "{told}\npromises were broken, the store is kept in {}: {:#?}",
            directory.display(),
            read.breaches
        );
    }
    if rounds >= Rounds::IN_A_DECK {
        assert!(tally.is_complete(), "not every kind of end was tried: {tally}");
        assert!(counts.retried > 0, "no request was hit by a crash: nothing is proved");
    }
    told
}

#[test]
fn killed_while_it_makes_its_file_it_starts_the_next_time() {
    for kill in 0..NEW_FILES {
        let site = Site::new(&[]);
        let server = site.launch(None);
        // Any instant, from before it begins to after it listens.
        std::thread::sleep(LONGEST_START * kill / NEW_FILES);
        server.kill();
        let mut server = site.start(None);
        server.terminate();
        assert!(server.ended().success());
    }
}

#[test]
fn a_server_that_acknowledges_before_the_commit_is_found_out() {
    let site = Site::new(&[(MUTATION_VARIABLE, ACK_BEFORE_COMMIT)]);
    let (_, _, read) = prove(&site, MUTATED_ROUNDS, 2);
    println!("as it should be, acknowledging before the commit is found out: {:#?}", read.breaches);
    assert!(read.breaches.iter().any(|breach| breach.starts_with("lost:")), "{:#?}", read.breaches);
}

/// All rounds, then everything is read back, sent again, and looked at in the file itself.
fn prove(site: &Site, rounds: usize, seed: u64) -> (Tally, Counts, ReadBack) {
    let publishers = Publishers::start(&site.url(), seed);
    let follower = Follower::start(publishers.runtime(), &site.url());
    let mut tally = Tally::default();
    for round in Rounds::new(seed).take(rounds) {
        round.run(site, &publishers, &mut tally);
    }
    let server = site.start(None);
    let counts = publishers.finish();
    let stored = publishers.stats().unique_processed;
    let followed = follower.finish(publishers.runtime(), stored);
    let mut read = read_back::read_back(&publishers, server, site);
    read.note_followed(&followed);
    (tally, counts, read)
}
