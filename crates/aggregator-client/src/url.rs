//! Where a server is.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use thiserror::Error;

/// Where the aggregator is: HTTP, plain or over TLS, a host, and a path if it lives behind one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ServerUrlError {
    /// It is not a URL.
    #[error("must be a URL, such as http://127.0.0.1:8080")]
    NotAUrl,
    /// It has only a host and a port.
    #[error("must begin with http://: did you mean http://{0}?")]
    NoScheme(String),
    /// It asks for some other protocol.
    #[error("must begin with http:// or https://")]
    OtherScheme,
    /// It has parts that would be dropped in silence, or printed where they should not be.
    #[error("must have no user, password, ?query or #fragment")]
    ExtraParts,
}

impl ServerUrl {
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The address of a resource of the server.
    pub(crate) fn endpoint(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(s: &str) -> Result<Self, ServerUrlError> {
        // `localhost:8080` is a URL, too: its scheme is `localhost`.
        if !s.contains("://") && !s.contains('@') && Url::parse(&format!("http://{s}")).is_ok() {
            return Err(ServerUrlError::NoScheme(s.to_owned()));
        }
        let url = Url::parse(s).map_err(|_| ServerUrlError::NotAUrl)?;
        match url.scheme() {
            "http" | "https" => {}
            _ => return Err(ServerUrlError::OtherScheme),
        }
        let user = !url.username().is_empty() || url.password().is_some();
        if user || url.query().is_some() || url.fragment().is_some() {
            return Err(ServerUrlError::ExtraParts);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_the_path_of_the_server() {
        let url: ServerUrl = "http://example.org:81/agg/".parse().unwrap();
        assert_eq!(url.endpoint("/publish").as_str(), "http://example.org:81/agg/publish");
        let url: ServerUrl = "http://127.0.0.1:8080".parse().unwrap();
        assert_eq!(url.endpoint("/publish").as_str(), "http://127.0.0.1:8080/publish");
        assert_eq!(url.to_string(), "http://127.0.0.1:8080");
    }
}
