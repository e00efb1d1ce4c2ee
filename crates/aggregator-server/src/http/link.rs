//! A link to the next page in the head of a response (RFC 8288), for clients that cannot parse the page.

use axum::response::Response;
use hyper::Uri;
use hyper::header::{HeaderValue, LINK};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::params::decode;

/// A longer link is left out; `next` in the page remains. Proxies refuse a head that is larger than their buffer, which
/// can be as small as 4 KiB.
const MAX_BYTES: usize = 2048;

/// Characters that the server accepts in a query although no URI may have them. A `%` stays, because it begins an escape.
const NO_URI: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Adds a link to the next page: the same query, after the cursor `next`.
pub(crate) fn to_next(response: &mut Response, uri: &Uri, next: &str) {
    let mut link = format!("<{}?", uri.path());
    let pairs = uri.query().unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty() && !is_after(pair)) {
        link.extend(utf8_percent_encode(pair, NO_URI));
        link.push('&');
    }
    link.push_str(&format!("after={next}>; rel=\"next\""));
    if link.len() > MAX_BYTES {
        return;
    }
    let link =
        HeaderValue::try_from(link).expect("paths, cursors and topics are ASCII, and so is what is encoded");
    response.headers_mut().insert(LINK, link);
}

fn is_after(pair: &str) -> bool {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    decode(name).as_deref() == Some("after")
}
