//! A server that has no file descriptors left for connections.

use std::process::{Command, Stdio};

use reqwest::Client;
use tokio::net::TcpStream;

use crate::support::{Process, events, in_time, until};

fn open_files(server: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count()
}

fn limit(server: &Process, files: usize) {
    let arguments = [format!("--nofile={files}:"), "--pid".into(), server.id().to_string()];
    assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
}

#[tokio::test]
async fn a_server_without_free_descriptors_waits_and_goes_on() {
    let directory = tempfile::TempDir::new().unwrap();
    let store = format!("sqlite:{}", directory.path().join("a.db").display());
    let mut command =
        Process::command(&["--listen", "127.0.0.1:0", "--store", &store, "--log-format", "json"]);
    let log = directory.path().join("log");
    command.stderr(Stdio::from(std::fs::File::create(&log).unwrap()));
    let server = Process::spawn(command);
    let address = server.url.strip_prefix("http://").unwrap();
    let publish = async |client: &Client, from: u32| {
        let request = client.post(format!("{}/publish", server.url)).json(&events("t", from..from + 10));
        in_time("it answers", request.send()).await.unwrap().status().as_u16()
    };
    // A connection that is there already.
    let early = crate::support::client();
    assert_eq!(publish(&early, 0).await, 202);
    limit(&server, open_files(&server) + 5);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let tells = || std::fs::read_to_string(&log).unwrap().matches("no connection can be accepted").count();
    until("it says that it can accept none", async || tells() > 0).await;
    assert_eq!(publish(&early, 10).await, 202);
    // It rests between two tries: no line, and no processor time, for each time round.
    let told = tells();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(tells() - told <= 20, "{told}, {}", tells());
    drop(crowd);
    assert_eq!(publish(&crate::support::client(), 20).await, 202);
    server.signal("-TERM");
    assert!(server.wait().success());
}
