//! Certificates of clients.

use std::sync::Arc;

use aggregator_server::Config;
use rcgen::SanType;
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pki::{Authority, Pair};
use super::{client_config, secure, start};
use crate::support::Server;

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn email(name: &str) -> SanType {
    SanType::Rfc822Name(name.try_into().unwrap())
}

/// The status of a request by a client that presents this certificate; `None` if there is no connection.
async fn status(server: &Server, authority: &Authority, presented: Option<&Pair>) -> Option<u16> {
    let mut statuses = Vec::new();
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let tls = client_config(authority, presented, alpn);
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        // The second one could resume the session of the first.
        for _ in 0..2 {
            let answer = client.get(format!("{}/readyz", server.url)).send().await;
            statuses.push(answer.ok().map(|answer| answer.status().as_u16()));
        }
    }
    statuses.dedup();
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    statuses[0]
}

#[tokio::test]
async fn with_a_ca_only_clients_with_a_certificate_of_it_get_in() {
    let (authority, other, directory) = (Authority::new("a"), Authority::new("b"), TempDir::new().unwrap());
    let clients = Authority::new("clients");
    let config = Config {
        tls_client_ca: Some(clients.write(directory.path(), "clients.pem")),
        ..secure(&authority, directory.path())
    };
    let server = start(super::client(&authority, &[]), config).await;
    let nameless = || vec![dns("whoever.example.org")];
    assert_eq!(status(&server, &authority, None).await, None);
    assert_eq!(status(&server, &authority, Some(&other.client(nameless()))).await, None);
    // The authority of the server's own certificate is none for clients.
    assert_eq!(status(&server, &authority, Some(&authority.client(nameless()))).await, None);
    assert_eq!(status(&server, &authority, Some(&clients.expired())).await, None);
    assert_eq!(status(&server, &authority, Some(&clients.client(nameless()))).await, Some(200));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn with_names_only_clients_with_exactly_one_of_them_get_in() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let clients = Authority::new("clients");
    let names = ["publisher.example.org", "spiffe://example.org/publisher", "publisher@example.org"];
    let config = Config {
        tls_client_ca: Some(clients.write(directory.path(), "clients.pem")),
        tls_client_san: names.map(|name| name.parse().unwrap()).to_vec(),
        ..secure(&authority, directory.path())
    };
    let server = start(super::client(&authority, &[]), config).await;
    let [dns_name, uri_name, email_name] = names;
    for right in [
        vec![dns(dns_name)],
        vec![uri(uri_name)],
        vec![email(email_name)],
        vec![dns("a.example.org"), dns(dns_name)],
    ] {
        assert_eq!(
            status(&server, &authority, Some(&clients.client(right.clone()))).await,
            Some(200),
            "{right:?}"
        );
    }
    for wrong in [
        // The common name of every client here is the right one.
        vec![],
        vec![dns("other.example.org")],
        vec![dns("*.example.org")],
        vec![dns("publisher.example.org.evil.com")],
        vec![dns("a.publisher.example.org")],
        vec![uri("spiffe://example.org/publisher/7")],
        vec![email("other@example.org")],
        // The right text as another kind of name.
        vec![uri(dns_name)],
        vec![dns(email_name)],
    ] {
        assert_eq!(
            status(&server, &authority, Some(&clients.client(wrong.clone()))).await,
            None,
            "{wrong:?}"
        );
    }
    let stranger = Authority::new("clients").client(vec![dns(dns_name)]);
    assert_eq!(status(&server, &authority, Some(&stranger)).await, None);
    server.stop().await.unwrap();
}

/// A session that is resumed is not verified again.
#[tokio::test]
async fn a_client_with_a_certificate_shakes_hands_in_full_each_time() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let presented = authority.client(vec![]);
    let anybody = secure(&authority, directory.path());
    let known =
        Config { tls_client_ca: Some(authority.write(directory.path(), "ca.pem")), ..anybody.clone() };
    for (config, again) in [(anybody, HandshakeKind::Resumed), (known, HandshakeKind::Full)] {
        let server = start(super::client(&authority, &[]), config).await;
        let tls = TlsConnector::from(Arc::new(client_config(&authority, Some(&presented), &[])));
        for expected in [HandshakeKind::Full, again] {
            let stream = TcpStream::connect(server.address()).await.unwrap();
            let mut stream = tls.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
        }
        server.stop().await.unwrap();
    }
}
