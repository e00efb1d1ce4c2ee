//! Which server it is, for the report.

use std::time::Duration;

use aggregator_client::ServerUrl;
use serde::Deserialize;

/// How long it may take to answer. It is only shown.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read, and the longest text that is shown.
const MAX_ANSWER_BYTES: usize = 16 << 10;
const MAX_TEXT_CHARS: usize = 100;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// The kind of its store.
    pub store: String,
    /// What an acknowledgement of it means.
    pub durability: String,
}

impl ServerInfo {
    /// Asks the server; `None` if it does not say.
    pub async fn ask(http: &reqwest::Client, url: &ServerUrl) -> Option<Self> {
        tokio::time::timeout(TIMEOUT, Self::read(http, url)).await.ok()?
    }

    async fn read(http: &reqwest::Client, url: &ServerUrl) -> Option<Self> {
        let mut answer = http.get(format!("{url}/health")).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.ok()? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ANSWER_BYTES {
                return None;
            }
        }
        Self::parse(&body)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut info: Self = serde_json::from_slice(body).ok()?;
        for text in [&mut info.version, &mut info.store, &mut info.durability] {
            *text = text.chars().take(MAX_TEXT_CHARS).collect();
        }
        Some(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_say_is_not_known_and_a_long_text_is_cut() {
        assert_eq!(ServerInfo::parse(br#"{"title":"Not found"}"#), None);
        let long = "x".repeat(1_000);
        let body = format!(r#"{{"version":"0.1.0","store":"sqlite","durability":"{long}","uptime":1}}"#);
        let info = ServerInfo::parse(body.as_bytes()).unwrap();
        assert_eq!(
            (&*info.version, &*info.store, info.durability.len()),
            ("0.1.0", "sqlite", MAX_TEXT_CHARS)
        );
    }
}
