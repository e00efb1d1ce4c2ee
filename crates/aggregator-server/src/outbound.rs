//! How this server asks others over HTTP: an issuer of tokens for its keys, a collector to take spans.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

/// A client for this URL. It trusts whom the system trusts, and goes nowhere else than where the operator has said: no proxy, no
/// redirect.
pub(crate) fn client(url: &str) -> ClientBuilder {
    let mut roots = RootCertStore::empty();
    if url.starts_with("https") {
        // On most systems, rustls cannot parse some of the certificates: they are left out.
        let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder().tls_backend_preconfigured(tls).redirect(Policy::none()).no_proxy()
}

/// The error with its causes, without the URL, which the log line has anyway.
pub(crate) fn in_words(error: reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no whole answer within {}", humantime::format_duration(timeout));
    }
    let error = error.without_url();
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
