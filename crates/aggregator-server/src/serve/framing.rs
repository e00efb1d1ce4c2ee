//! Checks how the body of a request is framed, beyond what hyper does.

use hyper::HeaderMap;
use hyper::header::TRANSFER_ENCODING;

use crate::http::problem::Problem;

/// Refuses a transfer coding other than `chunked` alone (RFC 9112, section 6.1). Hyper takes what ends with `chunked`, and
/// would hand out a body that is still encoded with the rest.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::transfer_coding()),
    }
}
