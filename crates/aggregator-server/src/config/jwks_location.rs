//! Where the keys of an issuer of tokens are.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::Uri;

/// Where a JSON Web Key Set (RFC 7517) is: in a file, or at an `https` URL. An `http` URL is taken for this machine alone:
/// whoever is on the way of plain HTTP could hand in keys of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksLocation(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Url(Uri),
}

impl JwksLocation {
    /// In this file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }

    /// The file, if it is in one.
    pub(crate) fn as_file(&self) -> Option<&Path> {
        if let Place::File(path) = &self.0 { Some(path) } else { None }
    }
}

impl FromStr for JwksLocation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be a file, or a URL like https://issuer.example.org/jwks.json";
        if text.trim().is_empty() {
            return Err(FORM);
        }
        let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !text.contains("://") && !matches!(scheme.as_deref(), Some("http" | "https")) {
            return Ok(Self::file(text));
        }
        let url: Uri = text.parse().map_err(|_| FORM)?;
        let authority = url.authority().ok_or(FORM)?;
        if authority.as_str().contains('@') {
            return Err("must have no user or password in its URL: every log would show them");
        }
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(authority.host()) => {}
            Some("http") => {
                return Err(
                    "is http to another machine, where whoever is on the way can hand in keys of its own: use https",
                );
            }
            _ => return Err(FORM),
        }
        Ok(Self(Place::Url(url)))
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for JwksLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => path.display().fmt(f),
            Place::Url(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_keys_is_in_a_file_or_comes_over_a_way_that_nobody_can_change() {
        for file in ["keys.json", "/etc/keys.json", "./a:b", "c:\\keys"] {
            assert_eq!(file.parse(), Ok(JwksLocation::file(file)));
        }
        for url in [
            "https://a.example/jwks",
            "HTTPS://a.example",
            "http://localhost:1/x?y=z",
            "http://127.0.0.9",
            "http://[::1]:8/",
        ] {
            let location: JwksLocation = url.parse().unwrap();
            assert!(location.as_file().is_none(), "{url}");
        }
        for (wrong, says) in [
            ("", "must be a file"),
            (" ", "must be a file"),
            ("http://a.example/jwks", "use https"),
            ("http://localhost.a.example/", "use https"),
            ("http://128.0.0.1/", "use https"),
            ("http://0.0.0.0/", "use https"),
            ("https://me:secret@a.example/", "no user or password"),
            ("ftp://a.example/jwks", "must be a file"),
            ("file:///etc/keys.json", "must be a file"),
            ("https:/a.example", "must be a file"),
            ("https://", "must be a file"),
        ] {
            let refused = wrong.parse::<JwksLocation>().unwrap_err();
            assert!(refused.contains(says), "{wrong}: {refused}");
        }
    }
}
