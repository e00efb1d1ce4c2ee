//! What can go wrong, by what the caller can do about it.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use crate::retry::{AttemptError, Retry};

/// The longest piece of a server's own words that is shown in an error's text. The [`Problem`] has all of it.
const MAX_SHOWN_CHARS: usize = 300;

/// Why a call failed.
///
/// What can be retried was retried before a call returns this: see [`Error::GaveUp`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The payload of an event is not JSON, or cannot be written as JSON.
    #[error("payload is not JSON: {0}")]
    Payload(#[source] serde_json::Error),
    /// The batch is larger than the client sends. Nothing was sent.
    #[error(
        "the batch has {size} {what}, {limit} is the limit: send it in several calls, for example with chunks(), or raise \
         {option} of the client and the limit of the server"
    )]
    TooLarge {
        /// What is counted: `events`, `identities` or `bytes`.
        what: &'static str,
        /// How much there is of it.
        size: usize,
        /// How much is allowed.
        limit: usize,
        /// The limit's name, in [`Builder`](crate::Builder).
        option: &'static str,
    },
    /// No connection was made.
    #[error("no connection to {url}: {reason}")]
    Connect {
        /// Where to.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke before the reply was complete. Whether the server did what was asked is unknown.
    #[error("the connection to {url} broke before its reply was complete: {reason}")]
    Reset {
        /// Where to.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// No complete reply came in time. Whether the server did what was asked is unknown.
    #[error("no reply from {url} within {limit:?}")]
    Timeout {
        /// Where to.
        url: String,
        /// How long it had.
        limit: Duration,
    },
    /// The server answered with another status than 2xx.
    #[error("{}", refusal(*status, url, problem, *retry_after))]
    Refused {
        /// The status.
        status: StatusCode,
        /// What was asked, without its query.
        url: String,
        /// What the server says about it.
        problem: Box<Problem>,
        /// How long the server asks the client to wait.
        retry_after: Option<Duration>,
    },
    /// Retention removed events behind the cursor (410). Reading goes on from `oldest`: it skips no event that is
    /// still stored.
    #[error(
        "events behind the cursor were removed by retention: read on after the cursor `oldest`, which skips nothing \
         that is still stored"
    )]
    Purged {
        /// The cursor to go on with, for [`Query::after`](crate::Query::after).
        oldest: String,
        /// What the server says about it.
        problem: Box<Problem>,
    },
    /// The reply is longer than the client reads.
    #[error(
        "the reply from {url} is longer than {limit} bytes: ask for less at a time, or raise max_reply_bytes of the client"
    )]
    ReplyTooLong {
        /// What was asked, without its query.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// One event of a stream is longer than the client reads.
    #[error(
        "the stream from {url} has an event of more than {limit} bytes: raise max_reply_bytes of the client"
    )]
    EventTooLong {
        /// What was asked, without its query.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// The reply is complete, and not what an aggregator sends.
    #[error("the reply from {url} is not what an aggregator sends: {detail}. Is this the URL of one?")]
    BadReply {
        /// What was asked, without its query.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Many pages in a row left the cursor where it was, although the server says that there is more.
    #[error("{pages} pages in a row left the cursor where it was, but the server says that there is more")]
    Stuck {
        /// How many.
        pages: u32,
    },
    /// The call was retried up to the limits of the [`Backoff`](crate::Backoff), and the last attempt failed as well.
    #[error("gave up after {attempts} {}; the last one ended with: {last}", if *attempts == 1 { "attempt" } else { "attempts" })]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt failed.
        #[source]
        last: Box<Self>,
    },
}

impl AttemptError for Error {
    /// Allowed after a failed connection, a timeout, 408, 429 and 5xx. Never after any other 4xx, after 501 and 505, and
    /// where the server says `"retryable":false`.
    fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } | Self::Reset { .. } | Self::Timeout { .. } => {
                Retry::Allowed { after: None }
            }
            Self::Refused { status, problem, retry_after, .. }
                if may_pass(*status) && problem.retryable != Some(false) =>
            {
                Retry::Allowed { after: *retry_after }
            }
            _ => Retry::Never,
        }
    }
}

/// Whether the same request may get another answer later.
fn may_pass(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        _ => status.is_server_error(),
    }
}

/// What a server says about an error: problem details (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Problem {
    /// The name of the kind, which never changes, such as `urn:aggregator:problem:queue-full`. Empty where the reply
    /// had no problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind, for people.
    pub title: String,
    /// What happened this time.
    pub detail: String,
    /// Whether the same request can succeed later, in the server's own opinion.
    pub retryable: Option<bool>,
    /// What is wrong with single events or parameters.
    pub errors: Vec<ItemError>,
    /// The cursor to go on from, if the reader's cursor has expired.
    pub oldest: Option<String>,
    /// The name of the request in the server's log.
    pub request_id: Option<String>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ItemError {
    /// Which event of the batch, from 0; missing for a parameter.
    pub index: Option<usize>,
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Problem {
    /// Reads the body of a reply. If that is not a problem, all fields are empty.
    pub(crate) fn of(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// As much of a server's own words as an error shows, on one line.
pub(crate) fn shown(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
}

/// One line that names the status, what the server says, and the way out where the server says nothing.
fn refusal(status: StatusCode, url: &str, problem: &Problem, retry_after: Option<Duration>) -> String {
    let said = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
    let mut line = format!("{url} answered {status}");
    if let Some(after) = retry_after {
        line += &format!(" (Retry-After: {} s)", after.as_secs());
    }
    if !said.is_empty() {
        line += ": ";
        line += &shown(said);
    } else if !status.is_server_error() {
        line += ", and not in the words of an aggregator. Is this the URL of one?";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Error {
        Error::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            url: "http://host/publish".to_owned(),
            problem: Box::new(Problem::of(body.as_bytes())),
            retry_after: Some(Duration::from_secs(3)),
        }
    }

    #[test]
    fn what_may_pass_is_retried_and_nothing_else() {
        let after = Some(Duration::from_secs(3));
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(refused(status, "").retry(), Retry::Allowed { after }, "{status}");
        }
        for status in [302, 400, 401, 403, 404, 409, 410, 413, 415, 422, 501, 505] {
            assert_eq!(refused(status, r#"{"retryable":true}"#).retry(), Retry::Never, "{status}");
        }
        assert_eq!(refused(503, r#"{"retryable":false}"#).retry(), Retry::Never);
    }

    #[test]
    fn a_refusal_says_what_the_server_said_and_else_that_the_url_may_be_wrong() {
        let told = refused(422, r#"{"title":"Invalid input","detail":"event 0: topic is empty"}"#);
        assert_eq!(
            told.to_string(),
            "http://host/publish answered 422 Unprocessable Entity (Retry-After: 3 s): event 0: topic is empty"
        );
        assert!(refused(404, "<html>").to_string().ends_with("Is this the URL of one?"));
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(5000));
        assert!(refused(400, &long).to_string().len() < 500);
    }
}
