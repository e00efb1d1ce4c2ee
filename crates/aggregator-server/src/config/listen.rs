//! Where to listen: an address or a host name, and taking its port.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use tokio::net::TcpSocket;

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
    /// The addresses that are meant, in the order in which the resolver prefers them.
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

/// Takes the port at the first of these addresses that this machine has. Nobody can connect before `listen` is called
/// on it, and nobody else can listen there.
///
/// # Errors
/// When the port is taken, and when this machine has none of the addresses.
pub fn bind(addresses: &[SocketAddr]) -> io::Result<TcpSocket> {
    let mut failure = io::Error::new(ErrorKind::AddrNotAvailable, "the host name has no address");
    for &address in addresses {
        match socket(address).map(|socket| (socket.bind(address), socket)) {
            Ok((Ok(()), socket)) => return Ok(socket),
            // Another address of the name would be free, but who asks for the name finds whoever listens here.
            Ok((Err(error), _)) if error.kind() != ErrorKind::AddrNotAvailable => return Err(error),
            // This machine does not have it, IPv6 for example.
            Ok((Err(error), _)) | Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of an earlier process that are not quite over do not hold the port.
    socket.set_reuseaddr(true)?;
    Ok(socket)
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

    #[test]
    fn an_address_that_this_machine_lacks_is_passed_over_and_a_port_that_is_taken_is_not() {
        // An address kept for documentation (RFC 5737).
        let elsewhere = "192.0.2.1:0".parse().unwrap();
        let here = "127.0.0.1:0".parse().unwrap();
        assert_eq!(bind(&[elsewhere, here]).unwrap().local_addr().unwrap().ip(), here.ip());
        assert_eq!(bind(&[elsewhere]).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
        let taken = std::net::TcpListener::bind(here).unwrap();
        assert_eq!(bind(&[taken.local_addr().unwrap(), here]).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
}
