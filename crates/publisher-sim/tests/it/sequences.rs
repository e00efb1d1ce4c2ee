//! The publisher's own numbers: what it says it lost and sent late is what a server gets.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use aggregator_core::{MemoryStore, Partitions};
use aggregator_server::Config;
use publisher_sim::report::{Report, SequencesReport, SourceReport, Verdict};
use serde_json::Value;

use crate::peer::{Peer, Trouble, published};
use crate::server::Aggregator;
use crate::{http_client, run, run_at};

const OPTIONS: &str = "--events 3000 --dup 0.3 --batch 20 --topics 2 --seed 1 --verify";
const FAULTS: &str = "--drop 0.05 --late 0.1 --late-by 4";

/// What somebody notices who sees numbers come by.
#[derive(Debug, Default)]
struct Watcher {
    numbers: HashSet<u64>,
    highest: u64,
    reordered: u64,
}

impl Watcher {
    fn see(&mut self, number: u64) {
        if self.numbers.insert(number) {
            self.reordered += u64::from(number < self.highest);
            self.highest = self.highest.max(number);
        }
    }
}

/// What a server notices that gets these publish bodies in this order.
fn watched(peer: &Peer) -> SequencesReport {
    let mut watchers: BTreeMap<(String, String), Watcher> = BTreeMap::new();
    for body in peer.bodies() {
        for event in published(&body) {
            let watcher = watchers.entry((event.topic, event.source)).or_default();
            watcher.see(event.sequence.unwrap());
        }
    }
    noticed(watchers)
}

fn noticed(watchers: BTreeMap<(String, String), Watcher>) -> SequencesReport {
    let by_source: Vec<_> = watchers
        .into_iter()
        .map(|((topic, source), watcher)| {
            let numbered = watcher.numbers.len() as u64;
            let Watcher { highest, reordered, .. } = watcher;
            SourceReport { topic, source, highest, numbered, never_sent: highest - numbered, reordered }
        })
        .collect();
    let total = |of: fn(&SourceReport) -> u64| by_source.iter().map(of).sum();
    SequencesReport {
        order_is_exact: true,
        numbered: total(|source| source.numbered),
        never_sent: total(|source| source.never_sent),
        reordered: total(|source| source.reordered),
        by_source,
    }
}

fn sequences(report: &Report) -> &SequencesReport {
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    report.sequences.as_ref().unwrap()
}

#[tokio::test]
async fn without_faults_the_numbers_are_dense_and_in_order() {
    let peer = Peer::honest().await;
    let report = run(&peer, &format!("{OPTIONS} --sequences --concurrency 1")).await;
    let told = sequences(&report);
    assert_eq!((told.numbered, told.never_sent, told.reordered), (2_100, 0, 0));
    assert_eq!(*told, watched(&peer));
    assert_eq!(told.by_source.len(), 16);
    let plain = run(&Peer::honest().await, OPTIONS).await;
    assert_eq!(plain.sequences, None, "nobody asked for numbers");
}

/// Whatever else goes wrong: repeats, replies that are lost, copies, deliveries that are shuffled.
#[tokio::test]
async fn with_one_connection_what_is_lost_and_late_is_exactly_what_arrives() {
    for more in ["", "--drop-replies 0.2 --bursts 0.2 --conflicts 0.2", "--reorder 50"] {
        let peer = Peer::troubled(Trouble::CutsReply { times: 3 }).await;
        let report = run(&peer, &format!("{OPTIONS} {FAULTS} --concurrency 1 {more}")).await;
        let told = sequences(&report);
        assert_eq!(*told, watched(&peer), "{more}");
        assert!(told.never_sent > 50 && told.reordered > 50, "{report}");
        assert_eq!(told.numbered, 2_100, "all events of the plan are sent: {report}");
    }
}

#[tokio::test]
async fn with_several_connections_the_lost_numbers_are_exact_and_the_order_is_said_not_to_be() {
    let peer = Peer::honest().await;
    let report = run(&peer, &format!("{OPTIONS} {FAULTS} --concurrency 4")).await;
    let (told, watched) = (sequences(&report), watched(&peer));
    assert!(!told.order_is_exact);
    assert_eq!((told.never_sent, told.numbered), (watched.never_sent, watched.numbered));
}

#[tokio::test]
async fn the_same_seed_loses_and_delays_the_same_numbers() {
    let run = async |options: &str| {
        run(&Peer::honest().await, &format!("{options} {FAULTS} --concurrency 1")).await
    };
    let (once, again) = (run(OPTIONS).await, run(OPTIONS).await);
    assert_eq!(sequences(&once), sequences(&again));
    let batches = run(&OPTIONS.replace("--batch 20", "--batch 7")).await;
    assert_eq!(sequences(&once), sequences(&batches), "batches do not matter");
    let other = run(&OPTIONS.replace("--seed 1", "--seed 2")).await;
    assert_ne!(sequences(&once), sequences(&other));
}

/// The order of a topic is the order of its events' first arrival.
#[tokio::test(flavor = "multi_thread")]
async fn the_aggregator_stores_the_numbers_as_they_were_sent_and_verification_misses_none() {
    let store = Arc::new(MemoryStore::new(Partitions::new(2).unwrap()));
    let aggregator = Aggregator::start(store, Config::default()).await;
    let report = run_at(&aggregator.url(), &format!("{OPTIONS} {FAULTS} --concurrency 1")).await;
    let verified = report.verified.as_ref().unwrap();
    assert_eq!((verified.ok, verified.stored_events, verified.lost), (true, 2_100, 0), "{report}");
    let mut watchers: BTreeMap<(String, String), Watcher> = BTreeMap::new();
    for topic in ["sim.topic-0", "sim.topic-1"] {
        let url = format!("{}/events?topic={topic}&limit=1000", aggregator.url());
        let mut page: Value = get(&url).await;
        loop {
            for event in page["events"].as_array().unwrap() {
                let source = event["source"].as_str().unwrap().to_owned();
                let watcher = watchers.entry((topic.to_owned(), source)).or_default();
                watcher.see(event["sequence"].as_u64().unwrap());
            }
            if page["caught_up"] == true {
                break;
            }
            page = get(&format!("{url}&after={}", page["next"].as_str().unwrap())).await;
        }
    }
    assert_eq!(*sequences(&report), noticed(watchers));
    aggregator.stop().await;
}

async fn get(url: &str) -> Value {
    let body = http_client().get(url).send().await.unwrap().bytes().await.unwrap();
    serde_json::from_slice(&body).unwrap()
}
