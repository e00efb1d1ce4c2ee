//! `healthcheck`: asks a running server whether it is ready, for containers without an HTTP client.
//!
//! A server with TLS is asked over TLS, and its certificate is not verified: the server is asked at an address of this
//! machine, where no certificate needs to be good for, and it is told nothing. One that asks clients for certificates is
//! asked over its admin socket.

mod any_server;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use serde::Deserialize;

use crate::config::{Config, ListenAddress};

/// How long connecting may take, and how long the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longer than any answer of `/readyz`.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why a server is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Nothing answers there.
    #[error(
        "not ready: no answer from {at} ({source}): start the server, or name the address it listens on with --listen"
    )]
    NoAnswer {
        /// Where it was looked for.
        at: String,
        /// What happened instead.
        source: io::Error,
    },
    /// A server says so.
    #[error("not ready: {0}")]
    Refused(String),
    /// There is no way to ask.
    #[error(
        "not ready: a server with --tls-client-ca is asked over its admin socket, and there is none: give --admin-socket, \
         or the --store that it is beside"
    )]
    NoWay,
}

/// `GET /readyz` at the address that a server listens on; one that listens everywhere is asked on loopback.
///
/// # Errors
/// When it cannot be reached or does not answer 200.
pub fn ask(config: &Config) -> Result<(), NotReady> {
    if config.tls_client_ca.is_some() {
        let path = config.admin_socket.path(&config.store).ok_or(NotReady::NoWay)?;
        return judge(&path.display().to_string(), ask_operator(&path));
    }
    let asked = connect(&config.listen).and_then(|stream| match config.tls_cert {
        Some(_) => exchange(StreamOwned::new(any_server::client()?, stream)),
        None => exchange(stream),
    });
    judge(&config.listen.to_string(), asked)
}

fn judge(at: &str, answer: io::Result<Vec<u8>>) -> Result<(), NotReady> {
    let answer =
        answer.map_err(|source| NotReady::NoAnswer { at: at.to_owned(), source: in_words(source) })?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    match status.strip_prefix("HTTP/1.1 ") {
        Some(status) if status.starts_with("200") => Ok(()),
        Some(status) => Err(NotReady::Refused(with_reason(status, body))),
        None => Err(NotReady::Refused(format!("what answers at {at} is no aggregator"))),
    }
}

/// Connects to the first address that accepts.
fn connect(listen: &ListenAddress) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::AddrNotAvailable, "the host name has no address");
    for address in listen.resolve()? {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        match TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn ask_operator(path: &Path) -> io::Result<Vec<u8>> {
    exchange(UnixStream::connect(path)?)
}

/// A connection with a time limit for each read and write.
trait Timed: Read + Write {
    fn limit(&self, left: Duration) -> io::Result<()>;
}

impl Timed for TcpStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(left))?;
        self.set_read_timeout(Some(left))
    }
}

impl Timed for UnixStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(left))?;
        self.set_read_timeout(Some(left))
    }
}

impl Timed for StreamOwned<ClientConnection, TcpStream> {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.sock.limit(left)
    }
}

fn exchange(mut stream: impl Timed) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    stream.limit(PATIENCE)?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() < MAX_ANSWER_BYTES {
        let left = until.saturating_duration_since(Instant::now());
        // Zero would be no limit.
        stream.limit(left.max(Duration::from_millis(1)))?;
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(answer)
}

/// Replaces "Resource temporarily unavailable", the system's words for a time limit that has passed.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, format!("nothing within {} s", PATIENCE.as_secs()))
        }
        _ => error,
    }
}

/// The status, and the detail of the problem (RFC 9457).
fn with_reason(status: &str, body: &str) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    match serde_json::from_str(body) {
        Ok(Problem { detail }) if !detail.is_empty() => format!("{status}: {detail}"),
        _ => status.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The message for a server that sends this answer and closes, or sends nothing and keeps the connection open.
    fn said_of(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = ListenAddress::Ip(listener.local_addr().unwrap());
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).unwrap();
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => while stream.read(&mut request).unwrap() > 0 {},
            }
        });
        let config = Config { listen: listen.clone(), ..Config::default() };
        let said = ask(&config).map_or_else(|error| error.to_string(), |()| "ready".to_owned());
        peer.join().unwrap();
        said.replace(&listen.to_string(), "HERE")
    }

    #[test]
    fn every_answer_is_told_with_its_reason() {
        for (answer, said) in [
            ("HTTP/1.1 200 OK\r\n\r\n{}", "ready"),
            (
                "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{\"title\":\"Failed\",\"detail\":\"the disk is gone\"}",
                "not ready: 503 Service Unavailable: the disk is gone",
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n<html>", "not ready: 404 Not Found"),
            ("SSH-2.0-x\r\n", "not ready: what answers at HERE is no aggregator"),
        ] {
            assert_eq!(said_of(Some(answer)), said);
        }
        let silent = said_of(None);
        assert!(silent.starts_with("not ready: no answer from HERE (nothing within 2 s)"), "{silent}");
    }
}
