//! HTTP/1.1 messages, as far as a network has to understand them: where they end.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};

use super::Connection;

/// More than either side ever sends here.
const MAX_BYTES: usize = 16 << 20;

/// A request or a reply, whole.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Bytes,
    body_start: usize,
}

impl Message {
    /// The next message of a connection, or `None` at its end.
    pub(super) async fn read(connection: &mut Connection) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut bytes = Vec::new();
        let mut body_bytes = 0;
        loop {
            let line_start = bytes.len();
            let room = (MAX_BYTES - bytes.len()) as u64;
            if (&mut *connection).take(room).read_until(b'\n', &mut bytes).await? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let line = str::from_utf8(&bytes[line_start..]).map_err(|_| invalid("a head that is no text"))?;
            match line.trim_end().split_once(": ") {
                None if line == "\r\n" => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    body_bytes = value.parse().map_err(|_| invalid("a length that is no number"))?;
                }
                Some((name, _)) if name.eq_ignore_ascii_case("transfer-encoding") => {
                    return Err(invalid("neither side sends chunks"));
                }
                _ => {}
            }
        }
        let body_start = bytes.len();
        if body_bytes > MAX_BYTES {
            return Err(invalid("a body without end"));
        }
        bytes.resize(body_start + body_bytes, 0);
        connection.read_exact(&mut bytes[body_start..]).await?;
        Ok(Some(Self { bytes: bytes.into(), body_start }))
    }

    /// Whether the first line begins so.
    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        self.bytes.starts_with(prefix.as_bytes())
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.body_start..]
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first `share` of it: never nothing, never all.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    pub(super) fn part(&self, share: f64) -> &[u8] {
        let end = (self.bytes.len() as f64 * share) as usize;
        &self.bytes[..end.clamp(1, self.bytes.len() - 1)]
    }
}
