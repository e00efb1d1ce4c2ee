//! The id of a request: in the header `x-request-id` of its answer, in the body of a problem, and in the log.

use std::fmt;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use ulid::Ulid;

static HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client, in bytes.
const MAX_BYTES: usize = 128;

/// Names one request. It has 1 to 128 visible ASCII characters, so it can stand in a header and in a log line.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// A new one: a ULID, so ids sort by time.
    pub(crate) fn generate() -> Self {
        let mut text = [0; ulid::ULID_LEN];
        let text = Ulid::generate().array_to_str(&mut text);
        Self(HeaderValue::from_str(text).expect("a ULID has letters and digits only"))
    }

    /// The client's own id, if it sent one that can be used; a new one otherwise.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut sent = headers.get_all(&HEADER).iter();
        match (sent.next(), sent.next()) {
            (Some(id), None) if is_usable(id.as_bytes()) => Self(id.clone()),
            _ => Self::generate(),
        }
    }

    /// The same, and leaves it in the head of the request, so that whoever has the head can name the request.
    pub(crate) fn note(headers: &mut HeaderMap) -> Self {
        let id = Self::of(headers);
        if headers.get(&HEADER).is_none_or(|sent| *sent != id.0) {
            headers.insert(HEADER.clone(), id.0.clone());
        }
        id
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().expect("visible ASCII is text")
    }

    /// Adds it to the head of the answer.
    pub(crate) fn add_to(self, headers: &mut HeaderMap) {
        headers.insert(HEADER.clone(), self.0);
    }
}

fn is_usable(id: &[u8]) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_choose_visible_ascii_of_up_to_128_characters() {
        for usable in [&b"a"[..], b"!~", b"00-4bf92f3577b34da6-01", &[b'x'; 128]] {
            assert!(is_usable(usable));
        }
        for other in [&b""[..], b"a b", b"a\tb", b"\x7f", "ä".as_bytes(), &[b'x'; 129]] {
            assert!(!is_usable(other));
        }
    }

    #[test]
    fn new_ids_differ_and_are_usable() {
        let (first, second) = (RequestId::generate(), RequestId::generate());
        assert!(is_usable(first.as_str().as_bytes()) && first.as_str() != second.as_str());
    }
}
