//! Checks the `Host` of a request (RFC 9112, section 3.2), or what HTTP/2 has instead (RFC 9113, section 8.3.1).

use hyper::header::{HOST, HeaderValue};
use hyper::{HeaderMap, Uri, Version};

use crate::http::authority;
use crate::http::problem::Problem;

/// Refuses a request that does not name exactly one host. Any host will do: proxies and balancers know the server by other
/// names.
pub(super) fn check(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    // A client of HTTP/2 names the host as `:authority`, and needs no header then.
    if version == Version::HTTP_2
        && let Some(authority) = uri.authority()
    {
        return check_authority(authority.as_str(), headers);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return match version {
            Version::HTTP_09 | Version::HTTP_10 => Ok(()),
            _ => Err(Problem::bad_host("the request has no Host header, which HTTP/1.1 asks for")),
        };
    };
    if hosts.next().is_some() {
        return Err(Problem::bad_host("the request has several Host headers: send one"));
    }
    if host.to_str().is_ok_and(is_authority) {
        return Ok(());
    }
    Err(Problem::bad_host("the Host header is not a host, or a host and a port, like localhost:8080"))
}

fn check_authority(authority: &str, headers: &HeaderMap) -> Result<(), Problem> {
    if !is_authority(authority) {
        return Err(Problem::bad_host(":authority is not a host, or a host and a port, like localhost:8080"));
    }
    let other = |host: &HeaderValue| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
    if headers.get_all(HOST).iter().any(other) {
        return Err(Problem::bad_host(
            "the Host header and :authority name different hosts: send one of them",
        ));
    }
    Ok(())
}

/// `uri-host [ ":" port ]` of RFC 3986, sections 3.2.2 and 3.2.3. A host may be empty.
fn is_authority(text: &str) -> bool {
    let (host, port) = authority::split(text);
    let is_host = match host.as_bytes() {
        [b'[', address @ .., b']'] => {
            address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
                && address.contains(&b':')
        }
        name => is_name(name),
    };
    is_host && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// A registered name, or an IPv4 address, which has the same form.
fn is_name(mut text: &[u8]) -> bool {
    while let [byte, rest @ ..] = text {
        text = match (byte, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (byte, rest) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        };
    }
    true
}
