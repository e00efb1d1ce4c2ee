//! The begin of a connection that speaks TLS.

use std::pin::Pin;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::tls::{ALPN_HTTP_2, Tls};

use super::{Limits, refusal};

/// What every connection over TLS begins with: the type of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// The write timeout is below TLS, which writes on its own account, too.
pub(super) type SecureStream = TlsStream<Pin<Box<TimeoutStream<TcpStream>>>>;

/// A connection after its handshake, by the protocol that client and server agreed on.
pub(super) enum Handshaken {
    Http1(Box<SecureStream>),
    Http2(Box<SecureStream>),
}

/// Makes a connection secure, within the time that there is for a head. `None` if it came to nothing.
pub(super) async fn shake_hands(stream: TcpStream, tls: &Tls, limits: Limits) -> Option<Handshaken> {
    let shaking = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        if first[0] != HANDSHAKE {
            if first[0].is_ascii_uppercase() {
                refusal::not_tls(stream).await;
            }
            return Ok(None);
        }
        let mut timed = TimeoutStream::new(stream);
        timed.set_write_timeout(Some(limits.write_timeout));
        let stream = TlsAcceptor::from(tls.current()).accept(Box::pin(timed)).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP_2);
        let stream = Box::new(stream);
        std::io::Result::Ok(Some(if is_http2 {
            Handshaken::Http2(stream)
        } else {
            Handshaken::Http1(stream)
        }))
    };
    match timeout(limits.header_timeout, shaking).await {
        Ok(Ok(handshaken)) => handshaken,
        Ok(Err(error)) => {
            debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("a TLS handshake took too long");
            None
        }
    }
}
