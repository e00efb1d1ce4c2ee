//! `aggregator-server key`, over the admin socket and on the store itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use tempfile::TempDir;

use crate::support::{Process, event, refused};

fn key(store: &Path, arguments: &[&str]) -> Output {
    let store = format!("sqlite:{}", store.display());
    let mut command = Process::command(&["key"]);
    command.args(arguments).args(["--store", &store]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn made(store: &Path, arguments: &[&str]) -> String {
    let output = key(store, &[&["new", "--name", "test"], arguments].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made = text(&output.stdout);
    assert!(made.starts_with("agg_") && made.ends_with('\n') && made.lines().count() == 1, "{made}");
    assert!(!text(&output.stderr).contains(made.trim_end()), "the secret is on standard output alone");
    made.trim_end().to_owned()
}

async fn status(server: &Process, key: Option<&str>) -> u16 {
    let request = crate::support::client().post(format!("{}/publish", server.url)).json(&event("a.b", "1"));
    let request = match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn keys_are_made_before_a_server_runs_and_while_it_runs() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("a.db");
    let before = made(&store, &["--scope", "publish:a.*", "--expires-in", "30d"]);
    let server = Process::start(&store, &[]);
    let socket = directory.path().join("a.db-admin");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((status(&server, Some(&before)).await, status(&server, None).await), (202, 401));

    let meanwhile = made(&store, &["--scope", "publish:*", "--scope", "metrics"]);
    assert_eq!(status(&server, Some(&meanwhile)).await, 202);
    let slow =
        made(&store, &["--scope", "publish:*", "--events-per-second", "1", "--bytes-per-second", "1KiB"]);
    let listed = text(&key(&store, &["list", "--json"]).stdout);
    assert!(
        listed.contains("\"events_per_second\": 1") && listed.contains("\"bytes_per_second\": 1024"),
        "{listed}"
    );
    key(&store, &["revoke", &slow[4..16]]);
    let listed = text(&key(&store, &["list"]).stdout);
    assert!(listed.contains("publish:* metrics") && listed.lines().count() == 3, "{listed}");
    let id = &before[4..16];
    let revoked = text(&key(&store, &["revoke", id]).stdout);
    assert_eq!(revoked, format!("key {id} for test is revoked\n"));
    assert_eq!((status(&server, Some(&before)).await, status(&server, Some(&meanwhile)).await), (401, 202));
    server.signal("-TERM");
    server.wait();
    assert!(!socket.exists(), "it goes with its server");

    let audit = text(&key(&store, &["audit"]).stdout);
    let by: Vec<_> = audit.lines().skip(1).map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(by, [&["admin-socket"; 4][..], &["command"]].concat(), "{audit}");
    let json: serde_json::Value = serde_json::from_slice(&key(&store, &["list", "--json"]).stdout).unwrap();
    assert_eq!(json["count"], 1);
}

#[tokio::test]
async fn a_socket_that_a_killed_server_left_is_in_nobodys_way() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("a.db");
    let server = Process::start(&store, &[]);
    server.kill();
    assert!(directory.path().join("a.db-admin").exists());
    let made = made(&store, &["--scope", "publish:*"]);
    let server = Process::start(&store, &[]);
    assert_eq!(status(&server, Some(&made)).await, 202);
}

#[test]
fn what_cannot_be_done_is_said_with_the_way_out() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("a.db");
    for (arguments, says) in [
        (&["new", "--name", "x", "--scope", "read"][..], "--scope \"read\" names no topics"),
        (&["new", "--name", " ", "--scope", "metrics"], "--name must be 1 to 100 characters"),
        (&["new", "--name", "x", "--scope", "metrics", "--expires-in", "x"], "--expires-in \"x\" is no span"),
        (&["revoke", "0123456789ab"], "there is no key 0123456789ab"),
        (&["revoke", "../x"], "that is not the id of a key"),
    ] {
        for with_server in [false, true] {
            let _server = with_server.then(|| Process::start(&store, &[]));
            let output = key(&store, arguments);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(output.stdout.is_empty());
            // A server names fields, which are the options without their dashes.
            let says = if with_server {
                says.trim_start_matches("--").replace("scope ", "scopes ").replace("-in", "_in")
            } else {
                says.to_owned()
            };
            assert!(said.contains(&says), "{arguments:?}: {said}");
        }
    }
    let (code, said) = refused(&["key", "list", "--store", "memory:"]);
    assert!(code == 1 && said.contains("--admin-socket PATH"), "{said}");
    let _server = Process::start(&store, &["--admin-socket", "off"]);
    let said = text(&key(&store, &["list"]).stderr);
    assert!(said.contains("no server answers at its admin socket") && said.contains("a.db-admin"), "{said}");
}

#[tokio::test]
async fn beyond_this_machine_nobody_gets_in_without_a_key_unless_the_operator_says_so() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("a.db");
    let serve = |options: &[&str]| {
        let location = format!("sqlite:{}", store.display());
        let mut command = Process::command(&["--listen", "0.0.0.0:0", "--store", &location]);
        command.args(options).stderr(Stdio::piped());
        let mut server = Process::spawn(command);
        server.url = server.url.replace("0.0.0.0", "127.0.0.1");
        server
    };
    let server = serve(&[]);
    let request = crate::support::client().get(format!("{}/events", server.url)).send().await.unwrap();
    assert_eq!(request.status(), 401);
    let told = request.text().await.unwrap();
    assert!(told.contains("aggregator-server key new") && told.contains("--allow-anonymous"), "{told}");
    let ready = crate::support::client().get(format!("{}/readyz", server.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    let log = server.stop_and_read_stderr();
    assert!(log.contains("there is no key yet"), "{log}");

    let server = serve(&["--allow-anonymous"]);
    assert_eq!(status(&server, None).await, 202);
    // A key closes the door, also with the option.
    let made = made(&store, &["--scope", "publish:*"]);
    assert_eq!((status(&server, None).await, status(&server, Some(&made)).await), (401, 202));
    key(&store, &["revoke", &made[4..16]]);
    assert_eq!(status(&server, None).await, 401);
    server.kill();
    let server = serve(&["--allow-anonymous"]);
    assert_eq!(status(&server, None).await, 401);
}
