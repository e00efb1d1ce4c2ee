//! Publishers and the aggregator with a network between them that loses, cuts, delays and repeats.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{
    DedupStore, DedupStoreExt, EventId, Identity, MemoryStore, Partitions, SqliteStore, StoreStats, Topic,
};
use aggregator_server::Config;
use publisher_sim::report::{Report, Verdict};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::evidence::{Evidence, Findings, Promise};
use crate::peer::{Lie, Peer};
use crate::proxy::{Fault, Mishap, Proxy};
use crate::run_at;
use crate::server::Aggregator;

/// Same seed, same plan, so the same identities and payloads, in other batches and another order.
const PLAN: &str = "--events 600 --dup 0.4 --conflicts 0.3 --topics 6 --seed 11 --verify \
                    --retry-cap-ms 20 --request-timeout-ms 5000";
const IDENTITIES: u64 = 360;
const PUBLISHERS: [&str; 4] = [
    "--concurrency 2 --batch 25",
    "--concurrency 4 --batch 10 --reorder 40",
    "--concurrency 8 --batch 7 --reorder 100 --bursts 0.1 --drop-replies 0.1",
    "--concurrency 4 --batch 4 --reorder 600 --delay 2",
];

/// Lets all publishers publish the same at the same time.
async fn race(url: &str, plan: &str, publishers: &[&str]) -> Vec<Report> {
    let mut running = JoinSet::new();
    for publisher in publishers {
        let (url, options) = (url.to_owned(), format!("{plan} {publisher}"));
        running.spawn(async move { run_at(&url, &options).await });
    }
    running.join_all().await
}

fn assert_clean(report: &Report, identities: u64) {
    assert_eq!((report.verdict, report.sent.failed), (Verdict::Done, 0), "{report}");
    let verified = report.verified.as_ref().unwrap();
    assert_eq!((verified.acknowledged, verified.events_read), (identities, identities), "{report}");
    let faults = (verified.lost, verified.doubled, verified.out_of_order, verified.mismatched);
    assert_eq!(faults, (0, 0, 0, 0), "{report}");
}

async fn racing_publishers_store_each_event_once_and_are_told_the_truth(store: Arc<dyn DedupStore>) {
    let aggregator = Aggregator::start(Arc::clone(&store), Config::default()).await;
    let proxy = Proxy::start(aggregator.address, |number| Mishap::dealt(5, number)).await;
    let reports = race(&proxy.url(), PLAN, &PUBLISHERS).await;
    let exchanges = proxy.finish().await;
    for report in &reports {
        assert_clean(report, IDENTITIES);
    }
    for kind in Fault::kinds() {
        assert!(exchanges.iter().any(|exchange| exchange.fault == kind), "{kind:?} did not happen");
    }

    let mut evidence = Evidence::gather(exchanges, &aggregator.url()).await;
    aggregator.stop().await;
    look_up(&mut evidence, &*store);
    assert_eq!(evidence.findings(), Findings::new());
    assert_eq!((evidence.rows.len(), evidence.identities().len()), (360, 360));
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());

    let (stats, delivered) = (store.stats().unwrap(), evidence.delivered());
    assert_eq!(stats.stored, IDENTITIES);
    let received = stats.stored + stats.duplicates;
    let most = delivered.heard + delivered.unheard;
    assert!((delivered.heard..=most).contains(&received), "received {received}, {delivered:?}");
    let acknowledged: u64 = reports.iter().map(|report| report.sent.acknowledged()).sum();
    assert!(acknowledged <= delivered.arrived && delivered.arrived < delivered.heard, "{delivered:?}");
    assert!(delivered.conflicts > 0 && stats.conflicts >= delivered.conflicts, "{stats:?}, {delivered:?}");
}

/// Asks the store itself.
fn look_up(evidence: &mut Evidence, store: &dyn DedupStore) {
    let keys: Vec<_> = evidence.identities().into_iter().collect();
    let identity = |(topic, event_id): &(String, String)| Identity {
        topic: Topic::new(topic.as_str()).unwrap(),
        event_id: EventId::new(event_id.as_str()).unwrap(),
        source: None,
    };
    let seen = store.lookup(&keys.iter().map(identity).collect::<Vec<_>>()).unwrap();
    let places = seen
        .into_iter()
        .map(|seen| seen.map(|seen| (seen.seq.unwrap_or_default(), seen.processed_at.to_string())));
    evidence.lookups = keys.into_iter().zip(places).collect();
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_race_through_a_faulty_network_store_each_event_once_in_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    racing_publishers_store_each_event_once_and_are_told_the_truth(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_race_through_a_faulty_network_store_each_event_once_in_partitions() {
    let store = MemoryStore::new(Partitions::new(4).unwrap());
    racing_publishers_store_each_event_once_and_are_told_the_truth(Arc::new(store)).await;
}

/// One request with ten events, and what happens to it on its way; its retry gets through.
async fn after(mishap: Mishap) -> (Report, StoreStats) {
    let store = Arc::new(MemoryStore::default());
    let aggregator = Aggregator::start(Arc::clone(&store) as _, Config::default()).await;
    let proxy = Proxy::start(aggregator.address, Mishap::only_first(mishap)).await;
    let report = run_at(&proxy.url(), "--events 10 --dup 0 --batch 10 --seed 1 --verify").await;
    let exchanges = proxy.finish().await;
    let evidence = Evidence::gather(exchanges, &aggregator.url()).await;
    aggregator.stop().await;
    assert_clean(&report, 10);
    assert_eq!(evidence.findings(), Findings::new(), "{mishap:?}");
    let stats = store.stats().unwrap();
    assert_eq!(stats.stored, 10, "{mishap:?}");
    (report, stats)
}

fn mishap(fault: Fault) -> Mishap {
    Mishap { fault, pause: Duration::from_millis(1), ..Mishap::NONE }
}

#[tokio::test]
async fn after_a_lost_reply_the_retry_is_told_duplicate() {
    let (report, stats) = after(mishap(Fault::DropReply)).await;
    assert_eq!((report.sent.stored, report.sent.duplicates, report.retries.total), (0, 10, 1), "{report}");
    assert_eq!(stats.duplicates, 10);
}

#[tokio::test]
async fn a_reply_that_is_cut_off_acknowledges_nothing() {
    for cut in [0.0, 0.3, 0.6, 1.0] {
        let (report, stats) = after(Mishap { cut, ..mishap(Fault::CutReply) }).await;
        assert_eq!(
            (report.sent.stored, report.sent.duplicates, report.retries.total),
            (0, 10, 1),
            "{report}"
        );
        assert_eq!(stats.duplicates, 10);
    }
}

#[tokio::test]
async fn a_request_that_is_cut_off_stores_nothing() {
    let cuts = [0.0, 0.05, 0.5, 1.0].map(|cut| Mishap { cut, ..mishap(Fault::CutRequest) });
    for mishap in [mishap(Fault::DropRequest)].into_iter().chain(cuts) {
        let (report, stats) = after(mishap).await;
        assert_eq!(
            (report.sent.stored, report.sent.duplicates, report.retries.total),
            (10, 0, 1),
            "{report}"
        );
        assert_eq!(stats.duplicates, 0, "{mishap:?}");
    }
}

#[tokio::test]
async fn a_request_that_the_network_duplicates_is_stored_once() {
    for (fault, second, stored) in [
        (Fault::TwiceInTurn, false, Some(10)),
        (Fault::TwiceInTurn, true, Some(0)),
        (Fault::TwiceAtOnce, false, None),
        (Fault::AgainLater, false, Some(10)),
    ] {
        let (report, stats) = after(Mishap { second, ..mishap(fault) }).await;
        assert_eq!((report.sent.stored + report.sent.duplicates, report.retries.total), (10, 0), "{report}");
        assert!(stored.is_none_or(|stored| report.sent.stored == stored), "{fault:?}\n{report}");
        assert_eq!(stats.duplicates, 10, "{fault:?}");
    }
}

#[tokio::test]
async fn a_request_that_its_retry_overtakes_is_stored_once() {
    let late = Mishap { pause: Duration::from_millis(30), ..mishap(Fault::Overtaken) };
    for mishap in [mishap(Fault::Overtaken), late] {
        let (report, stats) = after(mishap).await;
        assert_eq!((report.retries.total, stats.duplicates), (1, 10), "{report}");
    }
}

#[tokio::test]
async fn a_connection_that_stalls_and_breaks_leaves_nothing_in_doubt() {
    let (report, stats) = after(mishap(Fault::Stall)).await;
    assert_eq!((report.retries.total, report.sent.stored + report.sent.duplicates), (1, 10), "{report}");
    // The server may never have seen it, or seen it before its retry, or after.
    assert!([0, 10].contains(&stats.duplicates) && stats.duplicates >= report.sent.duplicates, "{report}");
}

/// What a lying peer is caught at by the network's record.
async fn caught(lie: Lie) -> Vec<Promise> {
    let peer = Peer::lying(lie).await;
    let proxy = Proxy::start(peer.address(), |number| Mishap::dealt(6, number)).await;
    let plan = "--events 120 --dup 0.3 --topics 2 --seed 3 --retry-cap-ms 20";
    race(&proxy.url(), plan, &["--batch 10", "--batch 7 --conflicts 0.2"]).await;
    let evidence = Evidence::gather(proxy.finish().await, &peer.url()).await;
    evidence.findings().into_keys().collect()
}

#[tokio::test]
async fn a_server_that_lies_is_caught_by_the_record_of_the_network() {
    use Promise::*;
    for (lie, promises) in [
        (Lie::None, &[][..]),
        (Lie::Forgets, &[StoredIsSaidOnce, HeldOnce]),
        (Lie::CallsAllStored, &[StoredIsSaidOnce, OutcomesTellPayloads]),
        (Lie::CallsAllDuplicates, &[StoredIsSaid]),
        (Lie::OmitsReceipt, &[EveryItemHasAFate]),
        (Lie::MisquotesSeqs, &[ReceiptsNameTheEvent]),
        (Lie::MisquotesTimes, &[ReceiptsNameTheEvent]),
        (Lie::RewritesPayloads, &[OutcomesTellPayloads]),
        (Lie::Loses(20), &[ReceiptsNameTheEvent, HeldOnce, DenseAndInOrder]),
        (Lie::Doubles(20), &[HeldOnce]),
        (Lie::SkipsSeq(20), &[DenseAndInOrder]),
    ] {
        assert_eq!(caught(lie).await, promises, "{lie:?}");
    }
}

#[tokio::test]
async fn a_lookup_that_finds_another_event_or_none_is_noticed() {
    let peer = Peer::honest().await;
    let proxy = Proxy::start(peer.address(), |_| Mishap::NONE).await;
    run_at(&proxy.url(), "--events 20 --dup 0 --seed 3").await;
    let mut evidence = Evidence::gather(proxy.finish().await, &peer.url()).await;
    evidence.lookups = evidence.places();
    assert_eq!(evidence.findings(), Findings::new());
    let key = evidence.identities().first().unwrap().clone();
    for lie in [None, Some((1_000, evidence.rows[0].processed_at.clone()))] {
        evidence.lookups.insert(key.clone(), lie);
        assert!(evidence.findings().into_keys().eq([Promise::LookupAgrees]));
    }
}

#[tokio::test]
async fn two_publishers_that_are_both_told_stored_notice_nothing_but_the_record_of_the_network_does() {
    let peer = Peer::lying(Lie::CallsAllStored).await;
    let proxy = Proxy::start(peer.address(), |_| Mishap::NONE).await;
    for report in race(&proxy.url(), "--events 50 --dup 0 --seed 3 --verify", &["", ""]).await {
        assert_clean(&report, 50);
    }
    let evidence = Evidence::gather(proxy.finish().await, &peer.url()).await;
    let findings = evidence.findings();
    assert!(findings.keys().eq([&Promise::StoredIsSaidOnce]), "{findings:?}");
    assert_eq!(findings[&Promise::StoredIsSaidOnce].len(), 50);
}
