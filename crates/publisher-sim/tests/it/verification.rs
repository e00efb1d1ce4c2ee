//! An honest server passes, with every fault on the publisher's side; a lying one does not.

use publisher_sim::report::{Report, Verdict, VerifyReport};

use crate::peer::{Lie, Peer, Trouble};
use crate::run;

const OPTIONS: &str = "--events 300 --dup 0.3 --batch 20 --concurrency 3 --topics 2 --seed 1 --verify";

fn verified(report: &Report) -> &VerifyReport {
    report.verified.as_ref().unwrap()
}

/// The verdict must be red, and for this reason.
async fn assert_caught(lie: Lie, caught: impl FnOnce(&VerifyReport) -> bool) {
    let report = run(&Peer::lying(lie).await, OPTIONS).await;
    assert_eq!(report.verdict, Verdict::Broken, "{lie:?}\n{report}");
    assert!(caught(verified(&report)), "{lie:?}\n{report}");
    assert!(report.to_string().contains("NOT verified"), "{report}");
}

#[tokio::test]
async fn an_honest_server_is_verified_and_all_counts_are_exact() {
    let peer = Peer::honest().await;
    let report = run(&peer, OPTIONS).await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert_eq!((report.sent.stored, report.sent.duplicates, report.sent.conflicts), (210, 90, 0));
    assert_eq!((report.sent.requests, report.retries.total, peer.rows()), (15, 0, 210));
    let verified = verified(&report);
    assert_eq!((verified.acknowledged, verified.events_read, verified.foreign), (210, 210, 0));
    let server = report.server.as_ref().unwrap();
    assert_eq!((server.received, server.unique_processed, server.duplicate_dropped), (300, 210, 90));
    assert!(report.to_string().contains("lost 0, doubled 0, out of order 0, mismatched 0"), "{report}");
}

#[tokio::test]
async fn single_events_are_verified_too() {
    let report =
        run(&Peer::honest().await, "--events 60 --dup 0.5 --batch 1 --ids composite --seed 2 --verify").await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert_eq!((report.sent.stored, report.sent.duplicates, report.sent.requests), (30, 30, 60));
}

#[tokio::test]
async fn a_seed_sent_again_is_all_duplicates_and_other_runs_do_not_disturb() {
    let peer = Peer::honest().await;
    run(&peer, OPTIONS).await;
    let again = run(&peer, OPTIONS).await;
    assert_eq!((again.sent.stored, again.sent.duplicates), (0, 300));
    assert_eq!(again.verdict, Verdict::Done, "{again}");
    let other = run(&peer, &OPTIONS.replace("--seed 1", "--seed 2")).await;
    assert_eq!((other.sent.stored, other.sent.duplicates), (210, 90));
    assert_eq!(other.verdict, Verdict::Done, "{other}");
    assert_eq!(verified(&other).foreign, 210);
}

#[tokio::test]
async fn every_identity_is_stored_once_under_all_faults_of_the_publisher() {
    let peer = Peer::troubled(Trouble::CutsReply { times: 3 }).await;
    let faults = "--drop-replies 0.2 --delay 3 --reorder 50 --bursts 0.3 --conflicts 0.2";
    let report = run(&peer, &format!("{OPTIONS} {faults}")).await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert_eq!(peer.rows(), 210);
    assert!(report.sent.burst_deliveries > 0 && report.sent.conflicts > 0, "{report}");
    assert!(report.retries.by_cause["reply dropped"] > 0 && report.retries.by_cause["connection reset"] > 0);
    let sent = &report.sent;
    assert_eq!(sent.stored + sent.duplicates + sent.conflicts, 300 + sent.burst_deliveries);
}

#[tokio::test]
async fn chaos_is_survived() {
    let peer = Peer::honest().await;
    let report = run(&peer, "--events 2000 --seed 4 --chaos --verify").await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert_eq!(peer.rows(), 1600);
    let (verified, sent) = (verified(&report), &report.sent);
    assert_eq!(verified.delivered, 2000 + sent.burst_deliveries);
    assert_eq!(verified.delivered, sent.stored + sent.duplicates + sent.conflicts);
    assert_eq!(verified.acknowledged_deliveries, verified.delivered);
    assert_eq!((verified.acknowledged, verified.stored_events), (1600, 1600));
}

#[tokio::test]
async fn conflicts_are_exact_when_deliveries_arrive_in_order() {
    let report = run(
        &Peer::honest().await,
        "--events 500 --dup 0.4 --conflicts 0.25 --concurrency 1 --drop-replies 0.3 --seed 5 --verify",
    )
    .await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert_eq!(report.sent.conflicts, 50);
}

#[tokio::test]
async fn a_lost_event_is_caught() {
    assert_caught(Lie::Loses(100), |v| v.lost == 1 && v.doubled == 0 && v.stored_events == 209).await;
}

#[tokio::test]
async fn a_doubled_event_is_caught() {
    assert_caught(Lie::Doubles(100), |v| v.lost == 0 && v.doubled == 1 && v.stored_events == 210).await;
}

#[tokio::test]
async fn a_skipped_seq_is_caught() {
    assert_caught(Lie::SkipsSeq(100), |v| v.lost == 0 && v.doubled == 0 && v.out_of_order == 1).await;
}

#[tokio::test]
async fn a_wrong_order_is_caught() {
    assert_caught(Lie::ReadsBackwards, |v| v.lost == 0 && v.out_of_order > 0).await;
}

#[tokio::test]
async fn a_rewritten_payload_is_caught() {
    assert_caught(Lie::RewritesPayloads, |v| v.mismatched == 210).await;
}

#[tokio::test]
async fn a_store_that_forgets_is_caught_by_its_receipts_and_by_what_it_holds() {
    let report = run(&Peer::lying(Lie::Forgets).await, OPTIONS).await;
    assert_eq!(report.verdict, Verdict::Broken);
    assert_eq!((report.sent.contradictions, verified(&report).doubled), (90, 90), "{report}");
}

#[tokio::test]
async fn receipts_that_name_another_seq_are_caught() {
    let report = run(&Peer::lying(Lie::MisquotesSeqs).await, OPTIONS).await;
    assert_eq!(report.verdict, Verdict::Broken);
    assert!(report.sent.contradictions > 0, "{report}");
    let without_verify = run(&Peer::lying(Lie::MisquotesSeqs).await, &OPTIONS.replace("--verify", "")).await;
    assert_eq!(without_verify.verdict, Verdict::Broken, "contradictions need no reading back");
}

#[tokio::test]
async fn a_missing_receipt_is_no_acknowledgement() {
    let report = run(&Peer::lying(Lie::OmitsReceipt).await, OPTIONS).await;
    assert_eq!((report.verdict, report.sent.failed), (Verdict::Broken, 300), "{report}");
}

#[tokio::test]
async fn a_store_that_never_ends_is_not_verified() {
    assert_caught(Lie::NeverCaughtUp, |v| v.unfinished.is_some() && v.lost == 0).await;
}
