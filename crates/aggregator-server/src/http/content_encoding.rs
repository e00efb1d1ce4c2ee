//! Bodies that come compressed (`Content-Encoding: gzip` or `zstd`).
//!
//! A few bytes can stand for very many. So what comes out is counted while it is decoded, and decoding ends at the first
//! byte beyond a limit. Nothing is decoded of a request whose sender may not make it: see `auth/`.

use std::io::{self, Write};

use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;

use super::problem::Problem;

/// The most bytes that a byte may stand for. Events that repeat each other reach a hundred.
const MAX_RATIO: usize = 200;
/// Below this many bytes the ratio does not count.
const ANY_RATIO_BYTES: usize = 64 << 10;
/// The binary logarithm of the memory that a frame of zstd may ask for: 8 MiB, which every level below the highest keeps to.
const MAX_WINDOW_LOG: u32 = 23;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    /// The one that the head names; `None` if the body comes as it is.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut named = headers.get_all(CONTENT_ENCODING).iter();
        let (Some(name), None) = (named.next(), named.next()) else {
            return if headers.contains_key(CONTENT_ENCODING) { Err(unsupported()) } else { Ok(None) };
        };
        match name.to_str().unwrap_or_default().to_ascii_lowercase().as_str() {
            "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "zstd" => Ok(Some(Self::Zstd)),
            _ => Err(unsupported()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

fn unsupported() -> Problem {
    Problem::unsupported_media("content-encoding: send the body as it is, or encoded once with gzip or zstd")
}

/// Decodes a body piece by piece.
pub(super) struct Decoder {
    encoding: Encoding,
    inner: Inner,
    /// How many bytes were decoded.
    taken: usize,
}

enum Inner {
    Gzip(Box<flate2::write::MultiGzDecoder<Output>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Output>>),
}

/// What comes out of a decoder, up to a limit.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// How many bytes may still come.
    left: usize,
    /// How many have come, since the beginning.
    total: usize,
    is_over: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left {
            self.is_over = true;
            return Err(io::Error::other("too many bytes"));
        }
        self.left -= bytes.len();
        self.total += bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a piece cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// More comes out than fits.
    TooLarge,
    /// Far more comes out than goes in.
    Ratio,
    /// It is not what its head says.
    Malformed(String),
}

impl Decoder {
    /// How much memory one takes at most, beside what comes out.
    pub(super) const MAX_BYTES: usize = 1 << MAX_WINDOW_LOG;

    pub(super) fn new(encoding: Encoding) -> io::Result<Self> {
        let inner = match encoding {
            Encoding::Gzip => Inner::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Output::default()))),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(Output::default())?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { encoding, inner, taken: 0 })
    }

    /// What these bytes stand for, which may be at most `max_bytes` together with all before.
    pub(super) fn decode(&mut self, bytes: &[u8], max_bytes: usize) -> Result<Vec<u8>, DecodeError> {
        self.taken += bytes.len();
        let by_ratio = (self.taken.saturating_mul(MAX_RATIO)).max(ANY_RATIO_BYTES);
        let output = self.output();
        output.left = max_bytes.min(by_ratio).saturating_sub(output.total);
        let written = match &mut self.inner {
            Inner::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Inner::Zstd(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
        };
        self.outcome(written, max_bytes <= by_ratio)
    }

    /// What is left at the end of the body, which has to be a whole one.
    pub(super) fn finish(&mut self) -> Result<Vec<u8>, DecodeError> {
        let written = match &mut self.inner {
            Inner::Gzip(decoder) => decoder.try_finish(),
            // Its last block was written out when it was complete. One that is not leaves JSON that is not.
            Inner::Zstd(decoder) => decoder.flush(),
        };
        self.outcome(written, true)
    }

    fn outcome(&mut self, written: io::Result<()>, is_size: bool) -> Result<Vec<u8>, DecodeError> {
        let encoding = self.encoding.name();
        let output = self.output();
        match written {
            Ok(()) => Ok(std::mem::take(&mut output.bytes)),
            Err(_) if output.is_over && is_size => Err(DecodeError::TooLarge),
            Err(_) if output.is_over => Err(DecodeError::Ratio),
            Err(error) => Err(DecodeError::Malformed(format!("the body is not {encoding}: {error}"))),
        }
    }

    fn output(&mut self) -> &mut Output {
        match &mut self.inner {
            Inner::Gzip(decoder) => decoder.get_mut(),
            Inner::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        }
    }

    fn decoded(
        encoding: Encoding,
        body: &[u8],
        piece: usize,
        max_bytes: usize,
    ) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::new(encoding).unwrap();
        let mut all = Vec::new();
        for piece in body.chunks(piece) {
            all.extend(decoder.decode(piece, max_bytes)?);
        }
        all.extend(decoder.finish()?);
        Ok(all)
    }

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Zstd];

    /// Bytes that are not smaller when they are compressed.
    fn noise(count: usize) -> Vec<u8> {
        let mut state: u64 = 1;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(count)
        .collect()
    }

    #[test]
    fn a_body_is_the_same_in_whatever_pieces_it_comes() {
        for encoding in BOTH {
            for bytes in [Vec::new(), b"[]".to_vec(), noise(300_000), b"{\"topic\":\"t\"}".repeat(1_000)] {
                let body = encoded(encoding, &bytes);
                for piece in [1, 7, 4096, body.len()] {
                    assert_eq!(
                        decoded(encoding, &body, piece, 1 << 20).unwrap(),
                        bytes,
                        "{encoding:?} {piece}"
                    );
                }
                // Two bodies behind each other are one.
                let twice = [body.clone(), body].concat();
                assert_eq!(decoded(encoding, &twice, 100, 1 << 20).unwrap(), [bytes.clone(), bytes].concat());
            }
        }
    }

    #[test]
    fn what_comes_out_is_bounded_to_the_byte() {
        for encoding in BOTH {
            let bytes = noise(100_000);
            let body = encoded(encoding, &bytes);
            assert_eq!(decoded(encoding, &body, 4096, 100_000).unwrap().len(), 100_000);
            assert_eq!(decoded(encoding, &body, 4096, 99_999), Err(DecodeError::TooLarge), "{encoding:?}");
        }
    }

    #[test]
    fn a_few_bytes_do_not_stand_for_very_many() {
        for encoding in BOTH {
            let bomb = encoded(encoding, &vec![b' '; 64 << 20]);
            assert!(bomb.len() < 1 << 20);
            assert_eq!(decoded(encoding, &bomb, 4096, 1 << 30), Err(DecodeError::Ratio), "{encoding:?}");
            // A small one is no bomb.
            let spaces = encoded(encoding, &vec![b' '; ANY_RATIO_BYTES]);
            assert_eq!(decoded(encoding, &spaces, 4096, 1 << 30).unwrap().len(), ANY_RATIO_BYTES);
        }
    }

    #[test]
    fn what_is_not_encoded_so_is_refused() {
        for (encoding, other) in [(Encoding::Gzip, Encoding::Zstd), (Encoding::Zstd, Encoding::Gzip)] {
            for body in [b"{\"topic\":\"t\"}".to_vec(), encoded(other, b"{}")] {
                let refused = decoded(encoding, &body, 3, 1 << 20);
                assert!(matches!(refused, Err(DecodeError::Malformed(_))), "{encoding:?}: {refused:?}");
            }
        }
        let cut = encoded(Encoding::Gzip, b"{}");
        assert!(decoded(Encoding::Gzip, &cut[..cut.len() - 1], 100, 1 << 20).is_err());
    }

    #[test]
    fn a_frame_that_asks_for_more_memory_than_it_may_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(MAX_WINDOW_LOG + 1).unwrap();
        encoder.write_all(&noise(1 << 20)).unwrap();
        let body = encoder.finish().unwrap();
        assert!(matches!(decoded(Encoding::Zstd, &body, 4096, 1 << 30), Err(DecodeError::Malformed(_))));
    }
}
