//! The page: `GET /` for a browser, and the files it is made of, which are part of the program.
//!
//! The page has no figure from anywhere but the public routes, and needs no network but this server. Its files are the same for
//! everybody and have no secret, so they need no key: what they ask for does.

use axum::body::Body;
use axum::extract::Path;
use axum::response::Response;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};

use crate::http::params::Params;
use crate::http::problem::Problem;

/// A file of the page.
struct File {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal: $media_type:expr),* $(,)?) => {
        &[$(File { name: $name, media_type: $media_type, bytes: include_bytes!(concat!("dashboard/", $name)) }),*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const INDEX: &[u8] = include_bytes!("dashboard/index.html");

const FILES: &[File] = files![
    "style.css": CSS,
    "main.js": JS,
    "api.js": JS,
    "charts.js": JS,
    "dom.js": JS,
    "duplicates.js": JS,
    "events.js": JS,
    "format.js": JS,
    "json.js": JS,
    "keyboard.js": JS,
    "overview.js": JS,
    "sources.js": JS,
    "start.js": JS,
    "state.js": JS,
    "topics.js": JS,
    "well.svg": SVG,
    "unwell.svg": SVG,
];

/// Scripts and styles come from here only, none of them inline; nothing else is fetched, framed or sent anywhere; and no text
/// can become markup or code (Trusted Types).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Whether a page is wanted: a browser names this type; tools that name none, or take anything, do not.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|accepted| accepted.contains("text/html"))
}

/// The page.
pub(crate) fn page() -> Response {
    file(HTML, INDEX)
}

/// A file of the page.
pub(crate) async fn asset(Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    match FILES.iter().find(|file| file.name == name) {
        Some(of) => Ok(file(of.media_type, of.bytes)),
        None => Err(Problem::no_route("the page has no such file: it begins at /")),
    }
}

fn file(media_type: &'static str, bytes: &'static [u8]) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, media_type),
        // The files belong together, and change with the program.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
