//! The program with TLS: how it starts, and what it refuses to start with.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

use super::client;
use super::pki::Authority;
use crate::support::Process;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn healthcheck(options: &[&str]) -> (i32, String) {
    let mut command = Process::command(&["healthcheck"]);
    command.args(options);
    Process::run(command)
}

#[tokio::test]
async fn the_first_line_says_https_and_the_health_check_asks_over_tls() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.server().write(directory.path());
    let store = directory.path().join("a.db");
    let server = Process::start(&store, &["--tls-cert", text(&files.cert), "--tls-key", text(&files.key)]);
    assert!(server.first_line.starts_with("listening on https://127.0.0.1:"), "{}", server.first_line);
    let answer = client(&authority, &["h2"]).get(format!("{}/readyz", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let address = server.url.strip_prefix("https://").unwrap().to_owned();
    let ask = ["--listen", &address, "--tls-cert", text(&files.cert)];
    assert_eq!(healthcheck(&ask), (0, String::new()));
    // The certificate is not looked at: a file that was replaced, and is not taken yet, says nothing about the server.
    Authority::new("b").server().write(directory.path());
    assert_eq!(healthcheck(&ask), (0, String::new()));
    let (code, message) = healthcheck(&ask[..2]);
    assert!(code == 1 && message.contains("not ready: 400 Bad Request"), "{message}");
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let (code, message) = healthcheck(&ask);
    assert!(code == 1 && message.contains("not ready: no answer"), "{message}");
}

#[test]
fn a_server_that_asks_for_certificates_is_asked_for_its_health_over_the_admin_socket() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.server().write(directory.path());
    let ca = authority.write(directory.path(), "ca.pem");
    let store = directory.path().join("a.db");
    let tls = ["--tls-cert", text(&files.cert), "--tls-client-ca", text(&ca)];
    let server = Process::start(&store, &[&tls[..], &["--tls-key", text(&files.key)]].concat());
    let store = format!("sqlite:{}", store.display());
    assert_eq!(healthcheck(&[&tls[..], &["--store", &store]].concat()), (0, String::new()));
    let (code, message) = healthcheck(&[&tls[..], &["--store", "memory:"]].concat());
    assert!(code == 1 && message.contains("--admin-socket"), "{message}");
    server.kill();
    let (code, message) = healthcheck(&[&tls[..], &["--store", &store]].concat());
    assert!(code == 1 && message.contains("not ready: no answer from"), "{message}");
}

/// What a server says that does not start, with its exit code.
fn refused(directory: &Path, options: &[&str]) -> (i32, String) {
    let store = directory.join("deep/a.db");
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store"]);
    command.arg(format!("sqlite:{}", store.display())).args(options);
    let refused = Process::run(command);
    assert!(!store.exists(), "no store is left behind");
    refused
}

#[test]
fn files_that_cannot_be_right_are_named_with_what_is_wrong() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let pair = authority.server();
    let files = pair.write(directory.path());
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cut = &pair.cert[..pair.cert.len() / 2];
    let cases = [
        ("--tls-cert", directory.path().join("nowhere.pem"), "No such file"),
        ("--tls-cert", file("empty.pem", " \n"), "the file is empty"),
        ("--tls-cert", file("text.pem", "hello"), "there is no certificate in it"),
        ("--tls-cert", files.key.clone(), "there is a private key in it, and no certificate"),
        ("--tls-cert", file("cut.pem", cut), "it is cut off"),
        ("--tls-cert", file("none.pem", no_certificate), "no X.509 certificate"),
        ("--tls-key", directory.path().join("nowhere.pem"), "No such file"),
        ("--tls-key", files.cert.clone(), "there is a certificate in it, and no private key"),
        ("--tls-key", file("encrypted.pem", encrypted), "the key is encrypted"),
        ("--tls-key", file("other.pem", &authority.server().key), "is not the key of --tls-cert"),
        ("--tls-client-ca", file("empty-ca.pem", ""), "the file is empty"),
        ("--tls-client-ca", files.key.clone(), "there is a private key in it, and no certificate"),
    ];
    for (option, path, reason) in cases {
        let (cert, key) = match option {
            "--tls-cert" => (&path, &files.key),
            "--tls-key" => (&files.cert, &path),
            _ => (&files.cert, &files.key),
        };
        let mut options = vec!["--tls-cert", text(cert), "--tls-key", text(key)];
        if option == "--tls-client-ca" {
            options.extend([option, text(&path)]);
        }
        let (code, message) = refused(directory.path(), &options);
        assert_eq!((code, message.lines().count()), (1, 1), "{message}");
        assert!(message.contains(&format!("{option} {}", path.display())), "{message}");
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn options_that_lack_another_one_are_refused_as_wrong_usage() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.server().write(directory.path());
    let (cert, key) = (text(&files.cert), text(&files.key));
    for (options, named) in [
        (vec!["--tls-cert", cert], "--tls-key"),
        (vec!["--tls-key", key], "--tls-cert"),
        (vec!["--tls-client-ca", cert], "--tls-cert"),
        (vec!["--tls-cert", cert, "--tls-key", key, "--tls-client-san", "a.example.org"], "--tls-client-ca"),
        (vec!["--tls-client-san", "*.example.org"], "patterns are not supported"),
    ] {
        let (code, message) = refused(directory.path(), &options);
        assert!(code == 2 && message.contains(options[options.len() - 2]), "{message}");
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_served_with_a_warning() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.expired().write(directory.path());
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:"]);
    command.args(["--tls-cert", text(&files.cert), "--tls-key", text(&files.key)]).stderr(Stdio::piped());
    let server = Process::spawn(command);
    let refusal = client(&authority, &[]).get(format!("{}/readyz", server.url)).send().await.unwrap_err();
    assert!(format!("{refusal:?}").contains("Expired"), "{refusal:?}");
    let address = server.url.strip_prefix("https://").unwrap();
    let asked = healthcheck(&["--listen", address, "--tls-cert", text(&files.cert)]);
    assert_eq!(asked, (0, String::new()), "it serves whoever does not mind");
    let log = server.stop_and_read_stderr();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert!(
        matches!(warnings[..], [line] if line.contains("2020-01-01") && line.contains(text(&files.cert))),
        "{log}"
    );
}
