//! The simulator as a program against the server as a program: over TLS, with keys.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::SanType;
use tempfile::TempDir;

use super::pki::Authority;
use crate::publisher_sim;
use crate::support::Process;

const RUN: [&str; 6] = ["--events", "400", "--dup", "0.2", "--seed", "7"];

fn simulator(url: &str, options: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(publisher_sim::program());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PUBLISHER_") {
            command.env_remove(name);
        }
    }
    command.args(RUN).args(["--url", url]).args(options).envs(variables.iter().copied());
    command.stdin(Stdio::null()).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A new key of the store.
fn key(store: &str, scopes: &[&str]) -> String {
    let mut command = Process::command(&["key", "new", "--name", "test", "--store", store]);
    command.args(scopes.iter().flat_map(|scope| ["--scope", scope]));
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", told(&made));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn everything_is_proved_over_tls_with_a_ca_file_a_certificate_and_a_key() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.server().write(directory.path());
    let ca = authority.write(directory.path(), "ca.pem");
    let path = directory.path().join("a.db");
    let store = format!("sqlite:{}", path.display());
    let everything = key(&store, &["publish:*", "read:*", "metrics"]);
    let client = authority.client(vec![SanType::URI("spiffe://example.org/p".try_into().unwrap())]);
    fs::create_dir(directory.path().join("client")).unwrap();
    let client = client.write(&directory.path().join("client"));
    let server = Process::start(
        &path,
        &[
            "--tls-cert",
            text(&files.cert),
            "--tls-key",
            text(&files.key),
            "--tls-client-ca",
            text(&ca),
            "--tls-client-san",
            "spiffe://example.org/p",
        ],
    );
    let key_file = directory.path().join("key");
    fs::write(&key_file, format!("{everything}\n")).unwrap();
    let trust = ["--ca-file", text(&ca)];
    let certificate = ["--tls-cert", text(&client.cert), "--tls-key", text(&client.key)];
    let with_key_file = ["--key-file", text(&key_file)];

    for verify in [&["--verify"][..], &["--verify-by", "stream"]] {
        let options = [&trust[..], &certificate, &with_key_file, verify].concat();
        let proved = simulator(&server.url, &options, &[]);
        assert_eq!(proved.status.code(), Some(0), "{}", told(&proved));
        assert!(
            told(&proved).contains("verified") && !told(&proved).contains(&everything),
            "{}",
            told(&proved)
        );
    }
    let options = [&trust[..], &certificate].concat();
    let by_variable = simulator(&server.url, &options, &[("PUBLISHER_KEY", &everything)]);
    assert_eq!(by_variable.status.code(), Some(0), "{}", told(&by_variable));
    assert!(!told(&by_variable).contains("PUBLISHER_KEY"), "it is no stranger: {}", told(&by_variable));

    for (options, reason) in [
        ([&certificate[..], &with_key_file].concat(), "invalid peer certificate"),
        ([&trust[..], &with_key_file].concat(), "asked for a client certificate"),
    ] {
        let refused = simulator(&server.url, &options, &[]);
        assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
        assert!(told(&refused).contains(reason), "{}", told(&refused));
    }
    let plain = server.url.replace("https://", "http://");
    assert_eq!(simulator(&plain, &options, &[]).status.code(), Some(2));
}

#[test]
fn a_key_that_is_missing_or_does_not_allow_it_is_told_and_not_tried_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    let store = format!("sqlite:{}", path.display());
    let reader = key(&store, &["read:*"]);
    let server = Process::start(&path, &[]);
    for (variables, status) in
        [(&[][..], "401"), (&[("PUBLISHER_KEY", "nonsense")], "401"), (&[("PUBLISHER_KEY", &*reader)], "403")]
    {
        let began = std::time::Instant::now();
        let refused =
            simulator(&server.url, &["--retry-base-ms", "10000", "--retry-cap-ms", "10000"], variables);
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        assert!(told(&refused).contains(status), "{}", told(&refused));
        assert!(began.elapsed().as_secs() < 9, "nothing waited for another attempt");
        assert!(
            !told(&refused).contains(&reader) && !told(&refused).contains("nonsense"),
            "{}",
            told(&refused)
        );
    }
}

#[test]
fn files_of_keys_and_certificates_that_cannot_be_used_are_named() {
    let directory = TempDir::new().unwrap();
    let empty = directory.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let (empty, nowhere) = (text(&empty).to_owned(), text(&directory.path().join("nowhere")).to_owned());
    for (options, reason) in [
        (vec!["--key-file", &empty], "there is no key in it"),
        (vec!["--key-file", &nowhere], "No such file"),
        (vec!["--ca-file", &nowhere], "No such file"),
        (vec!["--ca-file", &empty], "there is no certificate"),
        (vec!["--tls-key", &nowhere, "--tls-cert", &empty], "No such file"),
        (vec!["--tls-cert", &nowhere], "--tls-key"),
    ] {
        let refused = simulator("https://127.0.0.1:1", &options, &[]);
        assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
        assert!(told(&refused).contains(reason), "{options:?}: {}", told(&refused));
    }
    let secret = simulator("http://127.0.0.1:1", &[], &[("PUBLISHER_KEY", "s3cret s3cret")]);
    assert_eq!(secret.status.code(), Some(2));
    assert!(
        told(&secret).contains("visible ASCII") && !told(&secret).contains("s3cret"),
        "{}",
        told(&secret)
    );
}
