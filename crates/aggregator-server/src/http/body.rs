//! Reads the body of a request: bounded in bytes, in time, in how slowly it may come, and in the bytes of all requests
//! together. One that comes compressed counts as what it stands for.

use std::time::Duration;

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue};
use tokio::time::{Instant, timeout};

use crate::config::{ByteSize, Config};
use crate::fair::Flow;
use crate::fair::places::Places;
use crate::utf8::BYTE_ORDER_MARK;

use super::body_room::{BodyRoom, BodyRooms};
use super::content_encoding::{DecodeError, Decoder, Encoding};
use super::problem::Problem;

/// How much of a compressed body is decoded at a time.
const ENCODED_PIECE_BYTES: usize = 4 << 10;

/// A body, and the room that is reserved for it.
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    /// To be held as long as the bytes are.
    pub(crate) room: BodyRoom,
}

/// Reads bodies, within the limits for each one and for all together.
pub(crate) struct BodyReader {
    max_bytes: ByteSize,
    timeout: Duration,
    /// Bytes per second.
    min_rate: usize,
    rooms: BodyRooms,
    /// How many bodies may be decoded at a time. Their decoders take a quarter as much memory as bodies may.
    decoders: Places,
}

impl BodyReader {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_bytes: config.max_body_bytes,
            timeout: config.body_timeout,
            min_rate: config.min_body_rate.0,
            rooms: BodyRooms::new(config.request_bytes.kib()),
            decoders: Places::new(decoders(config), usize::MAX),
        }
    }

    /// Reads a JSON body. Skips a byte order mark before it (RFC 8259, section 8.1).
    pub(crate) async fn json(
        &self,
        flow: Flow,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<ReceivedBody, Problem> {
        let buffer = match self.begin(flow, headers) {
            Ok(buffer) => buffer,
            // To read a part of the body would ask the client for all of it.
            Err(problem) if is_held_back(headers) => return Err(problem),
            Err(problem) => {
                discard(body).await;
                return Err(problem);
            }
        };
        let read = self.read(flow, &mut body, buffer);
        let read = timeout(self.timeout, read).await;
        let mut received = read.unwrap_or_else(|_| Err(Problem::body_timeout("within --body-timeout")));
        match &mut received {
            Ok(received) if received.bytes.starts_with(BYTE_ORDER_MARK) => {
                received.bytes.advance(BYTE_ORDER_MARK.len());
            }
            Ok(_) => {}
            Err(_) => discard(body).await,
        }
        received
    }

    /// Refuses what can be refused before the body arrives.
    fn begin(&self, flow: Flow, headers: &HeaderMap) -> Result<BodyBuffer, Problem> {
        check_type(headers)?;
        let encoding = Encoding::of(headers)?;
        let declared =
            headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|declared| declared > self.max_bytes.0) {
            return Err(self.too_large());
        }
        let announced = declared.unwrap_or(0);
        let room = self.rooms.begin(flow, announced.div_ceil(1024)).ok_or_else(no_room)?;
        Ok(BodyBuffer { room, bytes: BytesMut::with_capacity(announced), encoding })
    }

    /// Reads the whole body into a buffer of its own, and decodes it if it comes compressed. The pieces that arrive share the
    /// connection's buffer and would keep all of it in memory. Room is reserved for bytes that have arrived, not for
    /// announced ones.
    async fn read(&self, flow: Flow, body: &mut Body, buffer: BodyBuffer) -> Result<ReceivedBody, Problem> {
        let BodyBuffer { mut bytes, mut room, encoding } = buffer;
        let mut pace = Pace::new(self.min_rate);
        while let Some(frame) = pace.next(body).await? {
            let frame = frame.map_err(|error| Problem::malformed(format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            self.append(&mut bytes, &mut room, 0, &data)?;
        }
        if let Some(encoding) = encoding {
            bytes = self.decode(flow, encoding, &bytes, &mut room).await?;
        }
        Ok(ReceivedBody { bytes: bytes.freeze(), room })
    }

    /// What a compressed body stands for. It has arrived, so a decoder never waits for a client.
    async fn decode(
        &self,
        flow: Flow,
        encoding: Encoding,
        encoded: &[u8],
        room: &mut BodyRoom,
    ) -> Result<BytesMut, Problem> {
        let _place =
            self.decoders.take(flow).await.map_err(|_| Problem::internal("the decoders are closed"))?;
        let failed = |error: std::io::Error| Problem::internal(format!("a decoder: {error}"));
        let mut decoder = Decoder::new(encoding).map_err(failed)?;
        let mut bytes = BytesMut::new();
        for piece in encoded.chunks(ENCODED_PIECE_BYTES) {
            let decoded = decoder.decode(piece, self.max_bytes.0).map_err(|error| self.undecodable(error))?;
            self.append(&mut bytes, room, encoded.len(), &decoded)?;
            // A piece can stand for a megabyte. Others have their turn between two of them.
            tokio::task::yield_now().await;
        }
        let rest = decoder.finish().map_err(|error| self.undecodable(error))?;
        self.append(&mut bytes, room, encoded.len(), &rest)?;
        Ok(bytes)
    }

    /// Appends `data`, with room for it and for `others` bytes beside the buffer.
    fn append(
        &self,
        bytes: &mut BytesMut,
        room: &mut BodyRoom,
        others: usize,
        data: &[u8],
    ) -> Result<(), Problem> {
        if bytes.len() + data.len() > self.max_bytes.0 {
            return Err(self.too_large());
        }
        if !room.grow_to((others + bytes.len() + data.len()).div_ceil(1024)) {
            return Err(no_room());
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    fn undecodable(&self, error: DecodeError) -> Problem {
        match error {
            DecodeError::TooLarge => self.too_large(),
            DecodeError::Ratio => Problem::too_large(
                "the body is more than 200 times as large as what was sent of it: send it less compressed",
            ),
            DecodeError::Malformed(detail) => Problem::malformed(detail),
        }
    }

    fn too_large(&self) -> Problem {
        let limit = self.max_bytes;
        Problem::too_large(format!("the body is larger than {limit} (--max-body-bytes): send it in several"))
    }
}

fn decoders(config: &Config) -> u32 {
    u32::try_from(config.request_bytes.0 / 4 / Decoder::MAX_BYTES).unwrap_or(u32::MAX).clamp(1, 64)
}

fn no_room() -> Problem {
    Problem::overloaded("too many bytes of request bodies are in memory (--request-bytes)")
}

/// How fast a body comes. Only the time counts in which the client is waited for.
struct Pace {
    /// Bytes per second.
    min_rate: usize,
    arrived: usize,
    waited: Duration,
}

impl Pace {
    /// A body may be slower at first: connections have pauses.
    const GRACE: Duration = Duration::from_secs(5);

    fn new(min_rate: usize) -> Self {
        Self { min_rate, arrived: 0, waited: Duration::ZERO }
    }

    async fn next(&mut self, body: &mut Body) -> Result<Option<Result<Frame<Bytes>, axum::Error>>, Problem> {
        let millis = self.arrived.saturating_mul(1000) / self.min_rate.max(1);
        let allowed = Self::GRACE + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        let began = Instant::now();
        let frame = timeout(allowed.saturating_sub(self.waited), body.frame()).await;
        let frame = frame.map_err(|_| Problem::body_timeout("at --min-body-rate or faster"))?;
        self.waited += began.elapsed();
        if let Some(Ok(frame)) = &frame {
            self.arrived += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(frame)
    }
}

/// A body as far as it has arrived, and the room reserved for it so far.
struct BodyBuffer {
    bytes: BytesMut,
    room: BodyRoom,
    encoding: Option<Encoding>,
}

/// Whether the client waits for a `100 Continue` before it sends the body (RFC 9110, section 10.1.1). Hyper sends it when
/// the body is first read.
pub(crate) fn is_held_back(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads the rest of a refused body, up to a limit. Many clients read the answer only after they have sent everything.
/// They would take a connection that closes earlier for a failure, and try again.
async fn discard(mut body: Body) {
    const MAX_BYTES: usize = 64 << 20;
    const PATIENCE: Duration = Duration::from_secs(2);
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MAX_BYTES {
                break;
            }
        }
    };
    let _ = timeout(PATIENCE, rest).await;
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json = |value: &HeaderValue| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    };
    if headers.get_all(CONTENT_TYPE).iter().all(is_json) {
        return Ok(());
    }
    Err(Problem::unsupported_media("content-type: send application/json"))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// How long a body of so many pieces of 100 bytes, one a second, is waited for; whether it is read to its end.
    async fn read_slowly(pieces: usize, min_rate: usize) -> (u64, bool) {
        let piece = async |n: usize| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (n > 0).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 100])), n - 1))
        };
        let mut body = Body::from_stream(stream::unfold(pieces, piece));
        let (began, mut pace) = (Instant::now(), Pace::new(min_rate));
        loop {
            match pace.next(&mut body).await {
                Ok(Some(_)) => {}
                end => return (began.elapsed().as_secs(), end.is_ok()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_too_slow_is_given_up_after_some_seconds() {
        assert_eq!(read_slowly(100, 1).await, (101, true));
        assert_eq!(read_slowly(100, 100).await, (101, true));
        // Five seconds, and half a second for each piece.
        assert_eq!(read_slowly(100, 200).await, (9, false));
        assert_eq!(read_slowly(3, 1_000_000).await, (4, true), "it is over before that counts");
    }
}
