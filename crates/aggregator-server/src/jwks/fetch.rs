//! Fetches a set of keys over HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Client, StatusCode};

use super::key_set::{KeySet, MAX_BYTES};
use crate::outbound;

/// How long a fetch may take, from the first byte of its connection to the last one of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Fetcher {
    client: Client,
    url: String,
}

impl Fetcher {
    pub(super) fn new(url: &str) -> Result<Self, String> {
        // Plain HTTP is for this machine alone, so its name must not lead elsewhere.
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let loopback = loopback.map(|address| SocketAddr::new(address, 0));
        let client = outbound::client(url)
            .resolve_to_addrs("localhost", &loopback)
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

fn in_words(error: reqwest::Error) -> String {
    outbound::in_words(error, TIMEOUT)
}
