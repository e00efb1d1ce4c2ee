//! Encrypted connections, and which servers they trust.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use aggregator_core::DedupStore;
use aggregator_postgres::PostgresStore;
use aggregator_postgres::test_server::TestServer;
use tempfile::TempDir;

use crate::support::{append, assert_complete, events, open, options};

/// A self-signed certificate for `localhost`, and its key.
fn certificate(directory: &Path, name: &str) -> Option<(String, String)> {
    let path = |end: &str| directory.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
    let (certificate, key) = (path("crt"), path("key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-days", "9"]);
    let output = openssl.args(["-keyout", &key, "-out", &certificate]).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    own_by_server(&key);
    Some((certificate, key))
}

/// A self-signed certificate of X.509 version 1, as the extension Citus makes one for a server, and its key.
fn certificate_of_version_1(directory: &Path) -> Option<(String, String)> {
    let path = |end: &str| directory.join(end).to_str().unwrap().to_owned();
    let (certificate, key, config) = (path("v1.crt"), path("v1.key"), path("v1.cnf"));
    // Without a section of extensions.
    std::fs::write(&config, "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = localhost\n")
        .unwrap();
    let mut made = false;
    // Newer ones have to be told.
    for version in [&["-x509v1"][..], &[]] {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(version).args(["-config", &config, "-keyout", &key, "-out", &certificate, "-days", "9"]);
        made = openssl.output().ok()?.status.success();
        if made {
            break;
        }
    }
    assert!(made, "openssl makes no certificate");
    let shown =
        Command::new("openssl").args(["x509", "-in", &certificate, "-noout", "-text"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("Version: 1 (0x0)"), "{shown}");
    own_by_server(&key);
    Some((certificate, key))
}

/// Lets the server read its key. As root, the tests run it as `nobody`.
fn own_by_server(key: &str) {
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        chown(key, Some(65_534), Some(65_534)).unwrap();
    }
}

#[test]
fn a_certificate_that_cannot_be_read_matters_only_to_those_who_verify_it() {
    let directory = TempDir::new().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some((certificate, key)) = certificate_of_version_1(directory.path()) else {
        test_skip::skip("no openssl is installed", "AGGREGATOR_REQUIRE_OPENSSL");
        return;
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (certificate_file, key_file) =
        (format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}"));
    let port_setting = format!("port={port}");
    let settings = ["listen_addresses=127.0.0.1", &port_setting, "ssl=on", &certificate_file, &key_file];
    let Some(server) = TestServer::start(&settings) else { return };
    let options = options();
    let url = |rest: &str| format!("postgres://aggregator@127.0.0.1:{port}/postgres?{rest}");
    for rest in ["", "sslmode=prefer", "sslmode=require"] {
        let store = open(&url(rest), &options);
        store.stats().unwrap();
        let encrypted =
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name";
        assert_eq!(server.sql(&format!("{encrypted} = '{}'", options.schema)), "t", "{rest}");
    }
    for rest in ["sslmode=verify-ca", "sslmode=require"] {
        let url = url(&format!("{rest}&sslrootcert={certificate}"));
        let refused = PostgresStore::open_with(&url.parse().unwrap(), options.clone()).err();
        let error = refused.unwrap_or_else(|| panic!("{url} was trusted"));
        assert!(error.to_string().contains("certificate"), "{url}: {error}");
    }
}

#[test]
fn a_server_is_trusted_as_sslmode_says() {
    let directory = TempDir::new().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some((own, key)) = certificate(directory.path(), "own") else {
        test_skip::skip("no openssl is installed", "AGGREGATOR_REQUIRE_OPENSSL");
        return;
    };
    let (other, _) = certificate(directory.path(), "other").unwrap();
    // The port was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (certificate, key) = (format!("ssl_cert_file={own}"), format!("ssl_key_file={key}"));
    let port_setting = format!("port={port}");
    let settings = ["listen_addresses=127.0.0.1", &port_setting, "ssl=on", &certificate, &key];
    let Some(server) = TestServer::start(&settings) else { return };

    let options = options();
    let url = |host: &str, rest: &str| format!("postgres://aggregator@{host}:{port}/postgres?{rest}");
    for (url, encrypted) in [
        (url("localhost", "sslmode=disable"), "f"),
        (url("localhost", ""), "t"),
        (url("127.0.0.1", "sslmode=require"), "t"),
        (url("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={own}")), "t"),
        (url("localhost", &format!("sslmode=verify-full&sslrootcert={own}")), "t"),
    ] {
        let store = open(&url, &options);
        store.stats().unwrap();
        let shown = server.sql(&format!(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = '{}'",
            options.schema
        ));
        assert_eq!(shown, encrypted, "{url}");
        drop(store);
        crate::support::await_that("its sessions are gone", || {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name";
            server.sql(&format!("{left} = '{}'", options.schema)) == "0"
        });
    }
    for url in [
        url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={own}")),
        url("localhost", &format!("sslmode=verify-full&sslrootcert={other}")),
        url("localhost", &format!("sslmode=verify-ca&sslrootcert={other}")),
        url("localhost", &format!("sslmode=require&sslrootcert={other}")),
        url("localhost", "sslmode=verify-full"),
    ] {
        let refused = PostgresStore::open_with(&url.parse().unwrap(), options.clone()).err();
        let error = refused.unwrap_or_else(|| panic!("{url} was trusted"));
        assert!(error.to_string().contains("certificate"), "{url}: {error}");
    }
    let store = open(&url("localhost", &format!("sslmode=verify-full&sslrootcert={own}")), &options);
    append(&store, &events("t", 0..3));
    assert_complete(&store, 3);
}
