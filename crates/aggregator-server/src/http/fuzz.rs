//! Checks of the decoders of bodies: see [`crate::fuzz`].

use std::io::Write as _;

use super::content_encoding::{DecodeError, Decoder, Encoding};

/// What comes out of a body at most.
const MAX_BYTES: usize = 1 << 20;

/// A compressed body. The first byte says how, and in pieces of what size it comes.
pub fn content_encoding(data: &[u8]) {
    let Some((&mode, body)) = data.split_first() else { return };
    let (encoding, piece) = if mode & 1 == 0 { (Encoding::Gzip, mode) } else { (Encoding::Zstd, mode) };
    let whole = decoded(encoding, body, body.len());
    match (&whole, decoded(encoding, body, usize::from(piece >> 1) + 1)) {
        (Ok(whole), Ok(pieces)) => assert!(*whole == pieces, "in pieces it stands for something else"),
        // Of the first pieces alone, more can come than is allowed for them.
        (Ok(_), Err(DecodeError::Ratio)) | (Err(_), Err(_)) => {}
        // The library of zstd has a short way for a frame that comes whole. It refuses a compressed block of no bytes.
        (Err(DecodeError::Malformed(_)), Ok(_)) if encoding == Encoding::Zstd => {}
        (whole, pieces) => panic!("whole: {:?}, in pieces: {:?}", whole.as_ref().err(), pieces.err()),
    }
    match whole {
        Ok(bytes) => assert!(bytes.len() <= MAX_BYTES.min((200 * body.len()).max(64 << 10))),
        Err(DecodeError::Malformed(detail)) => assert!(!detail.is_empty() && detail.len() < 500, "{detail}"),
        Err(DecodeError::TooLarge | DecodeError::Ratio) => {}
    }
    let again = decoded(encoding, &encoded(encoding, body), usize::MAX);
    assert!(again.is_ok_and(|again| again == body), "it is not read as it is written");
}

fn decoded(encoding: Encoding, body: &[u8], piece: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding).expect("there is memory");
    let mut all = Vec::new();
    for piece in body.chunks(piece.max(1)) {
        all.extend(decoder.decode(piece, MAX_BYTES)?);
    }
    all.extend(decoder.finish()?);
    Ok(all)
}

fn encoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
        }
        Encoding::Zstd => zstd::encode_all(bytes, 1).expect("memory takes it"),
    }
}
