//! TLS, and keys.

#[path = "../../../aggregator-server/tests/shared/pki.rs"]
mod pki;

use std::sync::Arc;

use aggregator_client::{Builder, Error, Outcome, Query, StatusCode, TailItem};
use aggregator_core::MemoryStore;
use aggregator_server::Config;
use rcgen::SanType;
use tempfile::TempDir;

use self::pki::Authority;
use crate::peer::{Act, Peer};
use crate::server::Aggregator;
use crate::{builder, events};

/// A client that gives up at once.
fn once(builder: Builder) -> Builder {
    builder.backoff(aggregator_client::Backoff::once(std::time::Duration::from_secs(10)).unwrap())
}

async fn aggregator(config: Config) -> (Aggregator, String) {
    let aggregator = Aggregator::start(Arc::new(MemoryStore::default()), config).await;
    let url = format!("https://{}", aggregator.address);
    (aggregator, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_over_tls_with_a_server_that_is_trusted() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.server().write(directory.path());
    let config = Config { tls_cert: Some(files.cert), tls_key: Some(files.key), ..Config::default() };
    let (aggregator, url) = aggregator(config).await;
    let client = builder(url.clone()).ca_certificates(authority.pem()).build().unwrap();
    let published = client.publish(&events("t", 100)).await.unwrap();
    assert_eq!(published.count(Outcome::Stored), 100);
    let page = client.events(Query::new().topic("t").limit(100)).next().await.unwrap().unwrap();
    assert_eq!(page.events.len(), 100);
    let mut tail = client.tail(Query::new().topic("t"));
    assert!(matches!(tail.next().await.unwrap(), TailItem::Events(_)), "over the stream");
    drop(tail);

    for stranger in [builder(url.clone()), builder(url).ca_certificates(Authority::new("a").pem())] {
        let error = once(stranger).build().unwrap().publish(&events("t", 1)).await.unwrap_err();
        let told = error.to_string();
        assert!(told.contains("no connection") && told.contains("invalid peer certificate"), "{told}");
    }
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_has_expired_is_not_trusted() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.expired().write(directory.path());
    let config = Config { tls_cert: Some(files.cert), tls_key: Some(files.key), ..Config::default() };
    let (aggregator, url) = aggregator(config).await;
    let client = once(builder(url).ca_certificates(authority.pem())).build().unwrap();
    let error = client.publish(&events("t", 1)).await.unwrap_err().to_string();
    assert!(error.contains("certificate expired"), "{error}");
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_presents_its_certificate_to_a_server_that_asks_for_one() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let files = authority.server().write(directory.path());
    let config = Config {
        tls_cert: Some(files.cert),
        tls_key: Some(files.key),
        tls_client_ca: Some(authority.write(directory.path(), "ca.pem")),
        tls_client_san: vec!["publisher.example.org".parse().unwrap()],
        ..Config::default()
    };
    let (aggregator, url) = aggregator(config).await;
    let trusting = || builder(url.clone()).ca_certificates(authority.pem());
    let named = |name: &str| authority.client(vec![SanType::DnsName(name.try_into().unwrap())]);
    let (right, wrong) = (named("publisher.example.org"), named("reader.example.org"));
    let client = trusting().client_certificate(right.cert.clone(), right.key.clone()).build().unwrap();
    client.publish(&events("t", 1)).await.unwrap();
    let stranger = trusting().client_certificate(wrong.cert, wrong.key.clone());
    assert!(once(stranger).build().unwrap().publish(&events("t", 1)).await.is_err());
    // When the server ends the connection is chance, and what the HTTP library says of it, too.
    for _ in 0..20 {
        let refused = once(trusting()).build().unwrap().publish(&events("t", 1)).await.unwrap_err();
        let told = refused.to_string();
        assert!(
            told.ends_with("; the server has asked for a client certificate, and this client has none"),
            "{told}"
        );
    }
    let mixed = trusting().client_certificate(right.cert, wrong.key).build().unwrap_err();
    let said = "the client's certificate cannot be used: the key is another certificate's";
    assert_eq!(mixed.to_string(), said);
    aggregator.stop().await;
}

#[tokio::test]
async fn a_key_is_sent_with_every_request_and_its_refusal_is_final() {
    for (status, text) in [(401, "401 Unauthorized"), (403, "403 Forbidden")] {
        // `retryable` of somebody on the way is no reason to knock again.
        let body = r#"{"title":"No","detail":"no","retryable":true}"#;
        let peer = Peer::alone(move |_| Act::answer(text, "retry-after: 0\r\n", body)).await;
        let client = builder(peer.url()).key("s3cret").build().unwrap();
        let errors = [
            client.publish(&events("t", 1)).await.unwrap_err(),
            client.events(Query::new()).next().await.unwrap_err(),
            client.tail(Query::new()).next().await.unwrap_err(),
            client.stats().await.unwrap_err(),
        ];
        for error in errors {
            let expected = StatusCode::from_u16(status).unwrap();
            assert!(matches!(error, Error::Refused { status, .. } if status == expected), "{error}");
            assert!(!format!("{error} {error:?} {client:?}").contains("s3cret"));
        }
        let requests = peer.requests();
        assert_eq!(requests.len(), 4, "none was tried again");
        for request in requests {
            let head = String::from_utf8_lossy(request.bytes()).to_lowercase();
            assert!(head.contains("\r\nauthorization: bearer s3cret\r\n"), "{head}");
        }
    }
}
