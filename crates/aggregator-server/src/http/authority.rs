//! The host and the port that a request is for.

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Uri};

/// As the target of the request names it, which decides (RFC 9112, section 3.2.2; RFC 9113, section 8.3.1), or else as its
/// `Host` header does. HTTP/1.0 need not say.
pub(crate) fn of<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let header = || headers.get(HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(Authority::as_str).or_else(header)
}

/// The host, and the port, which may be empty. The address of IPv6 keeps its brackets.
pub(crate) fn split(authority: &str) -> (&str, &str) {
    match authority.rfind([':', ']']) {
        Some(at) if authority.as_bytes()[at] == b':' => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    }
}
