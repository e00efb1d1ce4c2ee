//! The program as its users meet it: exit codes, and what is printed where.

use std::fs::File;
use std::io::{Read as _, pipe};
use std::process::{Command, Output, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::peer::{Lie, Peer, Trouble};

pub(crate) fn program(url: &str, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_publisher-sim"));
    command.args(["--url", url]).args(options.split_whitespace());
    // Options of whoever runs the tests.
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PUBLISHER_"))
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(url: &str, options: &str) -> Output {
    output_of(program(url, options)).await
}

pub(crate) async fn output_of(mut command: Command) -> Output {
    spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
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
    assert!(stderr.contains("--url") && stderr.contains("Connection refused"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[tokio::test]
async fn a_server_that_is_no_aggregator_is_not_published_to() {
    let peer = Peer::honest().await;
    let output = output(&format!("{}/elsewhere", peer.url()), "--events 10").await;
    assert_eq!(output.status.code(), Some(2));
    for expected in ["is not an aggregator", "--url", "/elsewhere"] {
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
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
        ("--events 0", "--events <N>': must be a whole number from 1 to 1000000000"),
        ("--batch many", "--batch <N>': must be a whole number from 1 to 10000"),
        ("--request-timeout-ms 0", "--request-timeout-ms <MS>': must be a whole number from 1 to 4294967295"),
        ("--seed=-1", "--seed <N>': must be a whole number from 0 up"),
        ("--drop 0.95", "--drop <SHARE>': must be a share between 0 and 0.9, such as 0.01"),
    ] {
        let output = output(url, options).await;
        assert_eq!(output.status.code(), Some(2), "{options}");
        assert!(text(&output.stderr).contains(reason), "{options}: {}", text(&output.stderr));
    }
    for bare in ["127.0.0.1:8080", "localhost:8080"] {
        let refused = output_of(program(bare, "")).await;
        assert_eq!(refused.status.code(), Some(2));
        let stderr = text(&refused.stderr);
        assert!(stderr.contains(&format!("did you mean http://{bare}?")), "{stderr}");
    }
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

/// Every variable that `--help` names, but that of `--url`.
async fn variables() -> Vec<String> {
    let help = output("http://127.0.0.1:1", "--help").await.stdout;
    let names = text(&help).split("[env: ").skip(1).map(|rest| rest.split('=').next().unwrap().to_owned());
    names.filter(|name| name != "PUBLISHER_URL").collect()
}

#[tokio::test]
async fn a_variable_that_is_empty_counts_as_unset() {
    let names = variables().await;
    assert!(names.len() > 15, "{names:?}");
    let peer = Peer::honest().await;
    let mut command = program(&peer.url(), "");
    command.envs(names.iter().map(|name| (name, "")));
    let output = output_of(command).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("5,000"), "{}", text(&output.stdout));
}

#[tokio::test]
async fn a_misspelt_variable_is_refused_and_a_strange_one_warned_of() {
    let peer = Peer::honest().await;
    let mut command = program(&peer.url(), "--events 10 --json");
    command.env("PUBLISHER_CONCURENCY", "2");
    let refused = output_of(command).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("did you mean PUBLISHER_CONCURRENCY?"),
        "{}",
        text(&refused.stderr)
    );
    assert!(peer.bodies().is_empty());
    let mut command = program(&peer.url(), "--events 10 --seed 1 --json");
    command.env("PUBLISHER_ID", "2");
    let warned = output_of(command).await;
    assert_eq!(warned.status.code(), Some(0));
    let stderr = text(&warned.stderr);
    assert!(stderr.contains("PUBLISHER_ID ") && stderr.lines().count() == 1, "{stderr}");
}

#[tokio::test]
async fn a_bad_value_from_the_environment_names_its_variable() {
    let mut command = program("http://127.0.0.1:1", "");
    command.env("PUBLISHER_EVENTS", "many");
    let output = output_of(command).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("PUBLISHER_EVENTS"), "{}", text(&output.stderr));
    let mut command = program("http://127.0.0.1:1", "-n many");
    command.env("PUBLISHER_EVENTS", "5");
    let output = output_of(command).await;
    assert!(!text(&output.stderr).contains("PUBLISHER_EVENTS"), "it did not come from there");
}

#[tokio::test]
async fn every_signal_to_end_stops_sending_and_prints_the_report_so_far() {
    for signal in ["INT", "TERM", "HUP"] {
        let peer = Peer::honest().await;
        let simulator = program(&peer.url(), "--events 1000 --batch 1 --rate 1 --verify");
        // Whatever the tests were started with: `nohup` has it ignored.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(simulator.get_program()).args(simulator.get_args());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        peer.published(1).await;
        // The shell's own `kill`: a machine need not have it as a program.
        let id = child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -$0 \"$1\"", signal, &id]).status().unwrap();
        assert!(sent.success());
        let output = spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}");
        assert!(text(&output.stdout).contains("INTERRUPTED"), "{signal}: {}", text(&output.stdout));
    }
}

/// Where what is written goes nowhere: a full disk, a pipe whose reader is gone.
fn nowhere() -> [Stdio; 2] {
    [File::options().write(true).open("/dev/full").unwrap().into(), pipe().unwrap().1.into()]
}

#[tokio::test]
async fn a_standard_error_that_cannot_be_written_changes_nothing() {
    let peer = Peer::honest().await;
    for (url, options, code) in [
        (&*peer.url(), "--events 50", 0),
        ("http://127.0.0.1:1", "", 2),
        ("http://127.0.0.1:1", "--dup 2", 2),
    ] {
        for stderr in nowhere() {
            let mut command = program(url, options);
            command.stderr(stderr);
            let output = spawn_blocking(move || command.output().unwrap()).await.unwrap();
            assert_eq!(output.status.code(), Some(code), "{options}");
            assert_eq!(text(&output.stdout).contains("stored"), code == 0, "{options}");
        }
    }
}

#[tokio::test]
async fn a_report_that_nobody_reads_is_a_quiet_end_and_one_that_cannot_be_written_an_error() {
    let peer = Peer::honest().await;
    for options in ["--seed 7 --events 50", "--seed 7 --events 50 --json", "--help", "--version"] {
        let [full, closed] = nowhere();
        for (stdout, code, lines) in [(full, 1, 1), (closed, 0, 0)] {
            let mut command = program(&peer.url(), options);
            let child = command.stdout(stdout).spawn().unwrap();
            let output = spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
            let stderr = text(&output.stderr);
            assert_eq!(
                (output.status.code(), stderr.lines().count()),
                (Some(code), lines),
                "{options}: {stderr}"
            );
            assert!(lines == 0 || stderr.contains("standard output: No space left on device"), "{stderr}");
        }
    }
    // As `publisher-sim … 2>&1 | head -1` has it.
    let mut command = program(&peer.url(), "--events 50");
    let (_, closed) = pipe().unwrap();
    let status = spawn_blocking(move || command.stdout(closed.try_clone().unwrap()).stderr(closed).status());
    assert_eq!(status.await.unwrap().unwrap().code(), Some(0));
}

/// The bar is drawn on a terminal alone, and a terminal can be closed.
#[tokio::test]
async fn a_terminal_that_is_closed_under_the_progress_bar_does_not_end_the_run() {
    let peer = Peer::honest().await;
    let master =
        pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname(&master, Vec::new()).unwrap();
    let terminal = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let mut command = program(&peer.url(), "--seed 7 --events 2000 --batch 1 --rate 1000");
    let child = command.stderr(terminal.unwrap()).env("TERM", "xterm").spawn().unwrap();
    drop(command);
    let output = spawn_blocking(move || {
        let mut master = File::from(master);
        let mut drawn = Vec::new();
        while !String::from_utf8_lossy(&drawn).contains("left") {
            let mut some = [0; 256];
            let length = master.read(&mut some).unwrap();
            drawn.extend_from_slice(&some[..length]);
        }
        drop(master);
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("stored"));
}
