//! Takes the port before anything else is opened.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// Takes the port at the first of these addresses that this machine has. Nobody can connect before `listen` is called on
/// the socket, and nobody else can listen there.
///
/// # Errors
/// When the port is taken, and when this machine has none of the addresses.
pub fn bind(addresses: &[SocketAddr]) -> io::Result<TcpSocket> {
    let mut failure = io::Error::new(ErrorKind::AddrNotAvailable, "the host name has no address");
    for &address in addresses {
        match socket(address).map(|socket| (socket.bind(address), socket)) {
            Ok((Ok(()), socket)) => return Ok(socket),
            // Another address of the name may be free, but a client that asks for the name finds the other server here.
            Ok((Err(error), _)) if error.kind() != ErrorKind::AddrNotAvailable => return Err(error),
            // This machine does not have the address, IPv6 for example.
            Ok((Err(error), _)) | Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without this, closing connections of an earlier process would hold the port.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

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
