//! Fetches a set of keys over HTTP.

use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use super::key_set::{KeySet, MAX_BYTES};

/// How long a fetch may take, from the first byte of its connection to the last one of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Fetcher {
    client: Client,
    url: String,
}

impl Fetcher {
    /// Trusts whom the system trusts.
    pub(super) fn new(url: &str) -> Result<Self, String> {
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
        // Plain HTTP is for this machine alone, so its name must not lead elsewhere.
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let loopback = loopback.map(|address| SocketAddr::new(address, 0));
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve_to_addrs("localhost", &loopback)
            // The operator has named where the keys are. Nobody else says that they are elsewhere.
            .redirect(Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .build();
        let client = client.map_err(|error| format!("cannot be fetched: {}", in_words(error)))?;
        Ok(Self { client, url: url.to_owned() })
    }

    /// # Errors
    /// Says what came instead of a set of keys.
    pub(super) async fn fetch(&self) -> Result<KeySet, String> {
        let request = self.client.get(&self.url).header("accept", "application/json");
        let mut response = request.send().await.map_err(in_words)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(format!("the answer {status} leads elsewhere: name the place itself"));
        }
        if status != StatusCode::OK {
            return Err(format!("the answer is {status}"));
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(in_words)? {
            if text.len() + chunk.len() > MAX_BYTES {
                return Err(format!("the answer has more than {} KiB", MAX_BYTES >> 10));
            }
            text.extend_from_slice(&chunk);
        }
        KeySet::parse(&text).map_err(|reason| format!("the answer {reason}"))
    }
}

/// The error with its causes, without the URL, which the log line has anyway.
fn in_words(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no whole answer within {} s", TIMEOUT.as_secs());
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
