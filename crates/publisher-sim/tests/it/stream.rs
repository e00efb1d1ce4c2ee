//! Verification by the stream: an honest one passes, whatever becomes of its connections; an edited one does not.

use std::num::NonZeroUsize;
use std::sync::Arc;

use aggregator_core::{MemoryStore, SqliteStore};
use aggregator_server::Config;
use publisher_sim::report::{Report, Verdict, VerifyReport};
use publisher_sim::verify::VerifyBy;
use tempfile::TempDir;

use crate::editor::{Edit, Editor};
use crate::server::Aggregator;
use crate::{http_client, run_at};

const OPTIONS: &str =
    "--events 600 --dup 0.3 --batch 20 --concurrency 3 --topics 3 --seed 1 --verify-by stream";

const SILENT: &str = "the stream brought nothing for 3s, and events were missing";

/// A run through a proxy that edits the stream.
async fn edited(edit: Edit, options: &str) -> Report {
    let aggregator = Aggregator::start(Arc::new(MemoryStore::default()), Config::default()).await;
    let editor = Editor::before(aggregator.address, edit).await;
    let report = run_at(&editor.url(), options).await;
    aggregator.stop().await;
    report
}

fn verified(report: &Report) -> &VerifyReport {
    let verified = report.verified.as_ref().unwrap();
    assert_eq!(verified.by, VerifyBy::Stream);
    verified
}

async fn assert_caught(edit: Edit, caught: impl FnOnce(&VerifyReport) -> bool) {
    let report = edited(edit, &format!("{OPTIONS} --retry-deadline-ms 3000")).await;
    assert_eq!(report.verdict, Verdict::Broken, "{edit:?}\n{report}");
    assert!(caught(verified(&report)), "{edit:?}\n{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_on_the_way_is_followed_as_it_is_stored() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let aggregator = Aggregator::start(Arc::new(store), Config::default()).await;
    let options = "--events 4000 --dup 0.5 --batch 20 --topics 8 --chaos --seed 3 --verify-by stream";
    // The second run is nothing but repeats; its stream begins with what is stored.
    for (stored, read) in [(true, 2_000), (false, 2_000)] {
        let report = run_at(&aggregator.url(), options).await;
        assert_eq!(report.verdict, Verdict::Done, "{report}");
        let verified = verified(&report);
        assert_eq!((verified.events_read, verified.stored_events), (read, 2_000), "{report}");
        assert_eq!((verified.reconnections, verified.ok), (0, true), "{report}");
        assert_eq!(report.sent.stored > 0, stored, "{report}");
        assert!(report.to_string().contains("2,000 came by stream, "), "{report}");
    }
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_again_and_again_is_gone_on_with() {
    let report = edited(Edit::CutEach(23), &format!("{OPTIONS} --rate 2000")).await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    let verified = verified(&report);
    assert_eq!((verified.events_read, verified.foreign), (420, 0), "{report}");
    // 420 events, of which every 23rd try is cut.
    assert!((15..=25).contains(&verified.reconnections), "{report}");
    assert!(
        report.to_string().contains(&format!(" and {} reconnections", verified.reconnections)),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_other_runs_in_its_topics_judges_its_own_events() {
    let aggregator = Aggregator::start(Arc::new(MemoryStore::default()), Config::default()).await;
    run_at(&aggregator.url(), &OPTIONS.replace("--topics 3 --seed 1", "--topics 5 --seed 2")).await;
    let report = run_at(&aggregator.url(), OPTIONS).await;
    assert_eq!(report.verdict, Verdict::Done, "{report}");
    assert!(verified(&report).foreign > 0 && verified(&report).stored_events == 420, "{report}");
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_stream_leaves_out_is_caught() {
    assert_caught(Edit::Drop(100), |v| v.lost == 1 && v.out_of_order == 1 && v.stored_events == 419).await;
}

/// No later event shows the gap: it is missed by its receipt. Another connection would have it.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_event_left_out_is_caught() {
    assert_caught(Edit::Drop(419), |v| v.unfinished.as_ref().is_some_and(|reason| reason.contains(SILENT)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_stream_repeats_is_caught() {
    for place in [0, 100, 419] {
        assert_caught(Edit::Repeat(place), |v| v.lost == 0 && v.doubled == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_too_late_is_caught() {
    let report = edited(Edit::Delay(100), &OPTIONS.replace("--topics 3", "--topics 1")).await;
    assert_eq!(report.verdict, Verdict::Broken, "{report}");
    let verified = verified(&report);
    assert!(verified.out_of_order > 0 && verified.lost == 0 && verified.doubled == 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_the_stream_changes_is_caught() {
    assert_caught(Edit::Change(100), |v| v.mismatched == 1 && v.lost == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_falls_silent_is_caught_although_another_one_has_everything() {
    assert_caught(Edit::Hold(200), |v| {
        v.unfinished.as_ref().is_some_and(|reason| reason.contains(SILENT)) && v.lost == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_no_stream_or_no_place_for_one_is_not_verified() {
    let peer = crate::peer::Peer::honest().await;
    let report = run_at(&peer.url(), &format!("{OPTIONS} --retry-deadline-ms 3000")).await;
    assert_eq!(report.verdict, Verdict::Broken, "{report}");
    assert!(report.to_string().contains("GET /events/stream was answered 404"), "{report}");

    let config = Config { max_tails: NonZeroUsize::MIN, ..Config::default() };
    let aggregator = Aggregator::start(Arc::new(MemoryStore::default()), config).await;
    let url = format!("{}/events/stream", aggregator.url());
    let mut other = http_client().get(url).send().await.unwrap();
    other.chunk().await.unwrap();
    let report = run_at(&aggregator.url(), &format!("{OPTIONS} --retry-deadline-ms 3000")).await;
    assert_eq!(report.verdict, Verdict::Broken, "{report}");
    // It was told to come again in 15 s, which is beyond the deadline.
    let said = "gave up after 1 attempts; the last one ended with: the stream ended";
    assert!(report.to_string().contains(said), "{report}");
    drop(other);
    aggregator.stop().await;
}
