//! What is retried gets through, what must not be retried is not.

use std::time::Duration;

use publisher_sim::Simulation;
use publisher_sim::report::Verdict;
use publisher_sim::stop::stop_switch;
use tokio::net::TcpSocket;

use crate::peer::{Lie, Peer, Trouble};
use crate::{config, run};

const OPTIONS: &str = "--events 200 --dup 0.2 --batch 20 --concurrency 2 --seed 1 --verify";

#[tokio::test]
async fn busy_servers_are_asked_again_until_all_is_through() {
    for status in [408, 429, 500, 503] {
        let peer = Peer::troubled(Trouble::Busy { times: 5, status, retry_after: "0" }).await;
        let report = run(&peer, OPTIONS).await;
        assert_eq!(report.verdict, Verdict::Done, "{report}");
        assert_eq!(report.retries.by_cause[&status.to_string()], 5);
        assert_eq!((report.sent.requests, report.sent.stored, peer.rows()), (15, 160, 160));
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let peer = Peer::troubled(Trouble::Busy { times: 1, status: 503, retry_after: "1" }).await;
    let report = run(&peer, OPTIONS).await;
    assert_eq!((report.verdict, report.retries.total), (Verdict::Done, 1), "{report}");
    assert!(report.elapsed_seconds >= 1.0, "{report}");
}

#[tokio::test]
async fn a_retry_after_beyond_the_deadline_is_not_waited_for() {
    let peer = Peer::troubled(Trouble::Busy { times: 1, status: 503, retry_after: "3600" }).await;
    let report = run(&peer, OPTIONS).await;
    assert_eq!(
        (report.verdict, report.sent.failed, report.retries.total),
        (Verdict::Broken, 20, 0),
        "{report}"
    );
    assert!(report.verified.as_ref().unwrap().ok, "what was acknowledged is there all the same");
    assert!(report.to_string().contains("20 deliveries were never acknowledged"), "{report}");
}

#[tokio::test]
async fn a_retry_after_a_lost_reply_sends_the_same_bytes_and_finds_duplicates() {
    let peer = Peer::troubled(Trouble::CutsReply { times: 2 }).await;
    let report = run(&peer, "--events 100 --dup 0 --batch 50 --concurrency 1 --seed 1 --verify").await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    let bodies = peer.bodies();
    assert_eq!(bodies.len(), 4);
    assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2] && bodies[2] != bodies[3]);
    assert_eq!((report.sent.stored, report.sent.duplicates, peer.rows()), (50, 50, 100));
    assert!(report.to_string().contains("a try whose reply was lost"), "{report}");
}

#[tokio::test]
async fn a_refused_batch_is_final_and_says_why_once() {
    let peer = Peer::troubled(Trouble::RefusesAll).await;
    let report = run(&peer, OPTIONS).await;
    assert_eq!((report.verdict, report.sent.failed, report.retries.total), (Verdict::Broken, 200, 0));
    assert_eq!(report.sent.requests, 10);
    let table = report.to_string();
    assert_eq!(table.matches("topic: is not to my taste").count(), 1, "{table}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_on() {
    let peer = Peer::troubled(Trouble::Hangs).await;
    let report = run(
        &peer,
        "--events 20 --batch 20 --seed 1 --request-timeout-ms 20 --retry-attempts 3 --retry-cap-ms 1",
    )
    .await;
    assert_eq!(
        (report.verdict, report.sent.failed, report.sent.requests),
        (Verdict::Broken, 20, 3),
        "{report}"
    );
    assert_eq!(report.retries.by_cause["timeout"], 2);
}

#[tokio::test]
async fn a_server_that_is_down_for_a_moment_costs_only_time() {
    // An outage that was over before anything was sent shows nothing: then a longer one will.
    for outage_ms in [100, 1_000, 10_000] {
        // Bound and not listening: the port refuses connections, and nobody else gets it.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        // Not probed: that was before the server went down.
        let simulation = Simulation::new(config(&format!("http://{address}"), OPTIONS)).unwrap();
        let (_switch, stop) = stop_switch();
        let outage = async {
            tokio::time::sleep(Duration::from_millis(outage_ms)).await;
            Peer::start_on(socket.listen(1024).unwrap(), Lie::None, Trouble::None)
        };
        let (report, peer) = tokio::join!(simulation.run(&stop), outage);
        assert_eq!(report.verdict, Verdict::Done, "{report}");
        assert_eq!(peer.rows(), 160);
        if report.retries.by_cause.contains_key("no connection") {
            return;
        }
    }
    panic!("no delivery met an outage");
}

#[tokio::test]
async fn the_same_seed_sends_the_same_bodies_again() {
    let options = "--events 100 --batch 10 --concurrency 1 --chaos --delay 0 --bursts 0 --seed 9";
    let (first, second) = (Peer::honest().await, Peer::honest().await);
    run(&first, options).await;
    run(&second, options).await;
    assert_eq!(first.bodies(), second.bodies());
}

#[tokio::test]
async fn a_rate_spreads_deliveries_over_time() {
    let report = run(&Peer::honest().await, "--events 100 --batch 10 --rate 400 --seed 1").await;
    // The last of ten batches is due after nine tenths of the time.
    assert!(report.elapsed_seconds >= 0.225, "{report}");
}
