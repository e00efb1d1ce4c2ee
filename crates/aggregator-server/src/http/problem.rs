//! Errors as clients see them: RFC 9457 problem details. The only place where an error becomes a status.
//!
//! A handler answers with a [`Problem`]. Its response carries the problem as an extension and has no body yet: [`render`]
//! writes the body, with the id of the request, once the answer is back in `serve/layers.rs`.

mod render;
mod unavailable;

use std::borrow::Cow;
use std::fmt::Display;

use aggregator_core::{Cursor, StoreError, WrongCursor};
use hyper::StatusCode;
use serde::Serialize;

use crate::read_pool::ReadError;

pub(crate) use self::render::{render, unread};

/// An error response.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// Names the kind for good; shown as `urn:aggregator:problem:KIND`.
    #[serde(rename = "type", serialize_with = "urn")]
    kind: &'static str,
    title: &'static str,
    #[serde(serialize_with = "status")]
    status: StatusCode,
    detail: String,
    /// Whether the same request can succeed later.
    retryable: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemError>,
    /// Where a reader can go on whose cursor expired, or begin anew. Shown as its reader may see it.
    #[serde(skip)]
    oldest: Option<Box<Cursor>>,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

fn urn<S: serde::Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:aggregator:problem:{kind}"))
}

fn status<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ItemError {
    /// Which event of the request, from 0; missing for a parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    pub(crate) field: Cow<'static, str>,
    pub(crate) detail: String,
}

impl Problem {
    fn new(kind: &'static str, title: &'static str, status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title,
            status,
            detail: detail.into(),
            retryable: false,
            errors: Vec::new(),
            oldest: None,
            retry_after_seconds: None,
        }
    }

    fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retryable = true;
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// 401: without a credential nothing is served.
    pub(crate) fn no_credential(detail: impl Into<String>) -> Self {
        Self::new("no-credential", "No credential", StatusCode::UNAUTHORIZED, detail)
    }

    /// 401: a credential that is not good, or not good any more.
    pub(crate) fn bad_credential(detail: impl Into<String>) -> Self {
        Self::new("bad-credential", "Bad credential", StatusCode::UNAUTHORIZED, detail)
    }

    /// 403: a good credential that does not allow this.
    pub(crate) fn missing_scope(scope: &impl Display) -> Self {
        Self::forbidden(format!("the credential has no scope that allows {scope}"))
    }

    /// 403: a good credential that allows nothing of this kind, whatever the topic.
    pub(crate) fn missing_kind_of_scope(kind: &str) -> Self {
        Self::forbidden(format!("the credential has no scope {kind}:TOPICS"))
    }

    /// 403, with the items that are not allowed.
    pub(crate) fn forbidden_items(errors: Vec<ItemError>, what: &str) -> Self {
        Self::forbidden(Self::told(&errors, what)).with_errors(errors)
    }

    fn forbidden(detail: impl Into<String>) -> Self {
        Self::new("forbidden", "Forbidden", StatusCode::FORBIDDEN, detail)
    }

    /// 403: for nobody but the operator.
    pub(crate) fn only_over_admin_socket(what: &str) -> Self {
        Self::forbidden(format!("{what} is to be asked for over the admin socket (--admin-socket)"))
    }

    /// 421: a host that nobody has named.
    pub(crate) fn unexpected_host(detail: impl Into<String>) -> Self {
        Self::new("unexpected-host", "Unexpected host", StatusCode::MISDIRECTED_REQUEST, detail)
    }

    /// 403: a page of another origin.
    pub(crate) fn foreign_origin(detail: impl Into<String>) -> Self {
        Self::new("foreign-origin", "Foreign origin", StatusCode::FORBIDDEN, detail)
    }

    /// 409
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new("conflict", "Conflict", StatusCode::CONFLICT, detail)
    }

    /// 429: the publisher sends more than its key allows.
    pub(crate) fn rate_limited(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new("rate-limited", "Rate limited", StatusCode::TOO_MANY_REQUESTS, detail)
            .with_retry_after(retry_after_seconds)
    }

    /// 503: the keys could not be read yet.
    pub(crate) fn keys_unknown() -> Self {
        Self::unavailable("keys-unknown", "Keys unknown", "the keys of the store could not be read yet")
    }

    /// 503: the key that a token is verified with may be one that could not be fetched.
    pub(crate) fn issuer_keys_unknown() -> Self {
        Self::unavailable(
            "issuer-keys-unknown",
            "Keys of the issuer unknown",
            "the token's key is not known, and the issuer's keys could not be fetched yet (--jwt-jwks): try again, or send \
             a key (agg_…)",
        )
    }

    fn with_errors(self, errors: Vec<ItemError>) -> Self {
        Self { errors, ..self }
    }

    /// 400: a query parameter.
    pub(crate) fn parameter(name: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::of_parameter("bad-parameter", "Bad query parameter", name, detail)
    }

    fn of_parameter(
        kind: &'static str,
        title: &'static str,
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let error = ItemError { index: None, field: name.into(), detail: detail.into() };
        let detail = format!("{} {}", error.field, error.detail).trim_start().to_owned();
        Self { errors: vec![error], ..Self::new(kind, title, StatusCode::BAD_REQUEST, detail) }
    }

    /// 400: a request that does not name the one host it is for.
    pub(crate) fn bad_host(detail: impl Into<String>) -> Self {
        Self::new("bad-host", "Bad Host header", StatusCode::BAD_REQUEST, detail)
    }

    /// 400: a cursor of something else.
    fn wrong_cursor(why: &WrongCursor) -> Self {
        let (kind, title, way_out) = match why {
            WrongCursor::OtherQuery => (
                "cursor-of-another-query",
                "Cursor of another query",
                "keep topic, event_id, source, since, until and order as they were, or begin without `after`",
            ),
            WrongCursor::AheadOfStore { .. } | WrongCursor::OtherHistory { .. } => (
                "cursor-of-another-history",
                "Cursor of another history",
                "begin anew, at `oldest` or without `after`",
            ),
            _ => ("cursor-of-another-store", "Cursor of another store", "begin without `after`"),
        };
        let oldest = match why {
            WrongCursor::AheadOfStore { oldest } | WrongCursor::OtherHistory { oldest } => {
                Some(Box::new(oldest.clone()))
            }
            _ => None,
        };
        // Which of the two it is would tell how much is stored, also of topics that the reader may not read.
        let why = match why {
            WrongCursor::AheadOfStore { .. } | WrongCursor::OtherHistory { .. } => {
                "the store does not know any more: it was put back to an older state".to_owned()
            }
            _ => why.to_string(),
        };
        let problem = Self::of_parameter(kind, title, "after", format!("is a cursor that {why}: {way_out}"));
        Self { oldest, ..problem }
    }

    /// 400: a body that cannot be read at all.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new("malformed-body", "Malformed body", StatusCode::BAD_REQUEST, detail)
    }

    /// 400, with what the parser says; `what` is said of JSON that is not what it should be. The parser may repeat what
    /// it read, so it is cut.
    pub(crate) fn malformed_json(what: &str, error: &serde_json::Error) -> Self {
        const SHOWN_CHARS: usize = 200;
        let what = if error.is_data() { what } else { "the body is not JSON" };
        // The parser has words of its own for what JSON calls an array and an object.
        let words = [
            ("a sequence", "an array"),
            ("a map", "an object"),
            ("type: sequence", "type: array"),
            ("type: map", "type: object"),
        ];
        let told = |told: String, (theirs, ours): &(&str, &str)| told.replace(theirs, ours);
        let error = words.iter().fold(error.to_string(), told);
        let shown: String = error.chars().take(SHOWN_CHARS).collect();
        if shown.len() == error.len() {
            return Self::malformed(format!("{what}: {error}"));
        }
        // The position stands at the end.
        let position = error.rfind(" at line ").map_or("", |at| &error[at..]);
        Self::malformed(format!("{what}: {shown}…{position}"))
    }

    /// 422: events that break a rule.
    pub(crate) fn invalid(errors: Vec<ItemError>, what: &str) -> Self {
        let detail = Self::told(&errors, what);
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new("invalid-events", "Invalid input", status, detail).with_errors(errors)
    }

    /// The first fault, and how many there are.
    fn told(errors: &[ItemError], what: &str) -> String {
        let first =
            errors.first().map_or_else(String::new, |ItemError { index, field, detail }| match index {
                Some(index) if field == "event" => format!("{what} {index} {detail}"),
                Some(index) => format!("{what} {index}: {field} {detail}"),
                None => format!("{field} {detail}"),
            });
        match errors.len() {
            0 | 1 => first,
            several => format!("{several} faults, which `errors` lists; the first: {first}"),
        }
    }

    /// 501
    pub(crate) fn transfer_coding() -> Self {
        let detail = "transfer-encoding: only `chunked` is understood, once";
        Self::new("transfer-coding", "Unknown transfer coding", StatusCode::NOT_IMPLEMENTED, detail)
    }

    /// 413
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new("too-large", "Request too large", StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 415
    pub(crate) fn unsupported_media(detail: impl Into<String>) -> Self {
        Self::new(
            "unsupported-media-type",
            "Unsupported media type",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            detail,
        )
    }

    /// 408: the body is late. `limit` says by what.
    pub(crate) fn body_timeout(limit: &str) -> Self {
        let problem = Self::new(
            "body-timeout",
            "Request timeout",
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive {limit}"),
        );
        Self { retryable: true, ..problem }
    }

    /// 404
    pub(crate) fn no_route(detail: impl Into<String>) -> Self {
        Self::new("not-found", "Not found", StatusCode::NOT_FOUND, detail)
    }

    /// 405
    pub(crate) fn method(method: &hyper::Method, path: &str) -> Self {
        let detail = format!("{path} does not take {method}: see the Allow header");
        Self::new("method-not-allowed", "Method not allowed", StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// 500: a defect of this program.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { retryable: true, ..Self::new("internal", "Internal error", status, detail) }
    }

    /// What an error that is not about the input means.
    pub(crate) fn from_store(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => {
                Self::unavailable("store-unavailable", "Store unavailable", error.to_string())
            }
            StoreError::NoSpace { .. } => Self::no_space(&error.to_string()),
            StoreError::Corrupt { .. } | StoreError::Poisoned { .. } => Self::failed(&error.to_string()),
            StoreError::Expired { oldest } => Self::expired(oldest),
            StoreError::WrongCursor(why) => Self::wrong_cursor(why),
            StoreError::Unsupported { .. } => {
                Self::new("unsupported", "Not supported", StatusCode::NOT_IMPLEMENTED, error.to_string())
            }
            _ if error.is_fatal() => Self::failed(&error.to_string()),
            // `Invalid` (a valid request never causes it), and errors that this program does not know.
            _ => Self::internal(error.to_string()),
        }
    }

    /// 410: retention removed events behind a cursor. `oldest` goes on without them.
    pub(crate) fn expired(oldest: &Cursor) -> Self {
        let detail = "events after this cursor were removed by retention; `oldest` goes on where it stood, \
                      without them";
        let problem = Self::new("cursor-expired", "Cursor expired", StatusCode::GONE, detail);
        Self { oldest: Some(Box::new(oldest.clone())), ..problem }
    }
}

/// What a read's error means to the reader.
impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::QueueFull | ReadError::NoRoom => Self::overloaded(error.to_string()),
            ReadError::Timeout { .. } => {
                let detail = format!("{error}: ask for less at a time, ask again later, or raise it");
                Self::unavailable("read-timeout", "Read timeout", detail)
            }
            ReadError::Store(error) => match item_errors(error).into_iter().next() {
                Some(error) => Self::parameter(error.field, error.detail),
                None => Self::from_store(error),
            },
            ReadError::Internal(detail) => Self::internal(*detail),
        }
    }
}

/// The faults of an [`StoreError::Invalid`].
pub(crate) fn item_errors(error: &StoreError) -> Vec<ItemError> {
    let StoreError::Invalid(faults) = error else { return Vec::new() };
    let item = |fault: &aggregator_core::Fault| ItemError {
        index: fault.index,
        field: fault.error.field.into(),
        detail: fault.error.reason.clone(),
    };
    faults.iter().map(item).collect()
}
