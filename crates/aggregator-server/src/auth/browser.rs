//! Pages of others in a browser on this machine.
//!
//! A browser lets any page send requests to `localhost`. Two checks keep such a page out where no key does:
//!
//! * **Host.** A page can give a name of its own the address 127.0.0.1 (DNS rebinding). Its requests then have that name as
//!   their host, and the browser lets it read the answers.
//! * **Origin.** A page can send requests without reading the answers. A browser says which page has sent them.
//!
//! A request with a key needs neither: no page of others has it.

use std::net::IpAddr;

use hyper::header::ORIGIN;
use hyper::http::request::Parts;

use crate::http::authority;
use crate::http::problem::Problem;

/// Refuses requests of foreign pages. `names` are hosts beside those of this machine.
pub(super) fn check(parts: &Parts, names: &[String]) -> Result<(), Problem> {
    let authority = authority::of(&parts.uri, &parts.headers).unwrap_or("localhost");
    let (host, _) = authority::split(authority);
    if !is_local(host) && !names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return Err(Problem::unexpected_host(format!(
            "the request is for the host {:?}, which is not this machine's: ask for localhost, use a key, or start the \
             server with --allow-host",
            host.chars().take(100).collect::<String>()
        )));
    }
    match parts.headers.get(ORIGIN) {
        Some(origin) if !is_of(origin.as_bytes(), authority) => Err(Problem::foreign_origin(
            "the request comes from a page of another origin: without a key, only pages of this host may send any",
        )),
        _ => Ok(()),
    }
}

fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether an origin (RFC 6454) is the host that was asked, by whatever scheme.
fn is_of(origin: &[u8], authority: &str) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    origin.split_once("://").is_some_and(|(_, asking)| asking.eq_ignore_ascii_case(authority))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn answer(uri: &str, host: Option<&str>, origin: Option<&str>) -> &'static str {
        let mut request = Request::builder().uri(uri);
        for (name, value) in [("host", host), ("origin", origin)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        match check(&parts, &["events.example".to_owned()]) {
            Ok(()) => "ok",
            Err(problem) if problem.detail().contains("host \"") => "host",
            Err(_) => "origin",
        }
    }

    #[test]
    fn only_hosts_of_this_machine_are_expected_unless_others_are_named() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:1",
            "[::1]",
            "[::ffff:127.0.0.1]:8080",
            "events.example",
            "Events.Example:80",
        ] {
            assert_eq!(answer("/events", Some(host), None), "ok", "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "evil-localhost",
            "128.0.0.1",
            "0.0.0.0:8080",
            "10.0.0.1",
            "[::2]",
            "",
            ":8080",
            "x.events.example",
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(answer("/events", Some(host), None), "host", "{host}");
        }
        assert_eq!(answer("/events", None, None), "ok", "HTTP/1.0");
        // As HTTP/2 and proxies say it, which decides.
        assert_eq!(answer("http://evil.example/events", Some("localhost"), None), "host");
        assert_eq!(answer("http://localhost:1/events", Some("evil.example"), None), "ok");
    }

    #[test]
    fn a_page_may_ask_its_own_host_only() {
        for (origin, wanted) in [
            ("http://localhost:8080", "ok"),
            ("https://LOCALHOST:8080", "ok"),
            ("http://localhost", "origin"),
            ("http://localhost:8081", "origin"),
            ("http://evil.example", "origin"),
            ("null", "origin"),
            ("", "origin"),
            ("localhost:8080", "origin"),
        ] {
            assert_eq!(answer("/publish", Some("localhost:8080"), Some(origin)), wanted, "{origin}");
        }
    }
}
