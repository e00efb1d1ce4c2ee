//! A cluster against the promises: three real nodes over one PostgreSQL behind a real HAProxy, under the load of real
//! publishers, while nodes are killed with `kill -9` and the database crashes; read back in the end.
//!
//! `CLUSTER_ROUNDS` is how often (5), `CLUSTER_SEED` decides what is sent and what goes down when (1).
//! `scripts/prove --cluster` is the long form.
#![expect(clippy::unwrap_used, reason = "this is test code")]
#![cfg(feature = "postgres")]

#[path = "../shared/http_client.rs"]
mod http_client;
mod ledger;
mod parts;
#[path = "../shared/proof.rs"]
mod proof;
#[path = "../shared/publisher_sim.rs"]
mod publisher_sim;
mod reader;
mod round;
#[path = "../shared/signal.rs"]
mod signal;
mod site;

use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::parts::{Node, Publisher};
use crate::proof::from_environment;
use crate::reader::Reader;
use crate::round::{Round, Rounds, Tally};
use crate::site::Site;

/// Nothing here takes nearly as long; what does is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

const TOPICS: u64 = 5;

/// Of the 1,600 deliveries of a publisher.
const UNIQUE: u64 = 1_120;

/// What each of two publishers sends in a round: the same events, at the same time, in more than a second, so that
/// what happens in the midst of it does. They do not give up before the cluster is back.
const OPTIONS: &str = "--events 1600 --rate 1300 --dup 0.3 --batch 20 --topics 5 --concurrency 4 \
     --retry-base-ms 5 --retry-cap-ms 100 --retry-attempts 1000000 --retry-deadline-ms 60000";

#[test]
fn whatever_goes_down_every_acknowledged_event_is_stored_once_and_read_in_order() {
    let (rounds, seed) = (from_environment("CLUSTER_ROUNDS", 5), from_environment("CLUSTER_SEED", 1));
    // Spread over all of them, so that the nodes race for every partition.
    let Some(mut site) = Site::start([1, 2, 3], &[("PUBLISH_BALANCE", "roundrobin")]) else { return };
    let began = Instant::now();
    // Pages of another size end at other places.
    let readers = ["limit=1000", "topic=cluster.*&limit=37"];
    let readers = readers.map(|query| Reader::start(&site.runtime, &site.url(), query));
    let (mut ledger, mut tally, mut last) = (Ledger::default(), Tally::default(), String::new());
    for round in Rounds::new(seed).take(rounds) {
        last = options(&round);
        publish(&mut site, &round, &last, &mut ledger);
        tally.add(&round);
        if !ledger.breaches.is_empty() {
            break;
        }
    }
    // What is broken may not come to an end.
    assert_kept(&ledger, &site);
    let topics = TOPICS * rounds as u64;
    let before = site.stats_of_all();
    ledger.check_stats(before, topics);
    let output = Publisher::start(&site.url(), &last).finish();
    ledger.check_resent(before, site.stats_of_all(), &output);
    let read = readers.map(|reader| reader.finish(&site.runtime));
    read.iter().for_each(|read| ledger.check_reader(read));
    ledger.check_store(&site.end());

    let Ledger { unique, acknowledged, retried, reconnections, .. } = &ledger;
    println!(
        "{tally}; acknowledged: {acknowledged} deliveries of {unique} events, requests sent again: {retried}; streams \
         connected again: {reconnections}; pages refused to readers: {}; seed {seed}, {:.1} s",
        read.iter().map(|read| read.refused).sum::<u64>(),
        began.elapsed().as_secs_f64()
    );
    assert_kept(&ledger, &site);
    if rounds >= Rounds::IN_A_DECK {
        assert!(tally.is_complete(), "not every kind of round was tried: {tally}");
        assert!(*retried > 0, "no request was hit by anything: nothing is proved");
        assert!(*reconnections > 0, "no stream was hit by anything: nothing is proved");
    }
}

/// Publishes until all nodes have taken, of what was sent last, what is asked for. Repeats are taken, too.
fn await_shares(site: &Site, what: &str, is_so: impl Fn([u64; 3]) -> bool) {
    const OPTIONS: &str = "--events 600 --dup 0.3 --batch 20 --topics 5 --concurrency 8";
    let (mut before, mut seed) = (site.shares(), 0);
    site.await_that(what, || {
        seed += 1;
        let output = Publisher::start(&site.url(), &format!("{OPTIONS} --seed {seed}")).finish();
        assert!(output.status.success(), "{output:?}\n{}", site.last_words());
        let after = site.shares();
        let taken = [0, 1, 2].map(|node| after[node].saturating_sub(before[node]));
        before = after;
        is_so(taken)
    });
}

#[test]
fn what_is_published_goes_to_one_node_and_to_the_next_when_that_one_is_gone() {
    let Some(mut site) = Site::start([4, 5, 6], &[]) else { return };
    // More than 600 are taken if an answer was lost.
    await_shares(&site, "all goes to the first", |taken| taken[0] >= 600 && taken[1..] == [0, 0]);
    site.nodes[0].kill();
    await_shares(&site, "all goes to the second", |taken| taken[1] >= 600 && [taken[0], taken[2]] == [0, 0]);
    site.nodes[0].start();
    await_shares(&site, "all goes to the first again", |taken| taken[0] >= 600 && taken[1..] == [0, 0]);
    site.cut_off(4);
    // It cannot say what it has taken; but nothing is lost by it, and the second has it all.
    await_shares(&site, "no node without its store gets any", |taken| taken[1] >= 600 && taken[2] == 0);
}

#[test]
fn what_is_more_than_a_node_may_have_under_way_goes_to_the_others() {
    let Some(site) = Site::start([7, 8, 9], &[("PUBLISH_MAXCONN", "2")]) else { return };
    await_shares(&site, "each node gets some", |taken| taken.iter().all(|&taken| taken > 0));
}

#[test]
fn what_is_only_queued_is_spread_and_without_a_node_it_is_said_when_to_come_back() {
    let Some(mut site) = Site::start([10, 11, 12], &[]) else { return };
    let mut ids = 0..;
    site.await_that("each node gets some", || {
        assert_eq!(site.post("/publish?ack=queued", ids.next().unwrap()).status(), 202);
        site.shares().iter().all(|&share| share > 0)
    });
    site.nodes.iter_mut().for_each(Node::kill);
    let refusal = site.post("/publish", 0);
    assert_eq!(refusal.status(), 503);
    assert_eq!(refusal.headers()["retry-after"], "1");
}

fn assert_kept(ledger: &Ledger, site: &Site) {
    let breaches = &ledger.breaches;
    assert!(breaches.is_empty(), "promises were broken: {breaches:#?}\n{}", site.last_words());
}

fn options(round: &Round) -> String {
    format!("{OPTIONS} --topic-prefix cluster.r{} --seed {}", round.number, round.seed)
}

/// Two publishers at work; in the midst of it, things go down and come back.
fn publish(site: &mut Site, round: &Round, options: &str, ledger: &mut Ledger) {
    let before = ledger.unique;
    // One of them follows what is stored as one stream, over all that goes down.
    let mut publishers = ["pages", "stream"]
        .map(|by| Publisher::start(&site.url(), &format!("{options} --chaos --verify-by {by}")));
    let is_over = |publishers: &mut [Publisher; 2]| publishers.iter_mut().any(Publisher::is_over);
    let share = before + round.events(UNIQUE);
    site.await_that("the publishers have come this far", || {
        is_over(&mut publishers)
            || site.stats(&site.url()).is_some_and(|stats| stats.unique_processed >= share)
    });
    if is_over(&mut publishers) {
        let breach = format!("{round:?}: a publisher was over before anything went down: nothing is proved");
        ledger.breaches.push(breach);
    }
    site.suffer(round);
    let outputs = publishers.map(Publisher::finish);
    ledger.note(round, &outputs);
}
