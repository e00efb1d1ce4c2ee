//! Where a collector of spans is.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// Where spans go: the URL of a collector that takes OTLP over HTTP. Unless it ends so, `/v1/traces` is added to its path, as
/// every OTLP exporter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

/// Where traces go below the address of a collector.
const PATH: &str = "/v1/traces";

impl OtlpEndpoint {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether its port is that of OTLP over gRPC, which this server does not speak.
    pub fn is_for_grpc(&self) -> bool {
        self.0.parse::<Uri>().is_ok_and(|url| url.port_u16() == Some(4317))
    }
}

impl FromStr for OtlpEndpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be the URL of a collector, such as http://localhost:4318";
        let url: Uri = text.parse().map_err(|_| FORM)?;
        let authority = url.authority().ok_or(FORM)?;
        if authority.as_str().contains('@') {
            return Err("must have no user or password in its URL: every log would show them");
        }
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        if !is_http || authority.host().is_empty() || url.query().is_some() || text.contains('#') {
            return Err(FORM);
        }
        let url = url.to_string();
        let base = url.trim_end_matches('/');
        Ok(Self(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") }))
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_to_the_path_for_traces() {
        for (text, url) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
            ("https://[::1]/otlp", "https://[::1]/otlp/v1/traces"),
            ("http://c.example/v1/traces", "http://c.example/v1/traces"),
            ("http://c.example/v1/traces/", "http://c.example/v1/traces"),
        ] {
            assert_eq!(text.parse::<OtlpEndpoint>().unwrap().to_string(), url, "{text}");
        }
        assert!("http://c:4317".parse::<OtlpEndpoint>().unwrap().is_for_grpc());
        assert!(!"http://c:4318".parse::<OtlpEndpoint>().unwrap().is_for_grpc());
    }

    #[test]
    fn what_is_no_url_of_a_collector_is_refused() {
        for (wrong, says) in [
            ("", "must be the URL"),
            ("7", "must be the URL"),
            ("localhost:4318", "must be the URL"),
            ("/v1/traces", "must be the URL"),
            ("grpc://c.example:4317", "must be the URL"),
            ("http://", "must be the URL"),
            ("http://c.example?a=b", "must be the URL"),
            ("http://c.example/#a", "must be the URL"),
            ("http://me:secret@c.example", "no user or password"),
        ] {
            let refused = wrong.parse::<OtlpEndpoint>().unwrap_err();
            assert!(refused.contains(says), "{wrong}: {refused}");
        }
    }
}
