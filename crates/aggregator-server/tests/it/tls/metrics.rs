//! What the metrics tell of the certificate.

use std::fs;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::pki::Authority;
use super::{client, secure, start};
use crate::support::until;

const FAILURES: &str = "aggregator_tls_reload_failures_total";

#[tokio::test]
async fn the_end_of_the_certificate_is_told_and_files_that_cannot_be_used() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config = secure(&authority, directory.path());
    let cert = config.tls_cert.clone().unwrap();
    let server = start(client(&authority, &[]), config).await;
    let scrape = server.scrape().await;
    let expires = scrape.get("aggregator_tls_certificate_expires_timestamp_seconds");
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(expires);
    assert!(expires > SystemTime::now(), "{}", scrape.text);
    assert_eq!(scrape.get(FAILURES), 0.0);
    let good = fs::read(&cert).unwrap();
    fs::write(&cert, &good[..good.len() / 2]).unwrap();
    // It grows as long as the files stay so.
    until("a failure is counted twice", async || server.scrape().await.get(FAILURES) >= 2.0).await;
    server.stop().await.unwrap();
}
