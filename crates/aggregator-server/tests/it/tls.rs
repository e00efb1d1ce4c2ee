//! TLS: what the port speaks, to whom, and with which certificate.

mod clients;
mod http2;
mod metrics;
#[path = "../shared/pki.rs"]
pub(crate) mod pki;
mod reload;
mod simulator;
mod start;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::MemoryStore;
use aggregator_server::Config;
use reqwest::Version;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::pki::{Authority, Pair};
use crate::support::{Answer, Server, event, events, in_time};
use crate::tails::event_source::EventSource;

/// TLS for a client that trusts this authority and may present a certificate.
fn client_config(authority: &Authority, presented: Option<&Pair>, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match presented {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn client(authority: &Authority, alpn: &[&str]) -> reqwest::Client {
    let tls = client_config(authority, None, alpn);
    reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap()
}

/// The settings of a server with a good certificate in this directory.
fn secure(authority: &Authority, directory: &Path) -> Config {
    let files = authority.server().write(directory);
    Config { tls_cert: Some(files.cert), tls_key: Some(files.key), ..Config::default() }
}

async fn start(client: reqwest::Client, config: Config) -> Server {
    Server::start_for(client, Arc::new(MemoryStore::default()), config).await
}

#[tokio::test]
async fn one_port_serves_http_1_and_2() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let http1 = client(&authority, &["http/1.1"]);
    let without_alpn = client(&authority, &[]);
    let http2 = client(&authority, &["h2", "http/1.1"]);
    let server = start(http1.clone(), secure(&authority, directory.path())).await;
    let clients = [(http1, Version::HTTP_11), (without_alpn, Version::HTTP_11), (http2, Version::HTTP_2)];
    for (number, (client, version)) in clients.into_iter().enumerate() {
        let topic = format!("t{number}");
        let sent = client.post(format!("{}/publish", server.url)).json(&events(&topic, 0..500)).send().await;
        let sent = sent.unwrap();
        assert_eq!((sent.status().as_u16(), sent.version()), (202, version));
        let page = client.get(format!("{}/events?topic={topic}&limit=500", server.url)).send().await.unwrap();
        assert_eq!(page.version(), version);
        let page = Answer::of(page).await;
        assert_eq!(page.json["events"].as_array().unwrap().len(), 500);
        let wrong = client.get(format!("{}/events?nonsense=1", server.url)).send().await.unwrap();
        assert!(!wrong.headers().contains_key("connection"));
        Answer::of(wrong).await.problem(400, "bad-parameter");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_over_http_1_gives_its_place_up() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let http1 = client(&authority, &["http/1.1"]);
    let config =
        Config { max_connections: std::num::NonZeroUsize::MIN, ..secure(&authority, directory.path()) };
    let server = start(http1.clone(), config).await;
    let mut stream = EventSource::open_with(&http1, &format!("{}/events/stream", server.url)).await;
    stream.caught_up().await;
    assert_eq!(server.publish(&event("t", 1)).await.status, 202, "over a second connection");
    assert_eq!(stream.event_ids(1).await, ["1"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn plain_http_to_the_port_of_tls_is_told_so() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let server = start(client(&authority, &[]), secure(&authority, directory.path())).await;
    let answer = server.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("text/plain"), "{answer}");
    assert!(answer.contains("connection: close") && answer.contains("this port speaks TLS"), "{answer}");
    assert!(answer.contains("\r\nx-request-id: "), "{answer}");
    assert_eq!(server.raw(b"\0\x01\x02").await, "", "what is nothing that is known is closed");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config =
        Config { header_timeout: Duration::from_millis(200), ..secure(&authority, directory.path()) };
    let server = start(client(&authority, &[]), config).await;
    // Nothing, and the begin of a record that announces more.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = in_time("the server gives up", stream.read_to_end(&mut answer)).await;
    }
    assert_eq!(server.get("/livez").await.status, 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_handshake_under_way_does_not_hold_up_the_end() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config = Config { drain_timeout: Duration::from_secs(3_600), ..secure(&authority, directory.path()) };
    let server = start(client(&authority, &[]), config).await;
    let stream = TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(server.get("/livez").await.status, 200, "the other one was accepted before");
    in_time("the server ends", server.stop()).await.unwrap();
    drop(stream);
}
