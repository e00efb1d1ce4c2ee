//! The program as its users meet it: exit codes, and what is printed where.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::peer::{Lie, Peer, Trouble};

fn program(url: &str, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_publisher-sim"));
    command.args(["--url", url]).args(options.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(url: &str, options: &str) -> Output {
    let mut command = program(url, options);
    spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn without_a_server_one_line_says_how_to_start_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = output(&url, "--events 10").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&url) && stderr.contains("cargo run --release --bin aggregator-server"),
        "{stderr}"
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[tokio::test]
async fn a_server_that_is_no_aggregator_is_not_published_to() {
    let peer = Peer::honest().await;
    let output = output(&format!("{}/elsewhere", peer.url()), "--events 10").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is not an aggregator"), "{}", text(&output.stderr));
    assert!(peer.bodies().is_empty());
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_a_reason() {
    let url = "http://127.0.0.1:1";
    for (options, reason) in [
        ("--dup 2", "share between 0 and 1"),
        ("--events 10 --dup 1", "no original"),
        ("--retry-base-ms 9 --retry-cap-ms 3", "retry cap"),
        ("--retry-attempts 0", "attempt"),
        ("--unknown", "--unknown"),
    ] {
        let output = output(url, options).await;
        assert_eq!(output.status.code(), Some(2), "{options}");
        assert!(text(&output.stderr).contains(reason), "{options}: {}", text(&output.stderr));
    }
    let https = output("https://127.0.0.1:1", "").await;
    assert_eq!(https.status.code(), Some(2));
    assert!(text(&https.stderr).contains("without TLS"), "{}", text(&https.stderr));
}

#[tokio::test]
async fn a_verified_run_exits_with_0_and_prints_a_table() {
    let peer = Peer::honest().await;
    let output = output(&peer.url(), "--events 500 --verify").await;
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    for expected in ["seed", "stored", "duplicates", "conflicts", "p99.9", "verified", "received 500"] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }
    assert!(text(&output.stderr).starts_with("seed "), "a drawn seed is known before anything is sent");
}

#[tokio::test]
async fn a_broken_promise_exits_with_1() {
    let lost = Peer::lying(Lie::Loses(3)).await;
    assert_eq!(output(&lost.url(), "--events 100 --verify").await.status.code(), Some(1));
    let refused = Peer::troubled(Trouble::RefusesAll).await;
    assert_eq!(output(&refused.url(), "--events 100").await.status.code(), Some(1));
}

#[tokio::test]
async fn json_is_one_object_and_nothing_else() {
    let peer = Peer::honest().await;
    let output = output(&peer.url(), "--events 500 --dup 0.2 --seed 7 --json --verify").await;
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "done");
    assert_eq!(report["seed"], 7);
    assert_eq!(report["sent"]["stored"], 400);
    assert_eq!(report["server"]["duplicate_dropped"], 100);
    assert_eq!(report["verified"]["lost"], 0);
}

#[tokio::test]
async fn options_can_come_from_the_environment() {
    let peer = Peer::honest().await;
    let mut command = program(&peer.url(), "");
    command.envs([("PUBLISHER_EVENTS", "40"), ("PUBLISHER_DUP", "0.5"), ("PUBLISHER_JSON", "1")]);
    let output = spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["sent"]["stored"], 20);
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_stops_sending_and_prints_the_report_so_far() {
    let peer = Peer::honest().await;
    let child = program(&peer.url(), "--events 1000 --batch 1 --rate 1 --verify").spawn().unwrap();
    peer.published(1).await;
    // The shell's own `kill`: a machine need not have it as a program.
    let id = child.id().to_string();
    let sent = Command::new("sh").args(["-c", "kill -INT \"$0\"", &id]).status().unwrap();
    assert!(sent.success());
    let output = spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stdout).contains("INTERRUPTED"), "{}", text(&output.stdout));
}
