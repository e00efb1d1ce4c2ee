//! Where to listen: an address or a host name, and a port.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

/// Where to listen. A host name is looked up each time it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:8080`, `[::1]:8080`
    Ip(SocketAddr),
    /// `localhost:8080`
    Name {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
    },
}

impl ListenAddress {
    /// The addresses, in the resolver's order of preference.
    ///
    /// # Errors
    /// When a host name has none.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Ip(address) => Ok(vec![*address]),
            Self::Name { host, port } => Ok((host.as_str(), *port).to_socket_addrs()?.collect()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let named = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match named {
            Some((host, port)) if !host.is_empty() && !host.contains([':', '/', '[', ']', '@']) => {
                Ok(Self::Name { host: host.to_owned(), port })
            }
            _ => {
                Err("must be a host and a port, such as 127.0.0.1:8080, [::1]:8080 or localhost:8080".into())
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_host_names_are_read_and_shown() {
        for text in ["127.0.0.1:8080", "[::1]:0", "localhost:8080", "a-b.example.org:1"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ":80",
            "localhost",
            "localhost:",
            "localhost:65536",
            "::1:80",
            "http://a:80",
            "[::1]",
            "a@b:80",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text:?}");
        }
    }
}
